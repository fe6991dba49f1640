"""A person's sessions: list them, stop them.

Stopping asks the hub and charges nothing: evidence decides what was used (quota.service.meter). The reason is kept with the
session, so that its owner reads who stopped it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from quota.domain.endings import by_reason
from quota.domain.errors import Forbidden, Unavailable, Unknown
from quota.domain.ids import HoldId
from quota.domain.project import LEADS
from quota.domain.session import OVER, TRANSITIONS, Session, SessionState, Target
from quota.service.callers import Caller, Power, person_named
from quota.service.notices import stopped_notice, tell
from quota.service.ports import Transaction
from quota.service.services import Services
from quota.service.session_ports import StopOrder

_WORDS_MAX: Final = 300
_LOOKED_AT: Final = 50
PORTAL: Final = "portal"  # the stop reason of a session that ended with the portal


async def mine(services: Services, caller: Caller, *, limit: int = 50) -> Sequence[Session]:
    """The caller's sessions, newest first, running and ended."""
    return await services.store.read(lambda tx: tx.sessions.of_person(caller.id, limit=limit))


async def stoppable(services: Services, caller: Caller, hold_id: HoldId) -> Session:
    """A session that the caller may stop: its owner, the project's leads, admins. Raises Unknown('hold'), Forbidden."""
    return await services.store.read(lambda tx: _stoppable(tx, caller, hold_id))


async def stop(services: Services, caller: Caller, hold_id: HoldId, words: str = "") -> Session:
    """Ask the hub to stop a session; one that is over stays as it is.

    Raises Unknown('hold'), Forbidden for anyone but its owner, the project's leads and admins, Unavailable.
    """
    session = await stoppable(services, caller, hold_id)
    if session.state in OVER:
        return session
    words = " ".join(words.split())[:_WORDS_MAX]
    reason = "owner" if session.person_id == caller.id else by_reason(caller.person.hub_name, words)
    # Before the hub is asked: its hint that the session ended may come first, with a reason that says less.
    await services.store.write(lambda tx: _give_reason(tx, hold_id, reason))
    try:
        await services.hub.stop_session(stop_order(services, session, reason))
    except Unavailable:
        await services.store.write(lambda tx: _give_reason(tx, hold_id, session.stop_reason))
        raise
    return await services.store.write(lambda tx: _stopping(services, tx, caller, hold_id, reason))


def stop_order(services: Services, session: Session, reason: str) -> StopOrder:
    """What the hub is told."""
    terms = session.terms
    return StopOrder(terms.hub_name, terms.server_name, session.hold_id, reason, services.policy.stop_grace_s)


def _stopping(services: Services, tx: Transaction, caller: Caller, hold_id: HoldId, reason: str) -> Session:
    session = mark_stopping(tx, hold_id, reason)
    if session.person_id != caller.id:
        by, _, words = reason.removeprefix("by:").partition(" ")
        tell(services, tx, stopped_notice(session, services.clock.now(), by=by, reason=words))
    return session


async def last_ended(services: Services, hub_name: str, server_name: str) -> Session | None:
    """The newest session of a server where it is over; None while one runs, or where none ever did. Raises Unknown('person')."""
    person = await person_named(services, hub_name)
    found = await services.store.read(lambda tx: tx.sessions.of_person(person.id, limit=_LOOKED_AT))
    own = [one for one in found if one.terms.server_name == server_name]
    newest = max(own, key=lambda one: one.held_at, default=None)
    return newest if newest is not None and newest.over else None


async def portal_stops(services: Services) -> int:
    """Note on every running session that the portal is being shut down, before the launcher stops them; how many there are."""

    def work(tx: Transaction) -> int:
        rows = [row for row in tx.sessions.unfinished() if row.stop_reason is None]
        for row in rows:
            tx.sessions.upsert(replace(row, stop_reason=PORTAL))
        return len(rows)

    return await services.store.write(work)


def mark_stopping(tx: Transaction, hold_id: HoldId, reason: str) -> Session:
    """Write down that a stop was asked for; the first reason stands, a session that is over stays as it is."""
    session = tx.sessions.get(hold_id)
    if session is None:
        raise Unknown("hold", hold_id=hold_id)
    if SessionState.STOPPING in TRANSITIONS[session.state]:
        session = replace(
            session, state=SessionState.STOPPING, target=Target.STOPPED, stop_reason=session.stop_reason or reason
        )
        tx.sessions.upsert(session)
    return session


def _give_reason(tx: Transaction, hold_id: HoldId, reason: str | None) -> None:
    session = tx.sessions.get(hold_id)
    if session is not None and session.state not in OVER and session.stop_reason != reason:
        tx.sessions.upsert(replace(session, stop_reason=reason))


def _stoppable(tx: Transaction, caller: Caller, hold_id: HoldId) -> Session:
    session = tx.sessions.get(hold_id)
    if session is None:
        raise Unknown("hold", hold_id=hold_id)
    if session.person_id == caller.id or caller.may(Power.ADMIN):
        return session
    role = tx.projects.role(session.project_id, caller.id)
    if role is None:
        raise Unknown("hold", hold_id=hold_id)
    if role not in LEADS:
        raise Forbidden("only its owner, the project's leads and admins stop a session")
    return session
