"""Numbers as people read them."""

from __future__ import annotations

import pytest

from quota.domain.units import Balance, Unit
from quota.pages.figures import (
    BAR_WIDTH,
    Level,
    bar_of,
    level_of,
    number_shown,
    plain_number,
    signed_shown,
    used_percent,
)

HOUR = 3_600_000


@pytest.mark.parametrize(
    ("gpu_ms", "shown"),
    [
        (0, "0"),
        (10 * HOUR, "10"),
        (10 * HOUR - 7_320_000, "7.97"),
        (1000 * HOUR + HOUR // 2, "1,000.5"),
        (10_000, "0.0028"),
        (60_000, "0.017"),
        (1, "<0.0001"),
        (-1, "−<0.0001"),
        (-HOUR // 5, "−0.2"),
        (359_999, "0.1"),
    ],
)
def test_gpu_hours_show_two_decimals_and_small_ones_never_read_as_zero(gpu_ms: int, shown: str) -> None:
    assert number_shown(gpu_ms, Unit.GPU_MS) == shown


def test_tokens_are_grouped_and_negative_ones_stay_negative() -> None:
    assert number_shown(1_234_567, Unit.TOKENS) == "1,234,567"
    assert number_shown(-5, Unit.TOKENS) == "−5"


def test_a_change_carries_its_sign_and_none_is_empty() -> None:
    assert signed_shown(7_320_000, Unit.GPU_MS) == "+2.03"
    assert signed_shown(-7_320_000, Unit.GPU_MS) == "−2.03"
    assert signed_shown(0, Unit.GPU_MS) == ""


def test_what_a_form_is_filled_with_is_exact() -> None:
    assert plain_number(500 * HOUR, Unit.GPU_MS) == "500"
    assert plain_number(HOUR // 8, Unit.GPU_MS) == "0.125"
    assert plain_number(2_000_000, Unit.TOKENS) == "2000000"


def test_a_share_is_cut_so_that_all_is_never_shown_early() -> None:
    assert used_percent(Balance(Unit.GPU_MS, 10 * HOUR, 7_320_000, HOUR)) == "20.3"  # what is held may come back
    assert used_percent(Balance(Unit.TOKENS, 100_000, 99_999, 0)) == "99.9"
    assert used_percent(Balance(Unit.TOKENS, 100, 100, 0)) == "100"
    assert used_percent(Balance(Unit.GPU_MS, 10 * HOUR, 23_760, 0)) == "<0.1"
    assert used_percent(Balance(Unit.GPU_MS, 10 * HOUR, 0, 0)) == "0"
    assert used_percent(Balance(Unit.TOKENS, 0, 0, 0)) == "–"


@pytest.mark.parametrize(
    ("awarded", "charged", "held", "level"),
    [
        (0, 0, 0, Level.NOTHING_AWARDED),
        (0, 1, 0, Level.OVERDRAWN),
        (100, 50, 0, Level.GOOD),
        (100, 50, 45, Level.LOW),
        (100, 60, 40, Level.EXHAUSTED),
        (100, 101, 0, Level.OVERDRAWN),
    ],
)
def test_how_a_balance_stands(awarded: int, charged: int, held: int, level: Level) -> None:
    assert level_of(Balance(Unit.TOKENS, awarded, charged, held)) is level


def test_the_bar_never_overflows_and_shows_the_smallest_part() -> None:
    for charged, held in ((0, 0), (1, 0), (1, 1), (50, 50), (150, 0), (999_999, 1), (0, 10**9)):
        bar = bar_of(Balance(Unit.TOKENS, 1_000_000 if charged else 10**9, charged, held))
        assert 0 <= bar.charged + bar.held <= BAR_WIDTH
        assert (bar.charged > 0) == (charged > 0)
        assert (bar.held > 0) == (held > 0)
