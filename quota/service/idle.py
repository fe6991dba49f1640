"""Idle sessions: what the hub's culler saw of a notebook's kernels, and what follows; keeping one alive.

The culler asks about each running server and stops it where the answer says so (hub.idle). Invariants: what is not known is not idle; the
reason `idle` and its notice are written before anything is stopped; evidence, not this, decides what was used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from quota.domain.errors import Forbidden, Invalid, Unknown, WrongState
from quota.domain.idle import IdleRule, IdleState, IdleVerdict, judge, keep, stop_instant
from quota.domain.ids import HoldId
from quota.domain.notice import NoticeKind
from quota.domain.session import Session, SessionState, Target
from quota.service.callers import Caller
from quota.service.notices import about_session, instant_param, stopped_notice, tell
from quota.service.ports import Transaction
from quota.service.services import Services

IDLE: Final = "idle"
_SESSIONS: Final = 50
_NOTED_EVERY_S: Final = 300  # a later use is written down this rarely, or after a twelfth of the idle time


@dataclass(frozen=True, slots=True)
class Activity:
    """What a look at a notebook showed: whether a kernel or terminal works now, else when one last did (None: none ever did)."""

    hub_name: str
    server_name: str
    busy: bool
    active_at: datetime | None


@dataclass(frozen=True, slots=True)
class Idle:
    """A session's idleness as people see it; `stops_at` is when it is stopped if nothing happens."""

    state: IdleState
    stops_at: datetime


async def seen(services: Services, activity: Activity) -> IdleVerdict | None:
    """Take what was seen; None where nothing is known to run there. With `stop` the session is marked: it has to be stopped now."""
    at = services.clock.now()
    return await services.store.write(lambda tx: _seen(services, tx, activity, at))


async def keep_alive(services: Services, caller: Caller, hold_id: HoldId, seconds: int) -> datetime:
    """Keep the caller's running session for `seconds` more although it is idle; until when it is kept, at most what its profile allows after
    the last use that is known by now.

    Raises Unknown('hold'), Forbidden, WrongState where it does not run, Invalid.
    """
    at = services.clock.now()
    if seconds <= 0:
        raise Invalid([("seconds", "out_of_range")])

    def work(tx: Transaction) -> datetime:
        session = _own(tx, caller, hold_id)
        if session.started_at is None or session.over or session.target is Target.STOPPED:
            raise WrongState("only a running session can be kept alive", hold_id=hold_id)
        rule = rule_of(services, session)
        state = tx.idle.get(hold_id) or IdleState(session.started_at)
        kept = keep(state, at, seconds)
        tx.idle.put(hold_id, kept)
        return stop_instant(rule, kept)

    return await services.store.write(work)


def idle_of(services: Services, tx: Transaction, session: Session) -> Idle | None:
    """How idle a session is, or was when it ended; None where nothing is known of it, or its profile stops nobody."""
    rule, state = rule_of(services, session), tx.idle.get(session.hold_id)
    if state is None or rule.idle_s == 0:
        return None
    return Idle(state, stop_instant(rule, state))


async def idleness(services: Services, sessions: Sequence[Session]) -> Sequence[Idle | None]:
    """`idle_of` each of these."""
    return await services.store.read(lambda tx: [idle_of(services, tx, one) for one in sessions])


def rule_of(services: Services, session: Session) -> IdleRule:
    """The rule of the session's profile; a profile that the site no longer has stops nobody."""
    profile = services.catalogue.profile(session.terms.profile)
    if profile is None:
        return IdleRule(0, services.policy.idle_notice_s, 0)
    return IdleRule(profile.idle_s, services.policy.idle_notice_s, profile.keep_alive_s)


def _seen(services: Services, tx: Transaction, activity: Activity, at: datetime) -> IdleVerdict | None:
    session = _running(tx, activity)
    if session is None or session.started_at is None:
        return None
    known = tx.idle.get(session.hold_id)
    used_at = at if activity.busy else min(activity.active_at or session.started_at, at)
    rule = rule_of(services, session)
    verdict = judge(rule, known or IdleState(session.started_at), used_at, at)
    if known is None or _differs(rule, known, verdict.state):
        tx.idle.put(session.hold_id, verdict.state)
    if verdict.tell and verdict.stops_at is not None:
        params = {"stops_at": instant_param(verdict.stops_at)}
        notice = about_session(session, NoticeKind.IDLE, instant_param(at), at, params)
        tell(services, tx, replace(notice, until=verdict.stops_at))
    if verdict.stop:
        tx.sessions.upsert(replace(session, target=Target.STOPPED, stop_reason=session.stop_reason or IDLE))
        tell(services, tx, stopped_notice(session, at, why=IDLE))
    return verdict


def _running(tx: Transaction, activity: Activity) -> Session | None:
    person = tx.people.by_hub_name(activity.hub_name)
    if person is None:
        return None
    for session in tx.sessions.of_person(person.id, limit=_SESSIONS):
        here = session.terms.server_name == activity.server_name and not session.over
        if here and session.state is SessionState.RUNNING and session.target is Target.RUNNING:
            return session
    return None


def _differs(rule: IdleRule, known: IdleState, now: IdleState) -> bool:
    later_s = (now.active_at - known.active_at).total_seconds()
    worth_it = later_s >= min(_NOTED_EVERY_S, rule.idle_s / 12)
    return known.told_at != now.told_at or worth_it or (later_s > 0 and known.kept_until is not None)


def _own(tx: Transaction, caller: Caller, hold_id: HoldId) -> Session:
    session = tx.sessions.get(hold_id)
    if session is None:
        raise Unknown("hold", hold_id=hold_id)
    if session.person_id != caller.id:
        if tx.projects.role(session.project_id, caller.id) is None:
            raise Unknown("hold", hold_id=hold_id)
        raise Forbidden("only its owner keeps a session alive")
    return session
