"""Runs histories: one with its trace, or many on all processors, with what they covered."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulator.history import History, Told, Violation
from tests.simulator.place import Place

_CHUNK = 50


class Failed(AssertionError):
    """A history broke a promise; the seed replays it."""

    def __init__(self, seed: int, why: str, trace: list[str]) -> None:
        super().__init__(seed, why, trace)
        self.seed = seed
        self.why = why
        self.trace = trace

    def __str__(self) -> str:
        tail = "\n".join(self.trace[-40:])
        return f"seed {self.seed}: {self.why}\nreplay it: python -m tests.simulator {self.seed}\n{tail}"


@dataclass
class Covered:
    """What a number of histories went through."""

    histories: int = 0
    answers: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0

    def add(self, told: Told) -> None:
        self.histories += 1
        self.answers += told.answered
        self.struck.update(told.struck)

    def __str__(self) -> str:
        strikes = "\n".join(f"  {count:6} {point}" for point, count in sorted(self.struck.items()))
        return (
            f"{self.histories} histories, {self.answers} answers, {sum(self.struck.values())} strikes "
            f"in {self.took_s:.0f} s, none broke a promise\n{strikes}"
        )


def one(seed: int, *, say: Callable[[str], object] | None = None) -> Told:
    """Live one history. Raises Failed."""
    with _place() as place:
        return _live(seed, place, say)


def some(seeds: range) -> Covered:
    """Live histories one after the other. Raises Failed at the first that breaks a promise."""
    covered = Covered()
    with _place() as place:
        for seed in seeds:
            covered.add(_live(seed, place, None))
    return covered


def several(first: int, end: int) -> Covered:
    """Live many histories on every processor. Raises Failed."""
    began_s = time.monotonic()
    covered = Covered()
    chunks = [range(at, min(at + _CHUNK, end)) for at in range(first, end, _CHUNK)]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for part in pool.imap_unordered(some, chunks):
            covered.histories += part.histories
            covered.answers += part.answers
            covered.struck.update(part.struck)
    covered.took_s = time.monotonic() - began_s
    return covered


def _live(seed: int, place: Place, say: Callable[[str], object] | None) -> Told:
    history = History(seed, place)
    try:
        return history.run()
    except Violation as broken:
        raise Failed(seed, str(broken), history.trace) from None
    finally:
        for line in history.trace if say else ():
            assert say is not None
            say(line)


@contextmanager
def _place() -> Iterator[Place]:
    """A folder in memory where there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="commons-sim-", dir=memory if memory.is_dir() else None) as name:
        yield Place(Path(name))
