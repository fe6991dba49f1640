"""What every delegate has to keep (spawners.delegate): one suite of rules that each backend's tests run through.

A backend's test module defines the fixture `backend`, which gives a `BackendUnderTest`, and
`class TestLocal(DelegateContract): ...`. What the suite asks for is the truth outside the spawner: the process, the engine, squeue.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import pytest
from jupyterhub.spawner import SpawnException

from spawners.delegate import BackendUnreachable, DeadlineRefused
from spawners.session_traits import RunningSession, StopOrder, StopUnconfirmedError
from tests.waiting import eventually

HOUR_MS = 3_600_000


class BackendUnderTest(Protocol):
    """A backend with its session programs, as a test needs it. Hold ids are fresh for each test (`hold_id`)."""

    within_s: float  # how long a start or a stop may take here

    def hold_id(self, name: str = "first") -> str:
        """An id that no session of this backend had before; the same for the same name within a test."""

    def spawner(self, hold_id: str, *, user: str = "ada", server: str = "work", program: str = "polite") -> Any:
        """A fresh spawner object. Programs: `polite` ends on SIGTERM, `deaf` does not, `broken` prints "no licence" and exits 3."""

    def impatient(self, spawner: Any) -> Any:
        """The same spawner, giving up at once on a stop whose end it cannot see."""

    async def runs(self, hold_id: str) -> bool:
        """Whether the session's own program runs, by the backend's truth."""

    async def kill(self, hold_id: str) -> None:
        """End the session from outside, as a crash would."""

    def dark(self) -> AbstractAsyncContextManager[None]:
        """The backend cannot be asked meanwhile; sessions go on."""

    async def deadline_ms(self, hold_id: str) -> int:
        """The end of the session by the backend (and its watchdog: the earlier one), UTC ms; exact to the backend's own grain."""

    deadline_grain_ms: int

    async def stop_reason(self, hold_id: str) -> str | None:
        """The reason that the evidence of an ended session carries."""


def now_ms() -> int:
    return time.time_ns() // 10**6


