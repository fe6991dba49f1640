"""Waiting for what has no event to await: a state in another process, asked for over HTTP or on disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

# How long to wait for what takes a moment on a quiet machine: CI runs four suites side by side on two cores.
PATIENCE_S: Final = 150


async def eventually(look: Callable[[], Awaitable[T | None]], *, within_s: float, what: str, every_s: float = 0.2) -> T:
    """The first answer of `look` that says something. Raises AssertionError naming `what` after `within_s` seconds."""
    end = time.monotonic() + within_s
    while True:
        found = await look()
        if found is not None and _says_something(found):
            return found
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        await asyncio.sleep(every_s)


def until(look: Callable[[], T | None], *, within_s: float = PATIENCE_S, what: str, every_s: float = 0.05) -> T:
    """`eventually` for a test without an event loop, or one that may keep its own from turning."""
    end = time.monotonic() + within_s
    while True:
        found = look()
        if found is not None and _says_something(found):
            return found
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(every_s)


def _says_something(found: object) -> bool:
    """Whether an answer is one: None, False and what is empty are none; zero is."""
    return bool(found) or (found == 0 and found is not False)
