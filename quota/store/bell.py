"""A file descriptor that other threads can make readable, for a thread that waits for a socket and for them."""

from __future__ import annotations

import os
from contextlib import suppress


class Bell:
    """Rings once or many times until it is hushed."""

    def __init__(self) -> None:
        self.number, self._far_end = os.pipe()
        for end in (self.number, self._far_end):
            os.set_blocking(end, False)

    def ring(self) -> None:
        with suppress(BlockingIOError):  # it rings already
            os.write(self._far_end, b"!")

    def hush(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.number, 1_024)

    def close(self) -> None:
        for end in (self.number, self._far_end):
            os.close(end)
