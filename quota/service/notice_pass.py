"""Finds what has to be told because of time or balances: the ends of sessions, and allocations that run low.

Invariants: a notice before an end is written at most `EVERY_S` after it is due; a pass that finds the same again tells nobody
twice (the notice's id sees to that, also across processes and restarts); what this process told already it does not write again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from quota.domain.notice import ENDING_STEPS_S, Notice, NoticeKind, balance_notices, ending_step, next_step_at
from quota.domain.project import LEADS, Allocation
from quota.domain.session import Session, Target
from quota.service.notices import about_session, instant_param, tell
from quota.service.ports import Transaction
from quota.service.services import Services

EVERY_S: Final = 5.0
_SOONEST_S: Final = 0.2
_BALANCES_EVERY: Final = timedelta(seconds=20)
_HORIZON: Final = timedelta(seconds=ENDING_STEPS_S[0] + 60)
_REMEMBERED_MAX: Final = 200_000


class NoticePass:
    """One pass after the other; remembers what it told, so that the usual pass writes nothing."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._told: set[str] = set()
        self._next_at: datetime | None = None
        self._balances_at: datetime | None = None

    async def run(self) -> int:
        """Look once; how many notices are new. Raises Unavailable."""
        at = self._services.clock.now()
        sessions = await self._services.store.read(lambda tx: tx.sessions.ending(at, at + _HORIZON))
        found = [one for session in sessions if (one := ending_notice(session, at)) is not None]
        self._next_at = min((due for one in sessions if (due := _due_after(one, at)) is not None), default=None)
        if self._balances_at is None or at >= self._balances_at + _BALANCES_EVERY:
            found += await self._services.store.read(lambda tx: balance_notices_of(tx, tx.accounts.strained(at), at))
            self._balances_at = at
        return await self._tell(found)

    def due_in_s(self) -> float:
        """Seconds until the next pass: when the next notice is due, at the latest after EVERY_S."""
        if self._next_at is None:
            return EVERY_S
        left_s = (self._next_at - self._services.clock.now()).total_seconds()
        return min(max(left_s, _SOONEST_S), EVERY_S)

    async def _tell(self, found: Iterable[Notice]) -> int:
        fresh = [one for one in found if one.id not in self._told]
        if not fresh:
            return 0
        new = await self._services.store.write(lambda tx: sum(tell(self._services, tx, one) for one in fresh))
        if len(self._told) > _REMEMBERED_MAX:  # the store still knows; forgetting costs a write
            self._told.clear()
        self._told.update(one.id for one in fresh)
        return new


def ending_notice(session: Session, at: datetime) -> Notice | None:
    """The notice before a session's end that is due, else None."""
    if session.started_at is None or session.ends_at is None:
        return None
    step = ending_step(session.started_at, session.ends_at, at)
    if step is None:
        return None
    ends_at = instant_param(session.ends_at)
    params: dict[str, object] = {"ends_at": ends_at, "left_s": _whole_minutes(step.left_s), "step_s": step.step_s}
    if session.target is Target.STOPPED and session.stop_at == session.ends_at and session.stop_reason:
        params["why_code"] = session.stop_reason  # it has to end then: a decision, with its reason
    made = about_session(session, NoticeKind.ENDING, f"{step.step_s}@{ends_at}", at, params)
    return replace(made, until=session.ends_at)


def balance_notices_of(tx: Transaction, allocations: Sequence[Allocation], at: datetime) -> list[Notice]:
    """What the people of these allocations' projects have to be told of them: the leads, and of exhaustion everybody."""
    found = []
    for one in allocations:
        project = tx.projects.get(one.project_id)
        told = balance_notices(one.balance)
        if project is None or not told:
            continue
        members = tx.projects.members(one.project_id)
        numbers = {
            "project": project.title,
            "unit": one.unit.value,
            "awarded": one.balance.awarded,
            "charged": one.balance.charged,
            "held": one.balance.held,
            "available": one.balance.awarded - one.balance.charged,
        }
        for kind, occasion in told:
            params = {**numbers, **({"percent": occasion.partition("@")[0]} if kind is NoticeKind.LOW else {})}
            found += [
                Notice(member.person_id, kind, one.id, occasion, at, params, one.project_id, one.ends_at)
                for member in members
                if member.role in LEADS or kind is NoticeKind.EXHAUSTED
            ]
    return found


def _due_after(session: Session, at: datetime) -> datetime | None:
    if session.started_at is None or session.ends_at is None:
        return None
    return next_step_at(session.started_at, session.ends_at, at)


def _whole_minutes(seconds: int) -> int:
    """Seconds for people: whole minutes, from a minute on."""
    return round(seconds / 60) * 60 if seconds >= 60 else seconds
