"""Why a session ended, in words, for every end that a backend reports and every wish that is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quota.domain.endings import by_reason, ending
from quota.domain.messages import MESSAGES, render
from quota.domain.session import EndReason, Session, SessionState
from quota.locales import translations
from tests.unit.quota.pages.fakes import HOUR, World


def ended(end_reason: EndReason | None, stop_reason: str | None) -> Session:
    world = World()
    session = world.session(world.project("Folding", "ada", gpu=(HOUR, 0, 0)), "ada", SessionState.SETTLED)
    return replace(session, end_reason=end_reason, stop_reason=stop_reason)


def words(end_reason: EndReason | None, stop_reason: str | None, language: str = "en") -> str:
    code, params = ending(ended(end_reason, stop_reason))
    return render(code, params, translations(language).gettext).message


@pytest.mark.parametrize("reason", list(EndReason))
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_end_that_a_backend_reports_has_words(reason: EndReason, language: str) -> None:
    said = words(reason, None, language)
    assert said
    assert not said.startswith("end.")
    assert "–" not in said


@pytest.mark.parametrize("code", [code for code in MESSAGES if code.startswith("why.") and code != "why."])
def test_every_wish_that_ends_a_session_has_words(code: str) -> None:
    assert words(EndReason.STOPPED, code.removeprefix("why.")).startswith("Stopped: ")
    assert words(EndReason.STOPPED, code.removeprefix("why."), "zh").startswith("已停止：")


def test_somebody_elses_stop_names_them_and_their_words() -> None:
    assert words(EndReason.STOPPED, by_reason("grace")) == "Stopped by grace."
    assert (
        words(EndReason.EXITED, by_reason("grace", "The node is needed: now."))
        == "Stopped by grace: The node is needed: now."
    )


def test_a_stop_by_its_owner_or_of_the_hub_is_one_on_request() -> None:
    for reason in ("owner", "stopped", None, "words that nobody knows"):
        assert words(EndReason.STOPPED, reason) == "Stopped on request."


def test_a_wish_does_not_hide_what_the_backend_saw() -> None:
    assert words(EndReason.LOST, "idle").startswith("Its host was lost")
    assert words(EndReason.DEADLINE, by_reason("grace")) == "The chosen runtime was over."
    assert words(EndReason.NEVER_STARTED, "portal").startswith("It never started")
