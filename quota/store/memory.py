"""Open holds as this writer last wrote them: what spares most batches their look-ups.

Invariant: memory may lag behind the database and is never believed alone. What is planned on it changes a row under a guard that
compares what was remembered, or goes in under a key that must be new; where a guard objects, or something would be answered
without a guarded row, the batch is planned again on rows that are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from quota.store.working_set import HoldRow

HOLDS_MAX: Final = 16_384
DOUBTED_BATCHES: Final = 50


class Memory:
    """For one writer. A remembered hold is taken by the batch that plans on it and comes back once that batch is committed."""

    def __init__(self, holds_max: int = HOLDS_MAX, doubted_batches: int = DOUBTED_BATCHES) -> None:
        self._holds: dict[str, HoldRow] = {}
        self._holds_max = holds_max
        self._doubted_batches = doubted_batches
        self._doubted = 0

    @property
    def serves(self) -> bool:
        return self._doubted == 0

    def __contains__(self, hold_id: str) -> bool:
        return hold_id in self._holds

    def take(self, hold_id: str) -> HoldRow:
        return self._holds.pop(hold_id)

    def keep(self, holds: Iterable[HoldRow]) -> None:
        """Remember what a committed batch left open; holds with several lines, or that count against limits, have further rows."""
        if self._doubted:
            self._doubted -= 1
        remembered = self._holds
        for hold in holds:
            if hold.state == "held" and hold.line_count == 1 and hold.limit_count == 0 and (hold.fresh or hold.changed):
                hold.written()
                remembered[hold.id] = hold
        if len(remembered) > self._holds_max:  # a quarter at once, so that most batches pay nothing
            for oldest in list(remembered)[: len(remembered) - self._holds_max * 3 // 4]:
                del remembered[oldest]

    def doubt(self) -> None:
        """Read everything for a while: another writer is at work on the same holds, or requests come again."""
        self._doubted = self._doubted_batches

    def clear(self) -> None:
        self._holds.clear()
