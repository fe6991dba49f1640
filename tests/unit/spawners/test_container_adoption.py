"""A container that this hub did not start: taken over with its address and credential, and ended by its hold alone."""

from types import SimpleNamespace
from typing import Any

import pytest

from spawners import container_spec as spec
from spawners.container import GPUContainerSpawner
from spawners.delegate import BackendUnreachable
from spawners.session_ends import SessionEnd
from spawners.session_traits import RunningSession, StopOrder, StopUnconfirmedError

HOLD = "0123456789abcdef0123456789abcdef"


class Engine:
    """The helper's calls, over one container in memory; `away` answers nothing, as a 503 of it does."""

    def __init__(self) -> None:
        self.status = "running"
        self.away = self.removed = False
        self.ended: list[tuple[str, str, int]] = []

    def of(self, user: str, server: str) -> list[dict[str, Any]]:
        self._answer()
        return [{"State": self.status, "Labels": {spec.HOLD: HOLD, spec.PROFILE: "big"}}]

    def inspect(self, name: str) -> dict[str, Any] | None:
        self._answer()
        if self.removed:
            return None
        networks = {spec.network_name(HOLD): {"IPAddress": "10.9.8.7"}}
        return {
            "Id": "container-1",
            "State": {"Status": self.status, "ExitCode": 0},
            "NetworkSettings": {"Networks": networks},
        }

    def end_of(self, hold_id: str) -> SessionEnd | None:
        self._answer()
        return SessionEnd(137, ()) if self.removed and hold_id == HOLD else None

    def api_token(self, hold_id: str) -> str:
        self._answer()
        return f"token of {hold_id}"

    def tell_ready(self, hold_id: str) -> None:
        self._answer()

    def end(self, hold_id: str, reason: str, grace_s: int, within_s: float) -> None:
        self._answer()
        self.ended.append((hold_id, reason, grace_s))
        self.status = "exited"

    def _answer(self) -> None:
        if self.away:
            raise BackendUnreachable("503")


class Contained(GPUContainerSpawner):
    """On an engine in memory, with a notebook that answers."""

    engine = Engine()

    @property
    def helper(self) -> Any:
        return self.engine

    async def _listens(self) -> bool:
        return True


@pytest.fixture
def engine() -> Engine:
    Contained.engine = Engine()
    return Contained.engine


def spawner() -> Contained:
    return Contained(user=SimpleNamespace(name="ada"), orm_spawner=SimpleNamespace(name="work", server=None))


async def test_a_stop_that_failed_is_done_by_a_spawner_that_knows_nothing(engine: Engine) -> None:
    first = spawner()
    first.adopt(RunningSession(HOLD, "big"))
    engine.away = True
    with pytest.raises(StopUnconfirmedError):
        await first.stop()
    with pytest.raises(BackendUnreachable):
        await spawner().find_running()
    engine.away = False
    again = spawner()
    running = await again.find_running()
    assert running == RunningSession(HOLD, "big")
    again.adopt(running)
    again.stop_order = StopOrder("idle", 5)
    await again.stop()
    assert engine.ended == [(HOLD, "idle", 5)]
    assert await again.poll() == 0


async def test_a_look_at_an_adopted_container_brings_the_credential_that_its_stop_revokes(engine: Engine) -> None:
    one = spawner()
    one.adopt(RunningSession(HOLD, "big"))
    assert await one.poll() is None
    assert (one.api_token, one._address) == (f"token of {HOLD}", "10.9.8.7")


async def test_a_container_of_ones_own_keeps_its_credential(engine: Engine) -> None:
    one = spawner()
    one.load_state({"hold_id": HOLD})
    one.api_token = "its own"
    assert await one.poll() is None
    assert one.api_token == "its own"


async def test_a_container_that_was_removed_before_the_look_ended_with_its_own_status(engine: Engine) -> None:
    one = spawner()
    one.adopt(RunningSession(HOLD, "big"))
    engine.removed = engine.away = True
    assert await one.poll() is None
    engine.away = False
    assert await one.poll() == 137
