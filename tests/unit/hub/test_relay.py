"""What the chooser's summary shows."""

from __future__ import annotations

import pytest

from hub.relay import quote_view
from quota.client import Quote, Quoted, Refused

QUOTE = Quote("1 GPU × 4 h", 14_520_000, 18_000_000, 3_480_000, 14_400, 1, "1", 17_880)
REFUSAL = Refused(402, "insufficient_balance", "Too much.", "Less.", {"fits_runtime_s": 4800})


def test_an_affordable_start_shows_its_price_and_can_start() -> None:
    view = quote_view(Quoted(QUOTE, None), 14_400, "en")
    assert view["can_start"]
    assert (view["text"], view["amount"], view["leaves"]) == ("1 GPU × 4 h", "4.03", "0.97")
    assert (view["reason"], view["fits_runtime_s"], view["fits"]) == ("", 0, "")


def test_a_start_that_is_too_much_shows_why_and_what_would_fit() -> None:
    view = quote_view(Quoted(QUOTE, REFUSAL), 14_400, "zh")
    assert not view["can_start"]
    assert (view["text"], view["reason"], view["next"]) == ("", "Too much.", "Less.")
    assert (view["fits_runtime_s"], view["fits"]) == (4800, "1 小时 20 分钟")


def test_what_would_fit_the_project_is_not_offered_to_somebody_whose_share_is_used_up() -> None:
    quote = Quote("1 GPU × 4 h", 14_520_000, 7_200_000, -7_320_000, 14_400, 1, "1", 7_080)
    used_up = Refused(402, "limit_reached", "Used up.", "Ask.", {"limit_name": "member", "fits_runtime_s": None})
    assert quote_view(Quoted(quote, used_up), 14_400, "en")["fits_runtime_s"] == 0


@pytest.mark.parametrize("answer", [REFUSAL, Refused(404, "unknown_project", "No.")])
def test_a_refused_quote_cannot_start(answer: Refused) -> None:
    view = quote_view(answer, 3600, "en")
    assert not view["can_start"]
    assert view["fits_runtime_s"] == 0  # 4800 s is no shorter start than 3600 s
    assert view["reason"] == answer.message


def test_no_price_is_no_start() -> None:
    assert not quote_view(Quoted(None, None), 3600, "en")["can_start"]
