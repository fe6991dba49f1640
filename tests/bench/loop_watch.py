"""How long an event loop does not run: by the clock, by the CPU time of its own thread in one callback, and waiting for a core.

A pause by the clock is what people feel. What of it the loop's thread did itself is its CPU time; what others' work took from it is the time that the
kernel let it wait for a core; the rest is the disk, or Python's lock in another thread's hands. Invariant: what is watched behaves as it did: a
callback is weighed and called.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

WORTH_MS: Final = 5.0  # shorter callbacks are not written down
TICK_S: Final = 0.005
PAUSE: Final = "a pause between two ticks"
_UNTIL_THE_END: Final = ExitStack()
_TICKING: Final[list[asyncio.Task[None]]] = []


@dataclass(frozen=True, slots=True)
class Callback:
    """One callback that was worth a line, or one pause between two ticks."""

    at_s: float
    cpu_ms: float
    clock_ms: float
    waited_ms: float  # for a core that had others' work
    what: str


Seen = Callable[[Callback], None]


class _Scale:
    """CPU, clock and time without a core of the thread that first uses it."""

    def __init__(self) -> None:
        self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def read(self) -> tuple[float, float, float]:
        waited_ns = int(os.pread(self._file, 64, 0).split()[1])
        return time.thread_time() * 1000, time.perf_counter() * 1000, waited_ns / 1e6


@contextmanager
def weighing(seen: Seen) -> Iterator[None]:
    """Weigh every callback of this thread's loop meanwhile."""
    stock, scales = asyncio.Handle._run, threading.local()

    def weighed(handle: asyncio.Handle) -> None:
        if not hasattr(scales, "own"):
            scales.own = _Scale()
        before = scales.own.read()
        stock(handle)
        cpu_ms, clock_ms, waited_ms = (after - first for after, first in zip(scales.own.read(), before, strict=True))
        if clock_ms > WORTH_MS:
            seen(Callback(time.time(), cpu_ms, clock_ms, waited_ms, _named(handle)))

    asyncio.Handle._run = weighed  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        asyncio.Handle._run = stock  # type: ignore[method-assign]


def _named(handle: asyncio.Handle) -> str:
    owner: Any = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    return repr(owner if isinstance(owner, asyncio.Task) else handle)[:400]


async def pauses(seen: Seen) -> None:
    """Tick until cancelled, and tell of every tick that came late: what anybody who asks the loop for something feels."""
    scale = _Scale()
    last = scale.read()
    while True:
        await asyncio.sleep(TICK_S)
        now = scale.read()
        cpu_ms, clock_ms, waited_ms = (after - first for after, first in zip(now, last, strict=True))
        if clock_ms - TICK_S * 1000 > WORTH_MS:
            seen(Callback(time.time(), cpu_ms, clock_ms - TICK_S * 1000, waited_ms, PAUSE))
        last = now


def write_down(path: Path) -> None:
    """In a hub's configuration, which its loop reads: write a line for each callback and each pause, until the process ends."""
    file = _UNTIL_THE_END.enter_context(path.open("a", buffering=1))

    def seen(one: Callback) -> None:
        file.write(json.dumps(asdict(one)) + "\n")

    _UNTIL_THE_END.enter_context(weighing(seen))
    _TICKING.append(asyncio.get_running_loop().create_task(pauses(seen)))


def read(path: Path, since_s: float) -> list[Callback]:
    """The lines since then, the longest by the clock first."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [Callback(**json.loads(line)) for line in lines]
    return sorted((one for one in found if one.at_s >= since_s), key=lambda one: -one.clock_ms)
