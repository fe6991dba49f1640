"""The dispatcher routes by profile, adopts before it starts, and takes no silence for an end."""

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from jupyterhub import orm
from jupyterhub.spawner import Spawner, SpawnException
from traitlets.config import Config

from spawners.dispatch import DispatchSpawner
from spawners.profiles import Backend, Profiles
from spawners.session_traits import RunningSession, SessionTraits, StopOrder, StopUnconfirmedError
from tests.unit.spawners.test_profiles import profile

CATALOGUE = Profiles(
    (profile(), profile(id="big", backend=Backend.CONTAINER), profile(id="hpc", backend=Backend.SLURM))
)
OPTIONS = {"project": "p1", "profile": "gpu1", "runtime_s": 600}


class FakeDelegate(SessionTraits, Spawner):  # type: ignore[misc]  # traitlets boundary
    """Runs sessions in memory, by user; `running` outlives the objects as a real backend's sessions do."""

    backend = Backend.LOCAL
    running: ClassVar[dict[tuple[Backend, str], RunningSession]] = {}  # stands for the world outside
    status: int | None = None

    async def find_running(self) -> RunningSession | None:
        return self.running.get((self.backend, self.user.name))

    def adopt(self, running: RunningSession) -> None:
        self.hold_id = running.hold_id
        self.set_trait("api_token", f"token of {running.hold_id}")

    async def start(self) -> tuple[str, int]:
        if await self.find_running() is None:
            self.running[self.backend, self.user.name] = RunningSession(self.hold_id, self.resource_request.profile)
        return "127.0.0.1", 4321

    async def poll(self) -> int | None:
        return self.status if (self.backend, self.user.name) in self.running else 7

    async def stop(self, now: bool = False) -> None:
        del self.running[self.backend, self.user.name]

    def get_state(self) -> dict[str, Any]:
        return {"hold_id": self.hold_id}

    def load_state(self, state: dict[str, Any]) -> None:
        self.hold_id = state["hold_id"]


class FakeContainers(FakeDelegate):
    backend = Backend.CONTAINER


class Unstoppable(FakeDelegate):
    async def stop(self, now: bool = False) -> None:
        raise StopUnconfirmedError("its end was not seen")


class UnstoppableContainers(Unstoppable):
    backend = Backend.CONTAINER


@pytest.fixture(autouse=True)
def _empty_world() -> None:
    FakeDelegate.running.clear()


def dispatcher(config: Config | None = None, **traits: Any) -> DispatchSpawner:
    return DispatchSpawner(
        user=SimpleNamespace(name="ada"),
        profiles=CATALOGUE,
        delegates={Backend.LOCAL: FakeDelegate, Backend.CONTAINER: FakeContainers},
        config=config or Config(),
        **traits,
    )


async def started(options: dict[str, object], hold_id: str = "h1") -> DispatchSpawner:
    """What JupyterHub's User.spawn does, in its order."""

    def admit(spawner: DispatchSpawner) -> None:
        spawner.hold_id = hold_id

    spawner = dispatcher(pre_spawn_hook=admit)
    spawner.clear_state()
    await spawner._run_apply_user_options(options)
    await spawner.run_pre_spawn_hook()
    assert await spawner.start() == ("127.0.0.1", 4321)
    return spawner


@pytest.mark.parametrize(("profile_id", "backend"), [("gpu1", Backend.LOCAL), ("big", Backend.CONTAINER)])
async def test_a_session_starts_on_its_profiles_backend_and_says_so_in_its_state(
    profile_id: str, backend: Backend
) -> None:
    spawner = await started({**OPTIONS, "profile": profile_id})
    assert FakeDelegate.running == {(backend, "ada"): RunningSession("h1", profile_id)}
    assert spawner.get_state() == {"backend": str(backend), "profile": profile_id, "child": {"hold_id": "h1"}}
    assert await spawner.poll() is None


async def test_saved_state_finds_its_backend_again() -> None:
    state = (await started({**OPTIONS, "profile": "big"})).get_state()
    again = dispatcher()
    again.load_state(state)
    assert again.hold_id == "h1"
    assert await again.poll() is None
    await again.stop()
    assert FakeDelegate.running == {}


async def test_without_state_a_running_session_is_adopted_from_whichever_backend_has_it() -> None:
    await started({**OPTIONS, "profile": "big"}, "h7")
    again = dispatcher()
    again.load_state({})
    assert await again.poll() is None
    assert (again.hold_id, again.api_token) == ("h7", "token of h7")
    assert again.get_state()["backend"] == "container"


@pytest.mark.parametrize("profile_id", ["gpu1", "big"])
async def test_a_session_whose_stop_failed_and_that_was_forgotten_is_found_and_stopped_without_a_start(
    profile_id: str,
) -> None:
    """What JupyterHub's User.stop does to a spawner whose stop raises, and what an order after that finds (hub.enforcement)."""
    spawner = await started({**OPTIONS, "profile": profile_id}, "h7")
    spawner.delegates = {Backend.LOCAL: Unstoppable, Backend.CONTAINER: UnstoppableContainers}
    spawner.load_state(spawner.get_state())
    with pytest.raises(StopUnconfirmedError):
        await spawner.stop()
    spawner.clear_state()
    again = dispatcher()
    assert await again.adopt_running() == RunningSession("h7", profile_id)
    assert (again.hold_id, again.api_token, await again.poll()) == ("h7", "token of h7", None)
    again.stop_order = StopOrder("idle", 5)
    await again.stop()
    assert FakeDelegate.running == {}
    assert await again.adopt_running() is None


