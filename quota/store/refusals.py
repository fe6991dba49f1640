"""How many refusals of one actor are stored in a minute: beyond it they are answered and forgotten, so that nobody can fill a disk.

Invariant: only what was committed counts; a refusal that was stored before is still replayed, and a hold that fits is never refused here.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from quota.domain.errors import TooMany

_WINDOW_S: Final = 60.0


class RefusalWindow:
    """Counts of the present minute, for one writer thread; no limit where `a_minute` is None."""

    def __init__(self, a_minute: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_minute = a_minute
        self._clock = clock
        self._began = clock()
        self._stored: Counter[str] = Counter()

    def admit(self, actor: str, in_batch: int) -> None:
        """Raises TooMany where `actor` has no room for one more beside `in_batch` that are not committed yet."""
        if self._a_minute is None:
            return
        if (passed_s := self._clock() - self._began) >= _WINDOW_S:
            self._began, self._stored, passed_s = self._clock(), Counter(), 0.0
        if self._stored[actor] + in_batch >= self._a_minute:
            raise TooMany("too many refusals in a minute", retry_after_s=math.ceil(_WINDOW_S - passed_s))

    def add(self, stored: Counter[str]) -> None:
        """Count what a committed batch stored."""
        if self._a_minute is not None and stored:
            self._stored.update(stored)
