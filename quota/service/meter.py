"""The meter: reads evidence of every open session hold and charges, settles or releases by it.

Hooks of the hub are hints that hasten a look (`ended`); a pass finds everything that they missed. Invariants: evidence that
cannot be read settles nothing and extends the lease; each hold is judged by one task at a time in this process, and across
processes by the usage record's id; one hold's trouble never keeps another from being charged.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from weakref import WeakValueDictionary

from quota.domain.errors import IdConflict, QuotaError, Unavailable, Unknown, WrongState
from quota.domain.hold import Hold, HoldKind, HoldState
from quota.domain.ids import HoldId
from quota.domain.session import (
    TRANSITIONS,
    EndReason,
    Evidence,
    Seen,
    Session,
    SessionState,
    SessionTerms,
    Unreachable,
)
from quota.service.admit import session_of
from quota.service.ports import Asked, HubServer, Transaction
from quota.service.services import Services
from quota.service.sessions import mark_stopping
from quota.service.settle import Sighting, Verdict, judge, usages_due

log = logging.getLogger("quota.meter")
_AT_ONCE: Final = 16  # holds looked at together: enough for the ledger to group their commits


class Outcome(StrEnum):
    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one pass found and did; `open_session_holds` counts those still open after it, unknown ones included."""

    open_session_holds: int
    settled: int
    released: int
    unknown: int


class Meter:
    """Holds the hints that have not led to an end yet; a hint lost in a restart costs time, no amount."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._hints: dict[HoldId, datetime] = {}
        self._locks: WeakValueDictionary[HoldId, asyncio.Lock] = WeakValueDictionary()

    async def run_pass(self, servers: Sequence[HubServer] | None) -> PassReport:
        """Look at every open session hold once; `servers` is what the hub lists, None while it does not answer."""
        holds = await self._services.ledger.open_holds(HoldKind.SESSION)
        self._hints = {hold.id: self._hints[hold.id] for hold in holds if hold.id in self._hints}
        listed = _listed(holds, servers)
        seen = await self._read(holds)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(hold: Hold) -> Outcome:
            async with gate:
                return await self._look(hold.id, listed.get(hold.id), seen[hold.id])

        counts = Counter(await asyncio.gather(*(one(hold) for hold in holds)))
        await self._repair_rows({hold.id for hold in holds})
        settled, released = counts[Outcome.SETTLED], counts[Outcome.RELEASED]
        return PassReport(len(holds) - settled - released, settled, released, counts[Outcome.UNKNOWN])

    async def ended(self, hold_id: HoldId, reason: str) -> SessionState:
        """Take the hub's hint that a session ended or never started; evidence decides, at once if there is any.

        Raises Unknown('hold').
        """
        hold = await self._services.ledger.hold(hold_id)
        if hold is None or hold.kind is not HoldKind.SESSION or hold.state is HoldState.REFUSED:
            raise Unknown("hold", hold_id=hold_id)
        if hold.state is HoldState.HELD:
            self._hints.setdefault(hold_id, self._services.clock.now())
            await self._services.store.write(lambda tx: _hinted(tx, hold, reason))
            await self._look(hold_id, None, (await self._read([hold]))[hold_id])
        session = await self._services.store.read(lambda tx: tx.sessions.get(hold_id))
        return session.state if session is not None else SessionState.HELD

    def due_in_s(self) -> float:
        """Seconds until the next pass: the policy's interval, sooner where a hint's grace ends before."""
        now, policy = self._services.clock.now(), self._services.policy
        grace = timedelta(seconds=policy.ended_grace_s)
        waits = [(at + grace - now).total_seconds() for at in self._hints.values()]
        return max(1.0, min([w for w in waits if w > 0], default=float(policy.meter_interval_s)))

    async def _read(self, holds: Sequence[Hold]) -> Mapping[HoldId, Seen]:
        """One look at the evidence of all these holds; an outage stands in the place of what could not be read."""
        try:
            found = await self._services.evidence.read([asked_of(hold) for hold in holds])
        except Unavailable as error:
            found = {hold.id: Unreachable(str(error)) for hold in holds}
        silent = Unreachable("nothing was said of it")
        return {hold.id: found.get(hold.id, silent) for hold in holds}

    async def _look(self, hold_id: HoldId, listed: bool | None, seen: Seen) -> Outcome:
        lock = self._locks.setdefault(hold_id, asyncio.Lock())
        async with lock:
            try:
                return await self._advance(hold_id, listed, seen)
            except (IdConflict, WrongState):  # another process was faster; the next pass sees what it did
                return Outcome.OPEN
            except Unavailable as error:
                log.warning("hold %s: cannot be judged: %s", hold_id, error)
                return Outcome.UNKNOWN
            except QuotaError:  # contradictory evidence among them; a pass that fell over it would reach nobody else
                log.exception("hold %s: the ledger does not take what its evidence says; it stays open", hold_id)
                return Outcome.UNKNOWN

    async def _advance(self, hold_id: HoldId, listed: bool | None, found: Seen) -> Outcome:
        services = self._services
        hold = await services.ledger.hold(hold_id)
        if hold is None or hold.state is not HoldState.HELD:
            self._hints.pop(hold_id, None)
            return Outcome.SETTLED
        if isinstance(found, Unreachable):
            log.warning("hold %s: cannot be judged: %s", hold_id, found.why)
            await self._lost_sight(hold)
            return Outcome.UNKNOWN
        seen = Sighting(services.clock.now(), listed, self._hints.get(hold_id))
        outcome = await self._perform(judge(hold, found, seen, services.policy), hold, found, seen)
        if outcome in (Outcome.SETTLED, Outcome.RELEASED):
            self._hints.pop(hold_id, None)
            await services.evidence.settled([hold_id])
        return outcome

    async def _perform(self, verdict: Verdict, hold: Hold, evidence: Evidence | None, seen: Sighting) -> Outcome:
        ledger, terms = self._services.ledger, SessionTerms.from_details(hold.details)
        if verdict is Verdict.WAIT:
            if seen.listed:
                await self._extend(hold, self._services.policy.start_lease_s)
            return Outcome.OPEN
        if verdict is Verdict.RELEASE:
            await ledger.release(hold.id, seen.at, EndReason.NEVER_STARTED.value)
            await self._note(hold, SessionState.FAILED, evidence, EndReason.NEVER_STARTED)
            return Outcome.RELEASED
        if verdict is Verdict.LOST:
            await ledger.settle(hold.id, seen.at)
            await self._note(hold, SessionState.SETTLED, evidence, EndReason.LOST)
            return Outcome.SETTLED
        assert evidence is not None
        due = usages_due(hold, terms, evidence)
        if verdict is Verdict.SETTLE:
            for usage in due[:-1]:
                await ledger.charge(usage)
            await ledger.settle(hold.id, seen.at, due[-1] if due else None)
            await self._note(hold, SessionState.SETTLED, evidence, evidence.reason)
            return Outcome.SETTLED
        for usage in due:
            await ledger.charge(usage)
        await self._extend(hold, self._services.policy.unknown_lease_s)
        await self._note(hold, SessionState.RUNNING, evidence, None)
        return Outcome.OPEN

    async def _repair_rows(self, looked_at: set[HoldId]) -> None:
        """Bring rows in line whose hold was closed right before a crash."""
        for session in await self._services.store.read(lambda tx: tx.sessions.unfinished()):
            if session.hold_id in looked_at:
                continue
            hold = await self._services.ledger.hold(session.hold_id)
            if hold is None or hold.state is HoldState.HELD:
                continue
            settled = hold.state is HoldState.SETTLED
            seen = (await self._read([hold]))[hold.id]
            evidence = None if isinstance(seen, Unreachable) else seen
            reason = evidence.reason if evidence is not None and settled else None
            await self._note(
                hold,
                SessionState.SETTLED if settled else SessionState.FAILED,
                evidence,
                reason or (EndReason.LOST if settled else EndReason.NEVER_STARTED),
            )

    async def _lost_sight(self, hold: Hold) -> None:
        await self._extend(hold, self._services.policy.unknown_lease_s)
        await self._note(hold, SessionState.UNKNOWN, None, None)

    async def _extend(self, hold: Hold, lease_s: int) -> None:
        """Move the lease once half of it is gone, so that a pass does not write for every hold."""
        now = self._services.clock.now()
        if hold.lease_until < now + timedelta(seconds=lease_s / 2):
            await self._services.ledger.extend_lease(hold.id, now + timedelta(seconds=lease_s))

    async def _note(self, hold: Hold, state: SessionState, evidence: Evidence | None, reason: EndReason | None) -> None:
        """Bring the session's row in line; a row that a crash left out is made again, one that says so already is left."""
        known = await self._services.store.read(lambda tx: tx.sessions.get(hold.id))
        if known is None or _updated(known, state, evidence, reason) != known:
            await self._services.store.write(lambda tx: _write_down(tx, hold, state, evidence, reason))


