"""How long an event loop does not run: by the clock, and by the CPU time of its own thread in one callback.

On a busy machine a pause by the clock is mostly others' work; the CPU time of the longest callback is the loop's own. Invariant: what is
watched behaves as it did: a callback is weighed and called.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

WORTH_MS: Final = 5.0  # shorter callbacks are not written down
Seen = Callable[[float, float, str], None]
_UNTIL_THE_END: Final = ExitStack()


@contextmanager
def weighing(seen: Seen) -> Iterator[None]:
    """Weigh every callback of every loop meanwhile: CPU and clock milliseconds, and what it was."""
    stock = asyncio.Handle._run

    def weighed(handle: asyncio.Handle) -> None:
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        stock(handle)
        cpu_ms, clock_ms = (time.thread_time() - began_cpu_s) * 1000, (time.perf_counter() - began_s) * 1000
        if clock_ms > WORTH_MS or cpu_ms > WORTH_MS:
            seen(cpu_ms, clock_ms, _named(handle))

    asyncio.Handle._run = weighed  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        asyncio.Handle._run = stock  # type: ignore[method-assign]


def _named(handle: asyncio.Handle) -> str:
    owner: Any = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    return repr(owner if isinstance(owner, asyncio.Task) else handle)[:400]


class LoopWatch:
    """The longest of both kinds while it watches."""

    def __init__(self) -> None:
        self.pause_ms = 0.0
        self.work_ms = 0.0

    async def run(self) -> None:
        """Tick until cancelled."""
        last_s = time.perf_counter()
        while True:
            await asyncio.sleep(0.005)
            now_s = time.perf_counter()
            self.pause_ms = max(self.pause_ms, (now_s - last_s) * 1000 - 5)
            last_s = now_s

    @contextmanager
    def weighing(self) -> Iterator[None]:
        """Weigh every callback meanwhile."""

        def seen(cpu_ms: float, clock_ms: float, what: str) -> None:
            self.work_ms = max(self.work_ms, cpu_ms)

        with weighing(seen):
            yield


@dataclass(frozen=True, slots=True)
class Callback:
    """One callback of a hub that was worth a line."""

    at_s: float
    cpu_ms: float
    clock_ms: float
    what: str


def write_down(path: Path) -> None:
    """In a hub's configuration: write a line for each callback that took long, until the process ends."""

    def seen(cpu_ms: float, clock_ms: float, what: str) -> None:
        line = json.dumps({"at_s": time.time(), "cpu_ms": cpu_ms, "clock_ms": clock_ms, "what": what})
        with path.open("a") as file:
            file.write(line + "\n")

    _UNTIL_THE_END.enter_context(weighing(seen))


def read(path: Path, since_s: float) -> list[Callback]:
    """The lines since then, those with the most CPU first."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [Callback(**json.loads(line)) for line in lines]
    return sorted((one for one in found if one.at_s >= since_s), key=lambda one: -one.cpu_ms)
