"""An event loop without input, output or wall clock: time passes when nothing is ready, and a seed decides who is next.

Invariant: the same seed and the same coroutines run in the same order.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.BaseEventLoop):
    """What tasks and futures need of a loop. What is ready together runs in an order that `choice` makes up."""

    _going = False

    def __init__(self, choice: random.Random) -> None:
        super().__init__()
        self._choice = choice
        self._now_s = 0.0
        self._next: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._number = itertools.count()
        self.errors: list[dict[str, Any]] = []

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run until `main` is done. Raises RuntimeError where nothing could ever wake it."""
        asyncio._set_running_loop(self)
        self._going = True
        task: asyncio.Task[T] = self.create_task(main)
        try:
            while not task.done():
                self._turn()
            for left in asyncio.all_tasks(self):
                left.cancel()
            while self._next:
                self._turn()
            return task.result()
        finally:
            self._going = False
            asyncio._set_running_loop(None)

    def _turn(self) -> None:
        if not self._next:
            if not self._timers:
                raise RuntimeError("everybody waits and nothing is due")
            self._now_s = max(self._now_s, self._timers[0][0])
            while self._timers and self._timers[0][0] <= self._now_s:
                self._next.append(heapq.heappop(self._timers)[2])
        at = self._choice.randrange(len(self._next))
        self._next[at], self._next[-1] = self._next[-1], self._next[at]
        handle = self._next.pop()
        if not handle.cancelled():
            handle._run()

    def time(self) -> float:
        return self._now_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._next.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._number), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer stays in the heap and is passed over."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **kwargs)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._going

    def is_closed(self) -> bool:
        """It holds nothing that would have to be closed."""
        return True
