"""Ends to what relays: a deadline for each, and a cut at any moment, as `asyncio.timeout` gives them, for a tenth of its cost.

Invariant: one timer serves all relays of a process and looks at them four times a second, so that an end may come up to
`TICK_S` late and never early. What is cut leaves its `with` block by TimeoutError; a task that somebody else cancels is cancelled.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

TICK_S: Final = 0.25


class Deadlines:
    """The relays under way on one event loop."""

    def __init__(self) -> None:
        self.open: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> Deadline:
        """A deadline that ends after `seconds`, or when it is cut."""
        return Deadline(self, seconds)

    def begin(self, deadline: Deadline) -> None:
        self.open.add(deadline)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for deadline in [one for one in self.open if one.ends_s <= now_s]:
            deadline.cut()
        self._timer = loop.call_later(TICK_S, self._tick) if self.open else None


class Deadline:
    """A `with` block of one task."""

    __slots__ = ("_cancelling", "_cut", "_deadlines", "_seconds", "_task", "ends_s")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._cut = False
        self.ends_s = 0.0

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self.ends_s = task.get_loop().time() + self._seconds
        self._deadlines.begin(self)
        return self

    def cut(self) -> None:
        """End the block now. Called from outside of its task, or before the task waits again."""
        if self._task is not None and not self._cut:
            self._cut = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._deadlines.open.discard(self)
        if self._cut and task is not None and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
