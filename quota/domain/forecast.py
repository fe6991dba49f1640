"""When an allocation runs out if it is used as it was lately. Pure, exact: integers and Fractions; rounds to the second at the end.

Definition, as the page gives it: what was charged in the last 7 and in the last 28 days (UTC, today included up to now), divided by the
time from the first of these days with any charge to now, at least a day, gives two rates; what is not charged yet (held amounts
count as left) divided by each gives two instants, and the range between them is shown. Under 3 days with charges in the last 28 there
is no forecast. A day counts by when the ledger booked the charge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Final

WINDOWS_DAYS: Final = (7, 28)
ACTIVE_DAYS_MIN: Final = 3
_SECOND: Final = timedelta(seconds=1)
_FARTHEST: Final = timedelta(days=366 * 100)


class Outlook(StrEnum):
    NOT_ENOUGH_HISTORY = "not_enough_history"
    EXHAUSTED = "exhausted"
    RUNS_OUT = "runs_out"
    OUTLASTS = "outlasts"  # something is left when the allocation ends, at either rate


@dataclass(frozen=True, slots=True)
class Forecast:
    """`earliest` and `latest` of RUNS_OUT; a `latest` of None: at one of the rates it does not run out before the end."""

    outlook: Outlook
    earliest: datetime | None = None
    latest: datetime | None = None


def forecast(left: int, charged_by_day: Mapping[date, int], at: datetime, ends_at: datetime | None) -> Forecast:
    """The forecast of an allocation of which `left` (in its unit) is not charged, at `at`; `ends_at` is the allocation's end.

    `charged_by_day` needs the last 28 UTC days only; days that are missing had no charge, a negative day (refunds) counts as it is.
    """
    if left <= 0:
        return Forecast(Outlook.EXHAUSTED)
    at = at.astimezone(UTC)  # sums with local times would jump with summer time
    recent = {day: amount for day, amount in charged_by_day.items() if amount and _in_window(day, at, WINDOWS_DAYS[-1])}
    if sum(amount > 0 for amount in recent.values()) < ACTIVE_DAYS_MIN:
        return Forecast(Outlook.NOT_ENOUGH_HISTORY)
    instants = [_runs_out_at(left, rate, at) for rate in rates_per_s(recent, at)]
    before_end = [one for one in instants if one is not None and (ends_at is None or one < ends_at)]
    if not before_end:
        return Forecast(Outlook.OUTLASTS)
    return Forecast(Outlook.RUNS_OUT, min(before_end), max(before_end) if len(before_end) == len(instants) else None)


def rates_per_s(charged_by_day: Mapping[date, int], at: datetime) -> tuple[Fraction, ...]:
    """What was charged a second in each of the windows; never negative."""
    return tuple(_rate(charged_by_day, at, days) for days in WINDOWS_DAYS)


def _rate(charged_by_day: Mapping[date, int], at: datetime, days: int) -> Fraction:
    within = {day: amount for day, amount in charged_by_day.items() if amount and _in_window(day, at, days)}
    if not within:
        return Fraction(0)
    # Used since before this window began: then the window is as long as it says.
    first = max(min(charged_by_day), _first_day(at, days))
    since = datetime.combine(first, time(), UTC)
    elapsed_s = max(Fraction((at - since) // timedelta(microseconds=1), 1_000_000), Fraction(86_400))
    return max(Fraction(sum(within.values())), Fraction(0)) / elapsed_s


def _runs_out_at(left: int, rate: Fraction, at: datetime) -> datetime | None:
    """When `left` is used up at `rate` a second, rounded up to a second; None for never, or so late that it makes no difference."""
    if rate == 0:
        return None
    seconds = -((-Fraction(left) / rate) // 1)
    return at + int(seconds) * _SECOND if seconds < _FARTHEST // _SECOND else None


def _in_window(day: date, at: datetime, days: int) -> bool:
    return _first_day(at, days) <= day <= at.astimezone(UTC).date()


def _first_day(at: datetime, days: int) -> date:
    return at.astimezone(UTC).date() - timedelta(days=days - 1)
