"""Starts take turns on the hub's event loop: between two pieces of their work everybody else is answered.

A start is a few pieces of 5 to 30 ms each (JupyterHub's checks and commits, the hold, the job). Fifty that come at once would do the same piece one
right after the other, in one round of the loop: for more than a second nobody was answered, and on a loaded machine the deadlines of their own
calls passed meanwhile. Invariant: who waits here waits for no other start's end, only for the pieces before.
"""

import asyncio
from typing import Final

_ROUNDS: Final = 3  # what arrives is read in one round of the loop, resolved in the next and answered in the third


class Turns:
    """One piece at a time, in the order of asking, and a few rounds of the loop between two."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def take(self) -> None:
        """Come back once the loop has looked around since the last piece."""
        async with self._lock:
            for _ in range(_ROUNDS):
                await asyncio.sleep(0)
