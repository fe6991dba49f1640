"""Instants in the database: whole microseconds of UTC since 1970, in BIGINT columns named `…_us`.

Invariant: an aware datetime survives the round trip exactly; a naive one is an error, never a guess.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)


def to_us(at: datetime) -> int:
    """Microseconds since the epoch. Raises TypeError for a naive datetime."""
    return (at - _EPOCH) // _US


def from_us(us: int) -> datetime:
    """The instant, aware, in UTC."""
    return _EPOCH + timedelta(microseconds=us)


def to_us_or_none(at: datetime | None) -> int | None:
    return None if at is None else to_us(at)


def from_us_or_none(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)
