"""Tell people something, let them read it and put it away, and let them choose which mails they get.

A use case that changes something calls `tell` in its own transaction: event, notice and the mail's outbox row commit together or
not at all. What follows from time or balances is found by `quota.service.notice_pass`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from quota.domain.ids import HoldId, PersonId
from quota.domain.notice import Choice, Notice, NoticeKind
from quota.domain.project import Project
from quota.domain.session import OVER, Session
from quota.service.callers import Caller
from quota.service.ports import Transaction
from quota.service.services import Services
from quota.service.session_ports import ProfileCatalogue

_SHOWN: Final = 20
_SAME_END: Final = timedelta(seconds=60)  # an end that moved by less is the end that the notice spoke of


@dataclass(frozen=True, slots=True)
class NoticePage:
    """Newest first; `next` is passed as `before` for the following page, None at the end."""

    notices: Sequence[Notice]
    next: int | None


def tell(services: Services, tx: Transaction, notice: Notice) -> bool:
    """Write `notice` down, and its mail where the person wants one; False where they were told before."""
    wanted = services.sends_mail and notice.topic in tx.notices.choice(notice.person_id).mails
    return tx.notices.add(notice, mail=wanted)


def about_session(
    session: Session, kind: NoticeKind, occasion: str, at: datetime, params: Mapping[str, object] | None = None
) -> Notice:
    """A notice to a session's owner."""
    named = {"profile": session.terms.profile, "server_name": session.terms.server_name, **(params or {})}
    return Notice(session.person_id, kind, session.hold_id, occasion, at, named, session.project_id)


def stopped_notice(session: Session, at: datetime, *, why: str = "", by: str = "", reason: str = "") -> Notice:
    """That a session was stopped: `by` somebody (a user name) with their `reason`, or for `why`, a code of `why.…`."""
    params = {"why_code": why, "by": by, "reason": reason}
    return about_session(session, NoticeKind.STOPPED, "once", at, {name: text for name, text in params.items() if text})


def ready_notice(session: Session, at: datetime) -> Notice:
    """That a session that waited in a queue runs and answers; once for each time that it began to."""
    began = session.started_at or at
    ends = {} if session.ends_at is None else {"ends_at": instant_param(session.ends_at)}
    return replace(about_session(session, NoticeKind.READY, instant_param(began), at, ends), until=session.ends_at)


def about_project(
    project: Project, person_id: PersonId, kind: NoticeKind, occasion: str, at: datetime, reason: str = ""
) -> Notice:
    """A notice to a person of a project."""
    params = {"project": project.title, **({"reason": reason} if reason else {})}
    return Notice(person_id, kind, project.id, occasion, at, params, project.id)


async def unread(services: Services, caller: Caller) -> tuple[Sequence[Notice], int]:
    """What the caller has not put away and is still true, newest first; and the seq of the newest that there is at all."""
    at = services.clock.now()

    def work(tx: Transaction) -> tuple[list[Notice], int]:
        found = tx.notices.unread(caller.id, limit=_SHOWN)
        return [one for one in found if still_true(tx, one, at)], tx.notices.latest([caller.id]).get(caller.id, 0)

    return await services.store.read(work)


async def listed(services: Services, caller: Caller, *, before: int | None, limit: int) -> NoticePage:
    """Everything that the caller was told, newest first."""
    found = await services.store.read(lambda tx: tx.notices.of_person(caller.id, before=before, limit=limit + 1))
    return NoticePage(found[:limit], found[limit - 1].seq if len(found) > limit else None)


async def put_away(services: Services, caller: Caller, seqs: Collection[int]) -> None:
    """Mark notices of the caller as read; others' are left alone."""
    at = services.clock.now()
    await services.store.write(lambda tx: tx.notices.put_away(caller.id, seqs, at))


async def choice(services: Services, caller: Caller) -> Choice:
    return await services.store.read(lambda tx: tx.notices.choice(caller.id))


async def choose(services: Services, caller: Caller, wanted: Choice) -> None:
    await services.store.write(lambda tx: tx.notices.choose(caller.id, wanted))


def titled(notice: Notice, catalogue: ProfileCatalogue, language: str) -> Notice:
    """The notice with its profile's title in the reader's language as a further parameter, `profile_title`."""
    profile = catalogue.profile(str(notice.params.get("profile", "")))
    if profile is None:
        return notice
    return replace(notice, params={**notice.params, "profile_title": profile.title_in(language)})


def instant_param(at: datetime) -> str:
    """An instant as a notice's parameter."""
    return at.astimezone(UTC).isoformat(timespec="seconds")


def still_true(tx: Transaction, notice: Notice, at: datetime) -> bool:
    """Whether what a notice says still lies ahead: an end that was moved or has come is no news."""
    if notice.until is not None and at >= notice.until:
        return False
    if notice.kind not in (NoticeKind.ENDING, NoticeKind.IDLE):
        return True
    session = tx.sessions.get(HoldId(notice.subject))
    if session is None or session.state in OVER:
        return False
    if notice.kind is NoticeKind.IDLE:
        idle = tx.idle.get(session.hold_id)
        return idle is not None and idle.told_at is not None
    if session.ends_at is None or notice.until is None:
        return True
    return abs(session.ends_at - notice.until) < _SAME_END
