"""Durations and GPU-hours, read and written."""

from __future__ import annotations

import pytest

from hub.durations import duration_text, gpu_hours_text, read_runtime_s


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4800, "1 h 20 min"), (3600, "1 h"), (60, "1 min"), (59, "59 s"), (0, "0 s"), (90_000, "25 h"), (3659, "1 h")],
)
def test_a_duration_in_words(seconds: int, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_duration_in_chinese() -> None:
    assert duration_text(4800, "zh") == "1 小时 20 分钟"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5400", 5400), ("1:30", 5400), ("1 h 30 min", 5400), ("90 min", 5400), ("2h", 7200), ("2 小时", 7200), (" 15 MIN ", 900),
        ("", None), ("h", None), ("１", None), ("-5", None), ("1.5", None), ("1:75", None), ("99999999", None), ("two", None), ("1 h x", None),
    ],
)  # fmt: skip
def test_a_runtime_as_people_write_it(text: str, seconds: int | None) -> None:
    assert read_runtime_s(text) == seconds


@pytest.mark.parametrize(
    ("gpu_ms", "text"),
    [(7_320_000, "2.03"), (3_600_000, "1.00"), (0, "0.00"), (-1_800_000, "-0.50"), (4_320_000_000, "1,200.00"), (18_000, "0.00"), (54_000, "0.02")],
)  # fmt: skip
def test_gpu_hours_with_two_decimals_rounded_half_to_even(gpu_ms: int, text: str) -> None:
    assert gpu_hours_text(gpu_ms) == text
