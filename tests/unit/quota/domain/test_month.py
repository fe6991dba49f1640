"""Months begin at midnight UTC of the 1st, and follow each other over the year's end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from quota.domain.month import Month


def test_midnight_of_the_first_belongs_to_the_new_month() -> None:
    midnight = datetime(2026, 6, 1, tzinfo=UTC)
    assert Month.of(midnight) == Month(2026, 6)
    assert Month.of(midnight - timedelta(microseconds=1)) == Month(2026, 5)
    assert Month(2026, 5).ends == midnight == Month(2026, 6).begins


def test_another_zone_does_not_change_the_month() -> None:
    there = timezone(timedelta(hours=8))
    assert Month.of(datetime(2026, 6, 1, 7, 59, 59, tzinfo=there)) == Month(2026, 5)
    assert Month.of(datetime(2026, 6, 1, 8, tzinfo=there)) == Month(2026, 6)


def test_months_follow_each_other_and_compare_as_time_does() -> None:
    month, seen = Month(2025, 11), []
    while month < Month(2027, 2):
        assert month.next.previous == month < month.next
        assert month.ends == month.next.begins
        seen.append(str(month))
        month = month.next
    assert seen[:4] == ["2025-11", "2025-12", "2026-01", "2026-02"]
    assert len(seen) == 15


def test_what_is_written_is_read_back() -> None:
    assert str(Month.read("2026-05")) == "2026-05"


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-5", "2026-13", "2026-00", "26-05", "0000-01", "2026-05-01", "２０２６-05"]
)
def test_anything_else_is_no_month(text: str) -> None:
    with pytest.raises(ValueError, match="YYYY-MM"):
        Month.read(text)
