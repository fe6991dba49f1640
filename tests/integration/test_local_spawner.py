"""Local sessions over the spawner, without a hub: started, adopted, stopped and judged with real processes."""

import asyncio
import dataclasses
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.spawner import SpawnException

from spawners import local, processes, records
from spawners.delegate import DeadlineRefused
from spawners.local import LocalSpawner
from spawners.local_index import home_name
from spawners.records import EndReason, Order, SessionRecord
from spawners.resources import ResourceRequest
from spawners.session_traits import HOLD_VARIABLE
from spawners.settings import load
from tests.integration.test_local_runner import DEAF, FOREVER, GARBAGE, ROOT, WITH_KERNEL, gone, now_ms
from tests.killed import kill_sessions
from tests.waiting import PATIENCE_S, until


class Hub:
    """What a spawner asks of the hub's objects."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.spawners: list[LocalSpawner] = []

    def spawner(
        self, hold_id: str = "h1", code: str = FOREVER, kind: type[LocalSpawner] = LocalSpawner, **traits: Any
    ) -> LocalSpawner:
        spawner = kind(
            user=SimpleNamespace(name="ada", url="/user/ada/", escaped_name="ada"),
            hub=SimpleNamespace(public_host="", api_url="http://127.0.0.1:1/hub/api", base_url="/hub/"),
            orm_spawner=SimpleNamespace(name="work", display_name="work", server=None),
            data_folder=str(self.data),
            hold_id=hold_id,
            api_token="token-of-the-first",
            cmd=[sys.executable, "-c", code],
            resource_request=ResourceRequest("p1", "gpu1", "lab", 600),
            **traits,
        )
        self.spawners.append(spawner)
        return spawner

    def record(self, hold_id: str = "h1") -> SessionRecord:
        return records.read(self.data / "sessions" / hold_id)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    one = Hub(tmp_path)
    yield one
    kill_sessions(tmp_path)
    for spawner in one.spawners:
        if spawner._runner is not None:
            spawner._runner.kill()
            spawner._runner.wait()


async def test_a_session_starts_runs_and_stops_for_certain(hub: Hub) -> None:
    spawner = hub.spawner(code=WITH_KERNEL)
    assert await spawner.poll() == 0
    address = await spawner.start()
    record = hub.record()
    assert address == ("127.0.0.1", record.port)
    assert await spawner.poll() is None
    assert spawner.get_state() == {"hold_id": "h1"}
    order = records.read_order(hub.data / "sessions" / "h1")
    assert (order.user, order.server_name, order.profile, order.runtime_ms) == ("ada", "work", "gpu1", 600_000)
    assert f"--port={record.port}" in order.argv
    log = hub.data / "sessions" / "h1" / records.LOG
    kernel_pid = int(until(log.read_text, what="the session says its kernel's pid"))
    await spawner.stop()
    assert hub.record().end_reason is EndReason.STOPPED
    assert await spawner.poll() == -signal.SIGTERM
    assert gone(kernel_pid)
    assert gone(record.runner_pid)


async def test_a_sessions_kernels_have_a_folder_of_their_own_that_goes_with_it(hub: Hub) -> None:
    spawner = hub.spawner()
    await spawner.start()
    folder = with_a_socket(records.read_order(hub.data / "sessions" / "h1"))
    assert processes.environment(hub.record().child_pid)["JUPYTER_RUNTIME_DIR"] == str(folder)
    await spawner.stop()
    assert not await asyncio.to_thread(folder.exists)


def with_a_socket(order: Order) -> Path:
    folder = Path(order.kernels_folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(f"{folder}/kernel-{uuid.uuid4()}-ipc-5") <= 107  # unix(7)
    assert "--KernelManager.transport=ipc" in order.argv
    (folder / "kernel-1-ipc-1").touch()
    return folder


async def test_a_hub_that_saved_no_state_adopts_what_runs_with_its_token(hub: Hub) -> None:
    address = await hub.spawner().start()
    again = hub.spawner(hold_id="")
    again.clear_state()
    assert await again.poll() is None
    assert (again.hold_id, again.port, again.api_token) == ("h1", address[1], "token-of-the-first")
    assert again.get_state() == {"hold_id": "h1"}


async def test_a_second_start_under_the_same_name_adopts_and_starts_nothing(hub: Hub) -> None:
    first = await hub.spawner("h1").start()
    again = hub.spawner("h2")
    assert await again.start() == first
    assert again.hold_id == "h1"
    assert [folder.name for folder in (hub.data / "sessions").iterdir()] == ["h1"]


async def test_another_server_name_or_person_is_not_adopted(hub: Hub) -> None:
    await hub.spawner("h1").start()
    other = hub.spawner("h2")
    other.orm_spawner = SimpleNamespace(name="other", display_name="", server=None)
    assert await other.poll() == 0
    stranger = hub.spawner("h3")
    stranger.user = SimpleNamespace(name="ad", url="/user/ad/", escaped_name="ad")
    assert await stranger.poll() == 0


async def test_an_unreadable_record_is_still_running(hub: Hub) -> None:
    spawner = hub.spawner()
    await spawner.start()
    record = hub.record()
    path = hub.data / "sessions" / "h1" / records.RECORD
    for garbage in GARBAGE:
        path.write_text(garbage, encoding="latin-1")
        assert await spawner.poll() is None
    records.write_record(path.parent, record)
    assert await spawner.poll() is None


async def test_a_saved_session_whose_folder_is_missing_is_still_running(hub: Hub) -> None:
    spawner = hub.spawner(hold_id="")
    spawner.load_state({"hold_id": "h9"})
    assert await spawner.poll() is None


async def test_a_saved_id_that_is_no_plain_name_is_ignored(hub: Hub) -> None:
    spawner = hub.spawner(hold_id="")
    spawner.load_state({"hold_id": "../h1"})
    assert await spawner.poll() == 0


async def test_what_a_killed_runner_left_is_cleared_away_when_the_hub_looks(hub: Hub) -> None:
    spawner = hub.spawner(code=WITH_KERNEL)
    await spawner.start()
    log = hub.data / "sessions" / "h1" / records.LOG
    kernel_pid = int(until(log.read_text, what="the session says its kernel's pid"))
    record = hub.record()
    processes.send_signal(record.runner_pid, record.runner_started, signal.SIGKILL)
    await asyncio.to_thread(until, lambda: not records.is_alive(record), what="the runner is gone")
    assert await spawner.poll() == 0
    await asyncio.to_thread(until, lambda: gone(kernel_pid), what="the kernel is gone")
    assert not await asyncio.to_thread(Path(records.read_order(log.parent).kernels_folder).exists)


async def test_a_session_keeps_no_secret_of_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["CONFIGPROXY_AUTH_TOKEN", "JUPYTERHUB_CRYPT_KEY", "COMMONS_DATA", "COMMONS_PORTAL_FILE"]
    for name in secrets:
        monkeypatch.setenv(name, "hub-secret")
    site = dict.fromkeys(secrets, "hub-secret") | {"OPENAI_BASE_URL": "site"}
    spawner = hub.spawner(environment=site, session_environment={"COMMONS_PROJECT": "p1", "OPENAI_API_KEY": "key"})
    await spawner.start()
    environment = processes.environment(hub.record().child_pid)
    assert "hub-secret" not in "".join(environment.values())
    assert environment["COMMONS_PROJECT"] == "p1"
    assert environment["OPENAI_API_KEY"] == "key"
    assert environment["HOME"] == str(hub.data / "homes" / "ada")
    assert environment["JUPYTERHUB_API_TOKEN"] == "token-of-the-first"
    assert "hub-secret" not in "".join(processes.environment(hub.record().runner_pid).values())
    assert "token-of-the-first" not in "".join(processes.environment(hub.record().runner_pid).values())


async def test_nothing_starts_without_a_hold_and_no_hold_pays_twice(hub: Hub) -> None:
    with pytest.raises(SpawnException, match="no_hold"):
        await hub.spawner("").start()
    spawner = hub.spawner("h1")
    await spawner.start()
    await spawner.stop()
    with pytest.raises(SpawnException, match="hold_used"):
        await hub.spawner("h1").start()


async def test_a_start_that_fails_before_its_runner_leaves_no_folder(hub: Hub) -> None:
    def broken(_spawner: LocalSpawner) -> str:
        raise RuntimeError("a site's own hook fails")

    with pytest.raises(RuntimeError):
        await hub.spawner(environment={"SITE": broken}).start()
    assert not (hub.data / "sessions" / "h1").exists()


async def test_a_program_that_cannot_be_run_is_a_refusal_and_not_a_session(hub: Hub) -> None:
    spawner = hub.spawner()
    spawner.cmd = ["/nowhere/program"]
    with pytest.raises(SpawnException, match="never_started"):
        await spawner.start()
    assert await spawner.poll() is not None
    assert hub.record().end_reason is EndReason.NEVER_STARTED


def test_a_child_whose_environment_is_gone_already_has_not_begun() -> None:
    """The kernel drops an environment before the process itself: seen as begun, a failed start was taken for a session."""
    leaving = subprocess.Popen(["/bin/sleep", "60"], env={})
    begun = subprocess.Popen(["/bin/sleep", "60"], env={HOLD_VARIABLE: "h1"})
    try:
        record = SessionRecord("h1", "ada", "work", 1, 1, processes.boot_id(), leaving.pid, 1, 1, 1)
        assert not local._has_begun(record)
        assert until(
            lambda: local._has_begun(dataclasses.replace(record, child_pid=begun.pid)), what="the child has begun"
        )
    finally:
        for process in (leaving, begun):
            process.kill()
            process.wait()


class OnFullDisk(LocalSpawner):
    """Its runners can write no record."""

    def _write_order(self, folder: Path, kernels_folder: str) -> None:
        super()._write_order(folder, kernels_folder)
        (folder / "record.json.tmp").mkdir()


async def test_a_start_whose_runner_fails_is_refused_and_leaves_no_folder(hub: Hub) -> None:
    spawner = hub.spawner(kind=OnFullDisk)
    with pytest.raises(SpawnException, match="never_started"):
        await spawner.start()
    assert await spawner.poll() == 0
    assert not (hub.data / "sessions" / "h1").exists()


async def test_a_deadline_set_by_admission_stops_the_session(hub: Hub) -> None:
    spawner = hub.spawner(deadline_ms=now_ms() + 8000)
    await spawner.start()
    await asyncio.to_thread(until, lambda: hub.record().ended, what="the session has ended")
    assert hub.record().end_reason is EndReason.DEADLINE
    assert await spawner.poll() == -signal.SIGTERM


async def test_a_session_that_was_told_to_end_takes_no_later_deadline(hub: Hub) -> None:
    spawner = hub.spawner(code=DEAF)
    await spawner.start()
    log = hub.data / "sessions" / "h1" / records.LOG
    await asyncio.to_thread(until, lambda: "deaf" in log.read_text(), what="the program is deaf")
    due_ms = now_ms() + 3000
    await spawner.set_deadline(due_ms)
    assert await spawner.poll() is None
    await asyncio.to_thread(until, lambda: now_ms() > due_ms, what="the deadline is over")
    with pytest.raises(DeadlineRefused):
        await spawner.set_deadline(now_ms() + 3_600_000)


@pytest.mark.parametrize(
    ("user", "folder"),
    [
        ("ada", "ada"),
        ("a.b@c.org", "a.b@c.org"),
        ("..", "%2E."),
        ("../x", "%2E.%2Fx"),
        (".ssh", "%2Essh"),
        ("李", "%E6%9D%8E"),
    ],
)
def test_a_home_folder_neither_climbs_nor_hides(user: str, folder: str) -> None:
    assert home_name(user) == folder


def test_the_portals_own_file_loads_and_says_that_its_gpus_are_simulated() -> None:
    catalogue = load(ROOT / "portal.toml").catalogue
    assert [(one.id, one.gpus) for one in catalogue] == [("cpu", 0), ("gpu1", 1), ("gpu2", 2), ("rescue", 0)]
    for profile in catalogue:
        assert profile.simulated == (profile.gpus > 0)
        assert ("simulated" in profile.title) == profile.simulated


def test_the_settings_check_names_what_is_wrong_and_exits_2(tmp_path: Path) -> None:
    file = tmp_path / "portal.toml"
    file.write_text("[profiles.cpu]\ncolour = 1\n")
    command = [sys.executable, "-m", "spawners.settings"]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env={"COMMONS_PORTAL_FILE": str(file)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert run.returncode == 2
    assert f"{file}: profiles.cpu.colour: unknown key" in run.stderr.splitlines()