async def test_a_start_over_a_running_session_adopts_it_and_asks_for_no_second_hold() -> None:
    await started(OPTIONS, "h1")
    again = await started({**OPTIONS, "profile": "big"}, "h2")
    assert again.hold_id == "h1"
    assert FakeDelegate.running == {(Backend.LOCAL, "ada"): RunningSession("h1", "gpu1")}


async def test_a_spawner_that_knows_nothing_and_finds_nothing_is_stopped() -> None:
    assert await dispatcher().poll() == 0


async def test_a_state_whose_backend_is_not_configured_is_still_running() -> None:
    spawner = dispatcher()
    spawner.load_state({"backend": "slurm", "profile": "hpc", "child": {"job": 1}})
    assert await spawner.poll() is None
    with pytest.raises(StopUnconfirmedError):
        await spawner.stop()


class UnreadableDelegate(FakeDelegate):
    async def find_running(self) -> RunningSession | None:
        raise PermissionError("no look at the data folder")


async def test_what_cannot_be_looked_up_is_still_running_and_no_stop_is_claimed() -> None:
    spawner = dispatcher()
    spawner.delegates = {Backend.LOCAL: UnreadableDelegate}
    assert await spawner.poll() is None
    with pytest.raises(StopUnconfirmedError):
        await spawner.stop()


@pytest.mark.parametrize("state", [{"backend": 3}, {"backend": "local"}, {"backend": "local", "child": []}, {"pid": 4}])
async def test_a_state_without_sense_counts_as_none(state: dict[str, Any]) -> None:
    spawner = dispatcher()
    spawner.load_state(state)
    assert await spawner.poll() == 0


@pytest.mark.parametrize(
    ("options", "reason", "text"),
    [
        ({}, "invalid_missing", "project"),
        ({**OPTIONS, "cmd": "sh"}, "invalid_unknown_key", "cmd"),
        ({**OPTIONS, "runtime_s": True}, "invalid_wrong_type", "runtime_s"),
        ({**OPTIONS, "profile": "hpc"}, "backend_unavailable", "slurm"),
    ],
)
async def test_a_start_that_cannot_be_is_refused_with_its_reason_before_any_hook(
    options: dict[str, object], reason: str, text: str
) -> None:
    hook_ran: list[object] = []
    spawner = dispatcher(pre_spawn_hook=hook_ran.append)
    await spawner._run_apply_user_options(options)
    with pytest.raises(SpawnException) as caught:
        await spawner.run_pre_spawn_hook()
    assert caught.value.reason == reason
    assert text in caught.value.message
    assert caught.value.jupyterhub_message == caught.value.message
    assert hook_ran == []
    with pytest.raises(SpawnException):
        await spawner.start()


async def test_nothing_of_one_session_reaches_the_next() -> None:
    spawner = await started(OPTIONS)
    spawner.session_environment, spawner.deadline_ms = {"KEY": "x"}, 5
    await spawner.stop()
    spawner.clear_state()
    assert (spawner.hold_id, spawner.session_environment, spawner.deadline_ms) == ("", {}, 0)
    assert spawner.resource_request is None
    assert spawner.get_state() == {}


async def test_a_delegate_gets_what_admission_set_and_keeps_its_own_configuration() -> None:
    config = Config()
    config.FakeDelegate.cmd = ["own-command"]
    spawner = dispatcher(config)
    spawner.hold_id, spawner.session_environment, spawner.data_folder = "h1", {"KEY": "x"}, "/data"
    child = spawner._make_child(Backend.LOCAL)
    assert (child.hold_id, child.session_environment, child.data_folder) == ("h1", {"KEY": "x"}, "/data")
    assert child.user is spawner.user
    assert child.cmd == ["own-command"]


async def test_the_pending_page_hears_of_admission_first_and_then_of_the_delegate() -> None:
    spawner = await started(OPTIONS)
    assert [event["progress"] async for event in spawner.progress()] == [10, 50]


async def test_what_jupyterhub_writes_at_the_end_of_a_start_waits_for_its_turn() -> None:
    done: list[str] = []

    class Told(FakeDelegate):
        async def start(self) -> tuple[str, int]:
            done.append("listens")
            return await super().start()

    async def turn() -> None:
        done.append("turn")

    spawner = dispatcher(turn=turn)
    spawner.delegates = {Backend.LOCAL: Told}
    await spawner._run_apply_user_options(OPTIONS)
    await spawner.run_pre_spawn_hook()
    await spawner.start()
    assert done == ["listens", "turn"]


async def test_the_credential_of_a_session_that_nobody_takes_up_again_opens_nothing_any_more() -> None:
    db = orm.new_session_factory("sqlite:///:memory:")()
    db.add(orm.OAuthClient(identifier="jupyterhub"))
    user = orm.User(name="ada")
    db.add(user)
    db.commit()
    for credential in ("of the old session", "of another one"):
        token = orm.APIToken(generated=True, client_id="jupyterhub", scopes=[], user=user)
        token.token = credential
        db.add(token)
        db.commit()
    spawner = dispatcher(db=db)
    spawner._make_child(Backend.LOCAL).end_credential("of the old session")
    spawner._make_child(Backend.LOCAL).end_credential("")  # a job that only its label tells of
    assert orm.APIToken.find(db, "of the old session") is None
    assert orm.APIToken.find(db, "of another one") is not None
