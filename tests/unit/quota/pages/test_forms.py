"""What people type."""

from __future__ import annotations

from datetime import date

import pytest

from quota.pages.forms import Read, day, gpu_ms, read_ask, tokens

HOUR = 3_600_000


@pytest.mark.parametrize(
    ("typed", "amount"),
    [
        ("", 0),
        ("  ", 0),
        ("2", 2 * HOUR),
        ("0.5", HOUR // 2),
        ("1,000", 1000 * HOUR),
        ("1 000.5", 1000 * HOUR + HOUR // 2),
        ("５００", 500 * HOUR),
        ("-1", -HOUR),
    ],
)
def test_gpu_hours_are_read_as_typed(typed: str, amount: int) -> None:
    assert gpu_ms(typed) == amount


@pytest.mark.parametrize("typed", ["many", "1,5", "1e400", "nan", "inf", "1_000", "0x10", "٣", "1.2.3", "9" * 40])
def test_what_is_no_number_of_gpu_hours_is_refused(typed: str) -> None:
    with pytest.raises(ValueError):
        gpu_ms(typed)


@pytest.mark.parametrize("typed", ["1.5", "1e6", "1_000", "٣", "9" * 40, "x", str(2**62 + 1)])
def test_what_is_no_number_of_tokens_is_refused(typed: str) -> None:
    with pytest.raises(ValueError):
        tokens(typed)


def test_tokens_may_be_grouped() -> None:
    assert tokens("1,000,000") == 1_000_000


@pytest.mark.parametrize("typed", ["", "tomorrow", "2026-02-30", "20260101", "2026-1-1", "10000-01-01"])
def test_what_is_no_day_is_refused(typed: str) -> None:
    with pytest.raises(ValueError):
        day(typed)


def test_each_field_is_blamed_once_with_its_first_reason() -> None:
    read = Read(
        {"title": "a\x00b", "purpose": "fine text", "gpu_hours": "x", "tokens": "y", "starts_on": "", "ends_on": "?"}
    )
    read_ask(read, date(2026, 3, 10))
    read.blame("gpu_hours", "nothing_asked")
    assert read.errors == {
        "title": "not_utf8",
        "gpu_hours": "not_a_number",
        "tokens": "not_a_number",
        "starts_on": "not_a_date",
        "ends_on": "not_a_date",
    }
