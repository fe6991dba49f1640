"""Notices on pages: the unread ones on the home page, all of them on a page of their own, and the choice of mails.

A notice is a code with parameters: it is rendered here, in the language of whoever reads it now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup
from starlette.responses import Response

from quota import locales
from quota.domain.messages import Style, render
from quota.domain.notice import Choice, Notice, NoticeKind, Topic
from quota.pages.said import msgid, said
from quota.pages.statement import before_of
from quota.pages.templating import instant_markup
from quota.pages.visit import Fields, Visit
from quota.service import notices

PAGE_NOTICES: Final = 50
_ICONS: Final = {
    NoticeKind.ENDING: "hourglass-split",
    NoticeKind.IDLE: "moon-stars",
    NoticeKind.STOPPED: "stop-circle-fill",
    NoticeKind.EXTENDED: "check-circle-fill",
    NoticeKind.READY: "check-circle-fill",
    NoticeKind.PENDING: "hourglass-split",
}
_GOOD: Final = frozenset({NoticeKind.EXTENDED, NoticeKind.READY})
TOPICS: Final[dict[Topic, str]] = {
    Topic.ENDING: msgid("half an hour before a session of mine ends"),
    Topic.ENDING_SOON: msgid("ten and two minutes before it ends, too"),
    Topic.STOPPED: msgid("when a session of mine is idle, or was stopped by somebody else"),
    Topic.EXTENSION: msgid("when a session of mine was extended, or could not be"),
    Topic.QUEUE: msgid("when a session that waited is ready, or waits long"),
    Topic.PROJECT: msgid("when a project of mine is suspended, or I am removed from one"),
    Topic.BALANCE: msgid("when a project that I lead runs low, or nothing is left"),
}


@dataclass(frozen=True, slots=True)
class NoticeView:
    """A notice in the reader's words, as markup in which instants are <time> elements."""

    notice: Notice
    text: str
    next: str
    icon: str
    good: bool


def views_of(visit: Visit, found: Sequence[Notice]) -> list[NoticeView]:
    """The notices in the reader's language."""
    return [_view(visit, one) for one in found]


async def show(visit: Visit) -> Response:
    """Everything that the reader was told, newest first; `?before=` turns the pages."""
    before = before_of(visit.request.query_params.get("before"))
    page = await notices.listed(visit.desk.services, visit.caller, before=before, limit=PAGE_NOTICES)
    return visit.render("notices.html", views=views_of(visit, page.notices), next=page.next, said=said(visit.request))


async def put_away(visit: Visit, fields: Fields) -> Response:
    """Put the notices named by `seq` away (one, or several with commas), and go back home."""
    seqs = [
        int(text) for text in fields.get("seq", "").split(",") if text.isascii() and text.isdigit() and len(text) < 19
    ]
    await notices.put_away(visit.desk.services, visit.caller, seqs)
    return visit.to("now" if visit.htmx else "")


async def choices(visit: Visit) -> Response:
    """Which mails the reader gets, and in which language."""
    chosen = await notices.choice(visit.desk.services, visit.caller)
    services = visit.desk.services
    return visit.render(
        "notice_choices.html",
        chosen=chosen,
        topics=[(topic.value, text, topic in chosen.mails) for topic, text in TOPICS.items()],
        sends_mail=services.sends_mail,
        email=visit.caller.person.email,
        said=said(visit.request),
    )


async def choose(visit: Visit, fields: Fields) -> Response:
    """Keep what was ticked; an unknown language means the one of the sign-in."""
    language = fields.get("language", "")
    wanted = frozenset(topic for topic in Topic if fields.get(f"mail_{topic.value}") == "on")
    choice = Choice(language if language in locales.LANGUAGES else None, wanted)
    await notices.choose(visit.desk.services, visit.caller, choice)
    return visit.to("notices/choices", said="chosen")


def _view(visit: Visit, notice: Notice) -> NoticeView:
    style = Style(Markup, lambda at: instant_markup(at, language=visit.language))
    full = notices.titled(notice, visit.desk.services.catalogue, visit.language)
    words = render(full.code, full.params, visit.gettext, style)
    icon = _ICONS.get(notice.kind, "exclamation-triangle-fill")
    return NoticeView(notice, words.message, words.next, icon, notice.kind in _GOOD)
