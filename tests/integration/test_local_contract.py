"""Local sessions keep the contract of delegates; the truth outside is the process table and the session's folder."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spawners import processes, records
from spawners.local import LocalSpawner
from spawners.session_traits import HOLD_VARIABLE
from tests.delegate_contract import BackendUnderTest, DelegateContract
from tests.integration.test_local_runner import FOREVER
from tests.integration.test_local_spawner import Hub
from tests.killed import kill_sessions
from tests.waiting import PATIENCE_S, until

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
PROGRAMS = {"polite": FOREVER, "deaf": DEAF, "broken": "print('no licence'); raise SystemExit(3)"}


class LocalUnderTest:
    within_s: float = PATIENCE_S
    deadline_grain_ms = 0

    def __init__(self, data: Path) -> None:
        self._hub = Hub(data)
        self._sessions = data / "sessions"

    def hold_id(self, name: str = "first") -> str:
        return f"hold-{name}"

    def spawner(self, hold_id: str, *, user: str = "ada", server: str = "work", program: str = "polite") -> Any:
        spawner = self._hub.spawner(hold_id, PROGRAMS[program], _Ready)
        spawner.user.name = user
        spawner.orm_spawner.name = server
        return spawner

    def impatient(self, spawner: Any) -> Any:
        spawner.stop_margin_s = 0
        return spawner

    async def runs(self, hold_id: str) -> bool:
        return processes.any_marked(HOLD_VARIABLE, hold_id)

    async def kill(self, hold_id: str) -> None:
        record = records.read(self._sessions / hold_id)
        processes.send_signal(record.child_pid, processes.stat(record.child_pid).started_ticks, signal.SIGKILL)  # type: ignore[union-attr]

    @asynccontextmanager
    async def dark(self) -> AsyncIterator[None]:
        away = self._sessions.with_name("away")
        self._sessions.rename(away)
        self._sessions.write_text("")  # what lies in it cannot be read: no directory
        try:
            yield
        finally:
            self._sessions.unlink()
            away.rename(self._sessions)

    async def deadline_ms(self, hold_id: str) -> int:
        return records.read_deadline_ms(self._sessions / hold_id) or 0

    async def stop_reason(self, hold_id: str) -> str | None:
        return records.read(self._sessions / hold_id).stop_reason

    def end(self) -> None:
        kill_sessions(self._sessions.parent)
        for spawner in self._hub.spawners:
            if spawner._runner is not None:
                spawner._runner.kill()
                spawner._runner.wait()


class _Ready(LocalSpawner):
    """Waits, like a real start, until the program has set itself up; a stop may come at once in these tests."""

    async def start(self) -> tuple[str, int]:
        address = await super().start()
        if "SIG_IGN" in "".join(self.cmd):
            log = self._folder / records.LOG
            await asyncio.to_thread(until, log.read_text, what="it says that it hears nothing")
        return address


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BackendUnderTest]:
    under_test = LocalUnderTest(tmp_path)
    yield under_test
    under_test.end()


class TestLocal(DelegateContract):
    """Every rule, on processes of this machine."""
