"""Instants survive the database exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from quota.store.instants import from_us, to_us


@pytest.mark.parametrize(
    "at",
    [
        datetime(2026, 5, 1, 12, 0, 0, 1, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2099, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
def test_an_instant_comes_back_to_the_microsecond(at: datetime) -> None:
    assert from_us(to_us(at)) == at


def test_the_same_instant_in_another_zone_is_the_same_number() -> None:
    at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert to_us(at.astimezone(timezone(timedelta(hours=8)))) == to_us(at)


def test_a_naive_datetime_is_an_error() -> None:
    with pytest.raises(TypeError):
        to_us(datetime(2026, 5, 1))  # noqa: DTZ001  (that it is naive is the point)
