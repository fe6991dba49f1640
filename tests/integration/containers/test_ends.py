"""A session that ended is told with its status and last lines in every order: the portal may remove its container at any moment."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from jupyterhub.spawner import SpawnException

from quota.adapters.engine_evidence import EngineEvidence
from quota.domain.ids import HoldId
from spawners import container_spec as spec
from spawners.container import GPUContainerSpawner
from spawners.container_engine import HelperCalls
from spawners.engine_sessions import Verdict
from spawners.session_ends import KEPT_S, SessionEnd
from tests.engine.sessions import Sessions

LOOKS: Final = ("first_word", "inspect", "end_of")  # what a start asks the helper of its session, in this order


class LateCalls(HelperCalls):
    """Calls whose first question of one kind comes after `meanwhile`, as a busy hub's does."""

    late = ""
    meanwhile: Callable[[], None]

    def first_word(self, hold_id: str, within_s: float) -> Verdict:
        self._come_late("first_word")
        return super().first_word(hold_id, within_s)

    def inspect(self, name: str) -> dict[str, Any] | None:
        self._come_late("inspect")
        return super().inspect(name)

    def end_of(self, hold_id: str) -> SessionEnd | None:
        self._come_late("end_of")
        return super().end_of(hold_id)

    def _come_late(self, look: str) -> None:
        if look == self.late:
            self.late = ""
            self.meanwhile()


class LateSpawner(GPUContainerSpawner):
    """A spawner that asks late; `hears=False`: nothing is ever heard of its notebook."""

    calls: Any = None
    hears = True

    @property
    def helper(self) -> Any:
        return self.calls

    async def _listens(self) -> bool:
        return self.hears and await super()._listens()


def fresh() -> str:
    return uuid4().hex


def remove(sessions: Sessions, hold_id: str) -> None:
    """Remove a container as the quota service does once its hold is closed, after its end."""

    async def closed(hold_id: HoldId) -> bool:
        return True

    sessions.client.api.wait(spec.container_name(hold_id), timeout=60)
    evidence = EngineEvidence(sessions.site.helper, closed)
    asyncio.run(evidence.settled([HoldId(hold_id)]))
    assert sessions.container(hold_id) is None


def late(sessions: Sessions, hold_id: str, look: str, **traits: Any) -> LateSpawner:
    """A spawner whose container is removed right before it asks `look` for the first time."""
    spawner: LateSpawner = sessions.spawner(hold_id, profile="cpu", kind=LateSpawner, **traits)
    spawner.calls = LateCalls(str(sessions.site.helper), str(sessions.site.keeper))
    spawner.calls.meanwhile = lambda: remove(sessions, hold_id)
    spawner.calls.late = look
    return spawner


async def refusal_of(spawner: Any) -> tuple[str, str, str]:
    with pytest.raises(SpawnException) as refused:
        await spawner.start()
    return refused.value.reason, refused.value.jupyterhub_message, refused.value.jupyterhub_html_message


@pytest.mark.parametrize("look", LOOKS)
async def test_a_session_that_dies_early_is_told_whichever_question_comes_after_its_removal(
    sessions: Sessions, look: str
) -> None:
    hold_id = fresh()
    spawner = late(sessions, hold_id, look, program="broken")
    reason, message, html = await refusal_of(spawner)
    assert spawner.calls.late == ""  # it was removed before that question
    assert reason == "ended_early"
    assert "status 3" in message
    assert "nothing is charged" in message
    assert html.endswith(">no licence</pre>")
    assert await spawner.poll() == 3


def hang(sessions: Sessions, hold_id: str) -> Path:
    """Have a container's removal fail halfway, as on a busy disk; the file that is in its way."""
    found = sessions.container(hold_id)
    assert found is not None
    file = sessions.site.engine.home / "data" / "containers" / str(found["Id"]) / "stuck"
    file.touch()
    subprocess.run(["chattr", "+i", str(file)], check=True, timeout=10)
    with sessions.site.http() as helper:
        assert helper.delete(f"/containers/cc-{hold_id}").status_code == 503
    return file


