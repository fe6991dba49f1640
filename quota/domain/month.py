"""Calendar months in UTC: what the ledger's archive is made of.

Invariant: months follow each other without a gap; midnight of the 1st belongs to the month that begins with it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

_WRITTEN = re.compile(r"(\d{4})-(0[1-9]|1[0-2])", re.ASCII)


class Month(NamedTuple):
    """Compares as time does."""

    year: int
    number: int

    @classmethod
    def of(cls, at: datetime) -> Month:
        """The month in which an aware instant lies."""
        there = at.astimezone(UTC)
        return cls(there.year, there.month)

    @classmethod
    def read(cls, text: str) -> Month:
        """From `YYYY-MM`. Raises ValueError."""
        found = _WRITTEN.fullmatch(text)
        if found is None or found[1] == "0000":
            raise ValueError(f"{text!r} is no month: write YYYY-MM")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"

    @property
    def begins(self) -> datetime:
        """Its first instant."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def ends(self) -> datetime:
        """The first instant of the next."""
        return self.next.begins

    @property
    def next(self) -> Month:
        return Month(self.year + self.number // 12, self.number % 12 + 1)

    @property
    def previous(self) -> Month:
        return Month(self.year, self.number - 1) if self.number > 1 else Month(self.year - 1, 12)