def asked_of(hold: Hold) -> Asked:
    """What evidence is asked for a hold, by what it pinned."""
    terms = SessionTerms.from_details(hold.details)
    return Asked(hold.id, terms.backend, terms.profile, hold.project_id, hold.placed_at)


def _listed(holds: Sequence[Hold], servers: Sequence[HubServer] | None) -> Mapping[HoldId, bool | None]:
    """Whether the hub lists each hold's server. Of several open holds of one server, only the newest can be the one listed."""
    if servers is None:
        return {hold.id: None for hold in holds}
    subjects = {f"{server.hub_name}/{server.server_name}" for server in servers}
    newest = {hold.subject: hold.id for hold in holds}  # oldest first: the last one stays
    return {hold.id: hold.subject in subjects and newest[hold.subject] == hold.id for hold in holds}


def _hinted(tx: Transaction, hold: Hold, reason: str) -> None:
    if tx.sessions.get(hold.id) is None:
        tx.sessions.upsert(session_of(hold))
    mark_stopping(tx, hold.id, reason)


def _write_down(
    tx: Transaction, hold: Hold, state: SessionState, evidence: Evidence | None, reason: EndReason | None
) -> None:
    old = tx.sessions.get(hold.id) or session_of(hold)
    tx.sessions.upsert(_updated(old, state, evidence, reason))


def _updated(old: Session, state: SessionState, evidence: Evidence | None, reason: EndReason | None) -> Session:
    stopping = old.state is SessionState.STOPPING and state in (SessionState.RUNNING, SessionState.UNKNOWN)
    allowed = state in TRANSITIONS[old.state] and not stopping
    new = replace(old, state=state if allowed else old.state, end_reason=reason or old.end_reason)
    if evidence is None or evidence.started_at is None:
        return replace(new, ended_at=old.alive_at) if reason is EndReason.LOST else new
    return replace(
        new,
        started_at=evidence.started_at,
        alive_at=evidence.ended_at or evidence.alive_at,
        ends_at=evidence.started_at + timedelta(seconds=old.terms.runtime_s),
        ended_at=evidence.ended_at,
    )