def free(file: Path) -> None:
    subprocess.run(["chattr", "-i", str(file)], check=True, timeout=10)


async def test_a_session_whose_removal_hangs_is_told_and_holds_up_nobody_else(sessions: Sessions) -> None:
    """A container's removal takes a while, and may fail: its log cannot be read from its beginning on."""
    hold_id = fresh()
    spawner = late(sessions, hold_id, "end_of", program="broken")
    hung: list[Path] = []
    spawner.calls.meanwhile = lambda: hung.append(hang(sessions, hold_id))
    try:
        _, message, html = await refusal_of(spawner)
        assert sessions.container(hold_id) is not None
        assert "status 3" in message
        assert html.endswith(">no licence</pre>")
        assert sessions.site.sessions()[hold_id]["never_started"]
        other = sessions.spawner(fresh(), server="other")
        await other.start()
        await other.stop()
    finally:
        for file in hung:
            await asyncio.to_thread(free, file)
    await asyncio.to_thread(remove, sessions, hold_id)
    assert await spawner.poll() == 3


async def test_a_session_that_took_too_long_is_told_after_its_removal_too(sessions: Sessions) -> None:
    spawner = late(sessions, fresh(), "end_of")
    spawner.hears = False
    spawner.containers = spawner.containers.model_copy(update={"start_deadline": 1})
    reason, message, html = await refusal_of(spawner)
    assert spawner.calls.late == ""
    assert reason == "too_slow"
    assert "within 1 s" in message
    assert html.endswith(">stub: polite</pre>")


async def test_a_session_that_was_killed_and_removed_ended_with_its_status_and_its_lines_stay_its_own(
    sessions: Sessions,
) -> None:
    hold_id = fresh()
    spawner = sessions.spawner(hold_id, profile="cpu")
    await spawner.start()
    sessions.client.api.kill(spec.container_name(hold_id))
    await asyncio.to_thread(remove, sessions, hold_id)
    assert await spawner.poll() == 137
    with sessions.site.http() as helper:
        assert helper.get(f"/commons/sessions/{hold_id}/end").json() == {"exit_status": 137, "lines": []}


async def test_a_helper_that_was_restarted_still_tells_and_nothing_else_of_the_session_stays(
    sessions: Sessions,
) -> None:
    hold_id = fresh()
    await refusal_of(sessions.spawner(hold_id, profile="cpu", program="broken"))
    await asyncio.to_thread(remove, sessions, hold_id)
    sessions.site.stop_helper()
    await asyncio.to_thread(sessions.site.start_helper)
    assert await sessions.spawner(hold_id, profile="cpu").poll() == 3
    left = [path.name for path in sessions.site.state.rglob(f"{hold_id}*")]
    assert left == [f"{hold_id}.json"]
    kept = sessions.site.state / "ends" / f"{hold_id}.json"
    assert kept.stat().st_mode & 0o077 == 0
    assert sessions.client.networks.list(names=[spec.network_name(hold_id)]) == []


async def test_a_container_that_somebody_removed_by_force_has_no_status_made_up(sessions: Sessions) -> None:
    hold_id = fresh()
    spawner = late(sessions, hold_id, "inspect")
    spawner.hears = False
    spawner.calls.meanwhile = lambda: sessions.client.api.remove_container(spec.container_name(hold_id), force=True)
    reason, message, _ = await refusal_of(spawner)
    assert reason == "removed"
    assert "status" not in message


def test_an_end_is_told_of_what_has_ended_and_of_no_other_name(sessions: Sessions) -> None:
    hold_id = fresh()
    asyncio.run(sessions.spawner(hold_id, profile="cpu").start())
    with sessions.site.http() as helper:
        for name in (hold_id, fresh(), "..%2Fsessions", "x" * 65):
            assert helper.get(f"/commons/sessions/{name}/end").status_code == 404, name
    assert KEPT_S >= 600  # longer than any start's own patience and than the hub's look at what runs
