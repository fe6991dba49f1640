"""What people read: the quote's line, refusals, durations; every code has words."""

from fractions import Fraction
from string import Formatter

import pytest

from quota.api.errors import STATUS
from quota.domain.errors import RefusalCode
from quota.domain.messages import MESSAGES, duration_text, field_text, render, unit_amount_text
from quota.domain.session import EndReason
from quota.domain.units import Unit
from quota.locales import preferred, translations


def test_the_quotes_line_is_the_one_promised() -> None:
    params = {"gpus": 1, "runtime_s": 7200, "margin_s": 120, "amount": 7_320_000, "leaves": 28_680_000}
    line = "1 GPU × 2 h + 2 min margin = 2.03 GPU-h held; unused returns; leaves 7.97 GPU-h"
    assert render("quote", params, str).message == line


def test_a_refusal_says_what_why_and_what_next() -> None:
    words = render(
        "insufficient_balance", {"requested": 7_320_000, "available": 4_260_000, "fits_runtime_s": 4140}, str
    )
    assert words.message == "This start needs 2.03 GPU-h; the project has 1.18 GPU-h."
    assert words.next == "Choose at most 1 h 9 min, or ask the PI for more."


def test_where_nothing_fits_no_runtime_is_offered() -> None:
    words = render("insufficient_balance", {"requested": 1, "available": 0, "fits_runtime_s": None}, str)
    assert "at most" not in words.next


def test_tokens_are_shown_as_tokens() -> None:
    words = render("insufficient_balance", {"unit": "tokens", "requested": 41_000, "available": 7}, str)
    assert words.message == "This start needs 41,000 tokens; the project has 7 tokens."


@pytest.mark.parametrize("code", [*STATUS, *(code.value for code in RefusalCode)])
def test_every_error_code_has_words_and_a_next_step(code: str) -> None:
    assert MESSAGES[code].text
    assert MESSAGES[code].next


@pytest.mark.parametrize("reason", [reason.value for reason in EndReason])
def test_every_end_has_words(reason: str) -> None:
    assert f"end.{reason}" in MESSAGES


@pytest.mark.parametrize("code", MESSAGES)
def test_rendering_never_fails_for_want_of_a_parameter(code: str) -> None:
    assert render(code, {}, str).message


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_translation_takes_the_parameters_of_its_template(language: str) -> None:
    gettext = translations(language).gettext
    for message in MESSAGES.values():
        for template in filter(None, (message.text, message.next)):
            names = {name for _, name, _, _ in Formatter().parse(template)}
            assert {name for _, name, _, _ in Formatter().parse(gettext(template))} <= names


def test_parameters_are_never_read_as_templates() -> None:
    assert render("frozen", {"project": "{__class__}"}, str).message == "The allocation of {__class__} is frozen."


def test_an_unknown_code_reads_as_itself() -> None:
    assert render("brand_new", {}, str).message == "brand_new"
    assert field_text("brand_new", str) == "brand_new"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (45, "45 s"), (60, "1 min"), (69, "1 min 9 s"), (3600, "1 h"), (4140, "1 h 9 min"), (7201, "2 h")],
)
def test_durations_read_as_people_say_them(seconds: int, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("unit", "amount", "text"),
    [
        (Unit.GPU_MS, 7_320_000, "2.03 GPU-h"),
        (Unit.GPU_MS, -36_000, "-0.01 GPU-h"),
        (Unit.TOKENS, 1234, "1,234 tokens"),
    ],
)
def test_amounts_carry_their_unit_and_their_sign(unit: Unit, amount: int, text: str) -> None:
    assert unit_amount_text(unit, amount) == text


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, None),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB", "en"),
        ("de", None),
        ("de, zh;q=0.2, en;q=0.1", "zh"),
        ("zh;q=0, en", "en"),
        ("*", None),
        (";;;,,q=", None),
        ("x" * 10_000, None),
    ],
)
def test_accept_language_chooses_among_what_we_have(header: str | None, language: str | None) -> None:
    assert preferred(header) == language


def test_a_rate_stays_exact_in_text() -> None:
    assert str(Fraction("0.5")) == "1/2"
