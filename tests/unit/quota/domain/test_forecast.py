"""When an allocation runs out: a range from two rates, or honestly nothing."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from quota.domain.forecast import Forecast, Outlook, forecast, rates_per_s

AT = datetime(2026, 3, 30, 12, tzinfo=UTC)  # the day after Europe's clocks changed
TODAY = AT.date()
HOUR = 3_600_000
FAR = AT + timedelta(days=36_000)
history = st.dictionaries(
    st.integers(0, 40).map(lambda back: TODAY - timedelta(days=back)), st.integers(0, 10**15), max_size=41
)


def steady(amount: int, days: int, *, until: date = TODAY) -> dict[date, int]:
    """`amount` on each of the last `days` days."""
    return {until - timedelta(days=back): amount for back in range(days)}


def test_a_steady_use_runs_out_when_arithmetic_says() -> None:
    used = {**steady(24 * HOUR, 28), TODAY: 12 * HOUR}  # one GPU all the time, today until noon
    found = forecast(48 * HOUR, used, AT, FAR)
    assert found == Forecast(Outlook.RUNS_OUT, AT + timedelta(days=2), AT + timedelta(days=2))


def test_a_use_that_grew_gives_a_range_from_the_last_week_to_the_last_four() -> None:
    used = {**steady(10 * HOUR, 28), **steady(30 * HOUR, 7)}
    found = forecast(300 * HOUR, used, AT, FAR)
    assert found.outlook is Outlook.RUNS_OUT
    assert found.earliest is not None
    assert found.latest is not None
    assert timedelta(days=9) < found.earliest - AT < timedelta(days=10)
    assert timedelta(days=19) < found.latest - AT < timedelta(days=20)


def test_a_project_that_began_lately_is_measured_since_it_began() -> None:
    week = forecast(100 * HOUR, steady(24 * HOUR, 4), AT, FAR)
    assert week.earliest == week.latest  # both windows hold the same four days


def test_under_three_active_days_there_is_not_enough_history() -> None:
    for used in ({}, steady(HOUR, 2), {**steady(0, 28), **steady(HOUR, 2)}, steady(HOUR, 9, until=date(2026, 2, 28))):
        assert forecast(HOUR, used, AT, FAR).outlook is Outlook.NOT_ENOUGH_HISTORY
    assert forecast(HOUR, steady(HOUR, 3), AT, FAR).outlook is Outlook.RUNS_OUT


def test_what_is_exhausted_or_overdrawn_has_no_date() -> None:
    for left in (0, -HOUR):
        assert forecast(left, steady(HOUR, 28), AT, FAR) == Forecast(Outlook.EXHAUSTED)


def test_a_week_without_use_leaves_the_later_end_open() -> None:
    used = {day: amount for day, amount in steady(HOUR, 28).items() if day < TODAY - timedelta(days=10)}
    found = forecast(10 * HOUR, used, AT, FAR)
    assert found.outlook is Outlook.RUNS_OUT
    assert found.latest is None


def test_what_outlasts_its_allocation_says_so_and_one_rate_that_does_leaves_the_end_open() -> None:
    used = {**steady(10 * HOUR, 28), **steady(30 * HOUR, 7)}
    assert forecast(300 * HOUR, used, AT, AT + timedelta(days=5)) == Forecast(Outlook.OUTLASTS)
    between = forecast(300 * HOUR, used, AT, AT + timedelta(days=15))
    assert between.outlook is Outlook.RUNS_OUT
    assert between.latest is None


@given(used=history, left=st.integers(1, 10**15), more=st.integers(0, 10**15))
def test_more_left_never_runs_out_sooner(used: dict[date, int], left: int, more: int) -> None:
    one, other = forecast(left, used, AT, None), forecast(left + more, used, AT, None)
    assert one.outlook is other.outlook or other.outlook is Outlook.OUTLASTS
    if one.earliest is not None and other.earliest is not None:
        assert one.earliest <= other.earliest


@given(used=history, left=st.integers(1, 10**15), factor=st.integers(1, 1000))
def test_using_more_each_day_never_runs_out_later(used: dict[date, int], left: int, factor: int) -> None:
    one, other = forecast(left, used, AT, None), forecast(left, {d: a * factor for d, a in used.items()}, AT, None)
    if one.earliest is not None:
        assert other.earliest is not None
        assert other.earliest <= one.earliest


@given(used=history, left=st.integers(1, 10**15))
def test_the_range_is_a_range_and_lies_ahead(used: dict[date, int], left: int) -> None:
    found = forecast(left, used, AT, FAR)
    if found.earliest is not None:
        assert AT < found.earliest < FAR
        assert found.latest is None or found.earliest <= found.latest


@given(
    used=history,
    left=st.integers(1, 10**15),
    zone=st.sampled_from(["Europe/Berlin", "Asia/Shanghai", "America/New_York"]),
)
def test_neither_the_zone_of_the_reader_nor_its_summer_time_changes_the_instant(
    used: dict[date, int], left: int, zone: str
) -> None:
    assert forecast(left, used, AT.astimezone(ZoneInfo(zone)), FAR) == forecast(left, used, AT, FAR)


@given(used=history)
def test_rates_are_exact_and_never_negative(used: dict[date, int]) -> None:
    assert all(rate >= 0 for rate in rates_per_s(used, AT))
    refunded = {day: -amount for day, amount in used.items()}
    assert set(rates_per_s(refunded, AT)) == {Fraction(0)}