class DelegateContract:
    """The rules."""

    async def until(self, backend: BackendUnderTest, look: Callable[[], Awaitable[bool]], what: str) -> None:
        await eventually(look, within_s=backend.within_s, what=what)

    async def test_a_session_starts_under_its_hold_runs_and_stops_for_certain(self, backend: BackendUnderTest) -> None:
        hold_id = backend.hold_id()
        spawner = backend.spawner(hold_id)
        assert await spawner.find_running() is None
        assert await spawner.start()
        assert await backend.runs(hold_id)
        assert await spawner.poll() is None
        await spawner.stop()
        assert not await backend.runs(hold_id)
        assert await spawner.poll() is not None

    async def test_a_hub_that_forgot_everything_finds_the_session_and_starts_no_second(
        self, backend: BackendUnderTest
    ) -> None:
        first, second = backend.hold_id(), backend.hold_id("second")
        await backend.spawner(first).start()
        found = await backend.spawner("").find_running()
        assert isinstance(found, RunningSession)
        assert found.hold_id == first
        again = backend.spawner(second)
        await again.start()
        assert again.hold_id == first
        assert not await backend.runs(second)
        await again.stop()
        assert not await backend.runs(first)

    async def test_another_persons_or_servers_session_is_not_found(self, backend: BackendUnderTest) -> None:
        await backend.spawner(backend.hold_id()).start()
        assert await backend.spawner("", server="other").find_running() is None
        assert await backend.spawner("", user="grace").find_running() is None

    async def test_saved_state_leads_back_to_the_session(self, backend: BackendUnderTest) -> None:
        hold_id = backend.hold_id()
        first = backend.spawner(hold_id)
        await first.start()
        again = backend.spawner("")
        again.load_state(first.get_state())
        assert await again.poll() is None
        assert again.hold_id == hold_id
        again.clear_state()
        assert again.hold_id == ""

    async def test_silence_of_the_backend_is_neither_an_end_nor_nothing(self, backend: BackendUnderTest) -> None:
        hold_id = backend.hold_id()
        spawner = backend.spawner(hold_id)
        await spawner.start()
        saved = backend.spawner("")
        saved.load_state(spawner.get_state())
        async with backend.dark():
            assert await spawner.poll() is None
            assert await saved.poll() is None
            with pytest.raises((BackendUnreachable, OSError)):
                await backend.spawner("").find_running()
            with pytest.raises((BackendUnreachable, OSError)):
                await spawner.set_deadline(now_ms() + HOUR_MS)
            assert await backend.runs(hold_id)
        assert await spawner.poll() is None

    async def test_a_stop_whose_end_cannot_be_seen_is_not_confirmed(self, backend: BackendUnderTest) -> None:
        hold_id = backend.hold_id()
        spawner = backend.spawner(hold_id)
        await spawner.start()
        spawner.stop_order = StopOrder("stopped", 1)
        async with backend.dark():
            with pytest.raises((StopUnconfirmedError, BackendUnreachable, OSError)):
                await backend.impatient(spawner).stop()
        assert spawner.get_state()["hold_id"] == hold_id  # not forgotten: its next stop or start finds it
        again = backend.spawner("")
        again.load_state(spawner.get_state())
        await again.stop()
        assert not await backend.runs(hold_id)

    async def test_a_session_that_was_forgotten_while_it_ran_is_stopped_by_its_backend_alone(
        self, backend: BackendUnderTest
    ) -> None:
        """As after a stop that failed: JupyterHub forgets the spawner, and the order comes again (hub.enforcement)."""
        hold_id = backend.hold_id()
        first = backend.spawner(hold_id)
        await first.start()
        first.stop_order = StopOrder("idle", 1)
        async with backend.dark():
            with pytest.raises((StopUnconfirmedError, BackendUnreachable, OSError)):
                await backend.impatient(first).stop()
        again = backend.spawner("")
        running = await again.find_running()
        if running is not None:  # None: it was told to end by that look, or by the first order after all
            again.adopt(running)
            assert again.hold_id == hold_id
            again.stop_order = StopOrder("idle", 5)
            await again.stop()

        async def over() -> bool:
            return not await backend.runs(hold_id)

        await self.until(backend, over, "the session has ended")

    async def test_an_end_from_outside_is_seen(self, backend: BackendUnderTest) -> None:
        hold_id = backend.hold_id()
        spawner = backend.spawner(hold_id)
        await spawner.start()
        await backend.kill(hold_id)

        async def over() -> bool:
            return await spawner.poll() is not None

        await self.until(backend, over, "poll sees the end")

    async def test_a_deadline_moves_later_and_earlier_and_is_idempotent(self, backend: BackendUnderTest) -> None:
        hold_id = backend.hold_id()
        spawner = backend.spawner(hold_id)
        await spawner.start()
        for wanted in (now_ms() + 3 * HOUR_MS, now_ms() + 3 * HOUR_MS, now_ms() + 2 * HOUR_MS):
            await spawner.set_deadline(wanted)
            assert abs(await backend.deadline_ms(hold_id) - wanted) <= backend.deadline_grain_ms

    async def test_a_session_that_is_over_refuses_a_deadline(self, backend: BackendUnderTest) -> None:
        spawner = backend.spawner(backend.hold_id())
        await spawner.start()
        await spawner.stop()
        with pytest.raises(DeadlineRefused):
            await spawner.set_deadline(now_ms() + HOUR_MS)

    async def test_a_stop_keeps_its_reason(self, backend: BackendUnderTest) -> None:
        hold_id = backend.hold_id()
        spawner = backend.spawner(hold_id)
        await spawner.start()
        spawner.stop_order = StopOrder("idle", 5)
        await spawner.stop()
        assert await backend.stop_reason(hold_id) == "idle"

    async def test_a_session_that_ignores_sigterm_is_killed_after_the_grace_and_not_before(
        self, backend: BackendUnderTest
    ) -> None:
        hold_id = backend.hold_id()
        spawner = backend.spawner(hold_id, program="deaf")
        await spawner.start()
        spawner.stop_order = StopOrder("stopped", 2)
        began = time.monotonic()
        await spawner.stop()
        assert time.monotonic() - began >= 2
        assert not await backend.runs(hold_id)

    async def test_a_hold_starts_one_session_ever(self, backend: BackendUnderTest) -> None:
        hold_id = backend.hold_id()
        spawner = backend.spawner(hold_id)
        await spawner.start()
        await spawner.stop()
        with pytest.raises(SpawnException):
            await backend.spawner(hold_id).start()
        assert not await backend.runs(hold_id)
