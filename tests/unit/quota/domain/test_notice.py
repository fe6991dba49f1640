"""Notices: what makes two of them one, when one before an end is due, what a balance has to be told as."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from quota.domain.ids import PersonId
from quota.domain.messages import MESSAGES, Style, render
from quota.domain.notice import (
    ENDING_STEPS_S,
    Notice,
    NoticeKind,
    Topic,
    balance_notices,
    ending_step,
    next_step_at,
)
from quota.domain.units import Balance, Unit
from quota.locales import translations

START = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)  # the night in which Europe's clocks change
NOTICE = Notice(PersonId("p"), NoticeKind.ENDING, "hold", "1800@x", START, {"step_s": 1800})


def test_a_notice_is_one_by_person_kind_subject_and_occasion_and_nothing_else() -> None:
    same = replace(NOTICE, at=START + timedelta(hours=1), params={"left_s": 1})
    assert same.id == NOTICE.id
    others = [
        replace(NOTICE, person_id=PersonId("q")),
        replace(NOTICE, kind=NoticeKind.IDLE),
        replace(NOTICE, subject="hold1", occasion="800@x"),
        replace(NOTICE, occasion="600@x"),
    ]
    assert len({one.id for one in [NOTICE, *others]}) == 5


@given(runtime_s=st.integers(1, 200_000), looks_s=st.lists(st.floats(0, 200_000), min_size=1, max_size=60))
def test_of_the_notices_before_an_end_none_comes_early_none_after_a_nearer_one_and_none_twice(
    runtime_s: int, looks_s: list[float]
) -> None:
    ends = START + timedelta(seconds=runtime_s)
    told: list[int] = []
    for second in sorted(looks_s):
        at = START + timedelta(seconds=second)
        step = ending_step(START, ends, at)
        if step is None or step.step_s in told:
            continue
        assert (ends - at).total_seconds() <= step.step_s < runtime_s
        assert not told or step.step_s < told[-1]
        told.append(step.step_s)
    assert ending_step(START, ends, ends) is None


@given(runtime_s=st.integers(121, 200_000))
def test_whoever_sleeps_until_the_next_step_tells_each_of_them(runtime_s: int) -> None:
    ends, at, told = START + timedelta(seconds=runtime_s), START, []
    while (due := next_step_at(START, ends, at)) is not None:
        assert due > at
        at = due
        step = ending_step(START, ends, at)
        assert step is not None
        told.append(step.step_s)
    assert told == [s for s in ENDING_STEPS_S if s < runtime_s]


def test_the_last_minutes_are_another_topic_than_the_first_notice() -> None:
    assert NOTICE.topic is Topic.ENDING
    assert replace(NOTICE, params={"step_s": 600}).topic is Topic.ENDING_SOON


def test_low_counts_what_is_charged_and_names_the_higher_mark_once_it_is_passed() -> None:
    def told(awarded: int, charged: int, held: int) -> list[tuple[str, str]]:
        return [
            (kind.value, occasion) for kind, occasion in balance_notices(Balance(Unit.GPU_MS, awarded, charged, held))
        ]

    assert told(1000, 799, 0) == []
    assert told(1000, 500, 400) == []  # held comes back
    assert told(1000, 800, 0) == [("low", "80@1000")]
    assert told(1000, 949, 10) == [("low", "80@1000")]
    assert told(1000, 950, 10) == [("low", "95@1000")]
    assert told(1000, 100, 900) == [("exhausted", "1000")]
    assert told(1000, 1001, 0) == [("overdrawn", "1000")]
    assert told(0, 0, 0) == []
    assert told(2000, 1001, 0) == []


def test_every_kind_has_words_in_both_languages_whatever_parameters_are_missing() -> None:
    for kind in NoticeKind:
        for language in ("en", "zh"):
            words = render(f"notice.{kind.value}", {}, translations(language).gettext)
            assert words.message
            assert "{" not in words.message + words.next
    assert all(f"notice.{kind.value}" in MESSAGES for kind in NoticeKind)


def test_a_place_that_shows_markup_escapes_what_people_wrote() -> None:
    params = {"project": "<b>Folding</b>", "ends_at": "2026-03-29T01:30:00+00:00", "profile": "<i>gpu</i>"}
    style = Style(Markup, lambda at: Markup("<time>{}</time>").format(at.isoformat()))
    assert "&lt;b&gt;" in render("notice.suspended", params, str, style).message
    ending = render("notice.ending", params, str, style).message
    assert "&lt;i&gt;gpu" in ending
    assert "<time>2026-03-29T01:30:00+00:00</time>" in ending


def test_a_refused_extension_says_why_in_the_readers_language() -> None:
    params = {
        "profile": "gpu1", "ends_at": "2026-03-29T01:30:00+00:00", "refusal_code": "runtime_too_long",
        "refusal_params": {"runtime_s": 50_000, "longest_runtime_s": 43_200},
    }  # fmt: skip
    words = render("notice.extension_refused", params, str)
    assert words.message.endswith("2026-03-29 01:30 UTC: 13 h 53 min is longer than this profile allows.")
    assert words.next == "Choose at most 12 h."
    assert "12 小时" in render("notice.extension_refused", params, translations("zh").gettext).next
