"""What the chooser says of who could pay: nobody is shown more than they could use."""

from __future__ import annotations

from hub.payers import Left, payer_words
from quota.client import Payer, Share

HOUR = 3_600_000


def payer(course: str = "", available: int = 100 * HOUR, **shares: Share) -> Payer:
    gpu_ms = {"awarded": 200 * HOUR, "charged": 0, "held": 0, "available": available}
    return Payer("p1", "p1", "Lab", "member", gpu_ms, {**gpu_ms, "available": 10**6}, "", True, None, course, shares)


def test_a_project_shows_its_own_balance_in_both_units() -> None:
    words = payer_words(payer(), "en")
    assert (words.option, words.course, words.heading) == ("Lab · 100.00 GPU-h", "", "Available")
    assert words.lines == (Left("100.00 GPU-h", False), Left("1,000,000 tokens", False))


def test_a_student_sees_the_course_as_the_payer_and_what_is_left_of_their_share() -> None:
    words = payer_words(payer("Physics", gpu_ms=Share(5 * HOUR, 9 * HOUR // 2), tokens=Share(200_000, 190_000)), "en")
    assert (words.option, words.course) == ("Physics · 4.50 GPU-h", "Physics")
    assert words.heading == "Left of your share"
    assert words.lines == (Left("4.50 of 5.00 GPU-h", False), Left("190,000 of 200,000 tokens", False))


def test_a_course_that_has_less_than_the_share_shows_what_it_has() -> None:
    words = payer_words(payer("Physics", available=HOUR, gpu_ms=Share(5 * HOUR, 5 * HOUR)), "en")
    assert words.option == "Physics · 1.00 GPU-h"
    assert words.lines[0] == Left("1.00 of 5.00 GPU-h", False)


def test_a_share_that_is_used_up_or_overdrawn_says_so_and_is_never_shown_as_zero() -> None:
    words = payer_words(payer("Physics", gpu_ms=Share(5 * HOUR, 0), tokens=Share(10, -3)), "zh")
    assert words.lines == (Left("0.00 / 5.00 GPU 小时", True), Left("-3 / 10 token", True))
