"""The meter: one look at the evidence of every open session hold; charges, settles and releases by it, all of them together.

Hooks of the hub are hints that hasten a look (`ended`); a pass finds everything that they missed. Invariants: evidence that
cannot be read settles nothing and extends the lease; of two that saw the same state only one can charge, by the usage record's id;
one hold's trouble never keeps another from being charged; the last proof of life is in the rows after every pass.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Final, TypeVar

from quota.domain.errors import IdConflict, QuotaError, Unavailable, Unknown, WrongState
from quota.domain.hold import Hold, HoldKind, HoldState, Usage
from quota.domain.ids import HoldId
from quota.domain.session import LOCAL, EndReason, Seen, Session, SessionState, Unreachable, observed
from quota.service.act import Actions
from quota.service.admit import session_of
from quota.service.look import Look, look
from quota.service.notices import ready_notice, tell
from quota.service.ports import Transaction
from quota.service.services import Services
from quota.service.session_ports import Asked, HubView
from quota.service.sessions import mark_stopping
from quota.service.settle import Sighting, Verdict

log = logging.getLogger("quota.meter")
T = TypeVar("T")
R = TypeVar("R")
_AT_ONCE: Final = 256  # holds closed together: enough for the ledger to group their commits
_OTHERS: Final = (IdConflict, WrongState)  # another process was faster; the next pass sees what it did


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
        self._one_pass = asyncio.Lock()
        self.actions = Actions(services)
        self.rows: Sequence[Session] = ()  # as the last pass left those that are not over

    async def run_pass(self, hub: HubView | None) -> PassReport:
        """Look at every open session hold once; `hub` is what the hub lists, None while it does not answer."""
        async with self._one_pass:
            services = self._services
            holds = await services.ledger.open_holds(HoldKind.SESSION)
            unfinished = await services.store.read(lambda tx: tx.sessions.unfinished())
            rows = {row.hold_id: row for row in unfinished}
            self._hints = {hold.id: self._hints[hold.id] for hold in holds if hold.id in self._hints}
            outcomes, after = await self._look_at(holds, rows, hub)
            self.rows = [row for row in after if not row.over]
            open_ids = {hold.id for hold in holds}
            await self._repair_rows([row for row in unfinished if row.hold_id not in open_ids])
        counts = Counter(outcomes)
        settled, released = counts[Outcome.SETTLED], counts[Outcome.RELEASED]
        return PassReport(len(holds) - settled - released, settled, released, counts[Outcome.UNKNOWN])

    async def ended(self, hold_id: HoldId, reason: str) -> SessionState:
        """Take the hub's hint that a session ended or never started; evidence decides, at once if there is any.

        Raises Unknown('hold').
        """
        services = self._services
        hold = await services.ledger.hold(hold_id)
        if hold is None or hold.kind is not HoldKind.SESSION or hold.state is HoldState.REFUSED:
            raise Unknown("hold", hold_id=hold_id)
        if hold.state is HoldState.HELD:
            self._hints.setdefault(hold_id, services.clock.now())
            row = await services.store.write(lambda tx: _hinted(tx, hold, reason))
            await self._look_at([hold], {hold_id: row}, None)
        session = await services.store.read(lambda tx: tx.sessions.get(hold_id))
        return session.state if session is not None else SessionState.HELD

    def due_in_s(self) -> float:
        """Seconds until the next pass: the policy's interval, sooner where a hint's grace ends before."""
        now, policy = self._services.clock.now(), self._services.policy
        grace = timedelta(seconds=policy.ended_grace_s)
        waits = [(at + grace - now).total_seconds() for at in self._hints.values()]
        return max(1.0, min([w for w in waits if w > 0], default=float(policy.meter_interval_s)))

    async def _look_at(
        self,
        holds: Sequence[Hold],
        rows: Mapping[HoldId, Session],
        hub: HubView | None,
    ) -> tuple[list[Outcome], list[Session]]:
        """Read, judge, charge, close, write down: each step for all holds together. What came of each, and its row then."""
        seen, policy = await self._read(holds), self._services.policy
        at = self._services.clock.now()
        listed, answering = listed_by(holds, hub), answering_in(hub)
        looks = []
        for hold in holds:
            sighting = Sighting(at, listed[hold.id], self._hints.get(hold.id), None if hub is None else hub.since)
            looks.append(look(hold, rows.get(hold.id) or session_of(hold), seen[hold.id], sighting, policy))
        failed = await self._charge(looks)
        failed |= await self._close(looks, failed, at)
        await self._renew(looks, at)
        after = [one.row if one.hold.id in failed else one.row_after() for one in looks]
        taken = [pair for pair in zip(looks, after, strict=True) if pair[0].hold.id not in failed]
        await self._write_down(taken, rows, answering)
        closed = [one.hold.id for one in looks if one.closes and one.hold.id not in failed]
        for hold_id in closed:
            self._hints.pop(hold_id, None)
        if closed:
            await self._services.evidence.settled(closed)
        return [_outcome(one, failed) for one in looks], after

    async def _read(self, holds: Sequence[Hold]) -> Mapping[HoldId, Seen]:
        """One look at the evidence of all these holds; an outage stands in the place of what could not be read."""
        try:
            found = await self._services.evidence.read([asked_of(hold) for hold in holds])
        except Unavailable as error:
            found = {hold.id: Unreachable(str(error)) for hold in holds}
        silent = Unreachable("nothing was said of it")
        return {hold.id: found.get(hold.id, silent) for hold in holds}

    async def _charge(self, looks: Sequence[Look]) -> set[HoldId]:
        """Charge all that is due but the last slice of a session that ends, which its settlement carries; the holds that failed."""
        usages: list[Usage] = []
        for one in looks:
            usages.extend(one.due[:-1] if one.verdict is Verdict.SETTLE else one.due)
        failed: set[HoldId] = set()
        for usage, answer in zip(usages, await self._services.ledger.charge_many(usages), strict=True):
            if isinstance(answer, QuotaError):
                failed.add(usage.hold_id)
                _tell(usage.hold_id, answer)
        return failed

    async def _close(self, looks: Sequence[Look], failed: set[HoldId], at: datetime) -> set[HoldId]:
        """Settle or release what is over; the holds that stay open all the same."""
        closing = [one for one in looks if one.closes and one.hold.id not in failed]

        async def close(one: Look) -> HoldId | None:
            try:
                if one.verdict is Verdict.RELEASE:
                    reason = one.reason or EndReason.NEVER_STARTED
                    await self._services.ledger.release(one.hold.id, at, reason.value)
                else:
                    await self._services.ledger.settle(one.hold.id, at, one.due[-1] if one.due else None)
            except QuotaError as error:
                _tell(one.hold.id, error)
                return one.hold.id
            return None

        return {hold_id for hold_id in await _gathered(closing, close) if hold_id is not None}

    async def _renew(self, looks: Sequence[Look], at: datetime) -> None:
        """Move leases once half of them is gone, so that a pass does not write for every hold."""
        policy = self._services.policy
        late: list[tuple[HoldId, datetime]] = []
        for one in looks:
            runs = one.verdict is None or one.verdict is Verdict.CHARGE
            lease_s = policy.unknown_lease_s if runs else policy.start_lease_s if one.listed else 0
            if lease_s and not one.closes and one.hold.lease_until < at + timedelta(seconds=lease_s / 2):
                late.append((one.hold.id, at + timedelta(seconds=lease_s)))

        async def extend(due: tuple[HoldId, datetime]) -> None:
            try:
                await self._services.ledger.extend_lease(*due)
            except QuotaError as error:
                _tell(due[0], error)

        await _gathered(late, extend)

    async def _write_down(
        self, looks: Sequence[tuple[Look, Session]], rows: Mapping[HoldId, Session], answering: Collection[HoldId]
    ) -> None:
        """Bring the rows in line, all in one transaction; a row that a crash left out is made again, one that says so already is left."""
        changed: list[Session] = []
        missing: list[Session] = []
        ready: list[Session] = []
        for one, after in looks:
            if one.verdict is None and one.trouble:
                log.warning("hold %s: cannot be judged: %s", one.hold.id, one.trouble)
            if after.awaited and one.hold.id in answering:
                after = replace(after, waiting_since=None)
                ready.append(after)
            if one.hold.id not in rows:
                missing.append(after)
            elif after != one.row:
                changed.append(after)
        if changed or missing:
            await self._services.store.write(partial(self._save, changed, missing, ready))

    def _save(
        self, changed: Sequence[Session], missing: Sequence[Session], ready: Sequence[Session], tx: Transaction
    ) -> None:
        """Rows, and what their owners are told of them, in one transaction: `ready` waited in a queue and answers now."""
        _save(changed, missing, tx)
        for row in ready:
            tell(self._services, tx, ready_notice(row, self._services.clock.now()))

    async def _repair_rows(self, rows: Sequence[Session]) -> None:
        """Bring rows in line whose hold was closed right before a crash."""
        for row in rows:
            hold = await self._services.ledger.hold(row.hold_id)
            if hold is None or hold.state is HoldState.HELD:
                continue
            settled = hold.state is HoldState.SETTLED
            seen = (await self._read([hold]))[hold.id]
            evidence = None if isinstance(seen, Unreachable) else seen
            reason = evidence.reason if evidence is not None and settled else None
            state = SessionState.SETTLED if settled else SessionState.FAILED
            reason = reason or (EndReason.LOST if settled else EndReason.NEVER_STARTED)
            after = observed(row, state, evidence, reason)
            await self._services.store.write(partial(_save, [after], ()))
            await self._services.evidence.settled([hold.id])


def asked_of(hold: Hold) -> Asked:
    """What evidence is asked for a hold, by what it pinned."""
    details = hold.details
    return Asked(
        hold.id,
        str(details.get("backend", LOCAL)),
        str(details["profile"]),
        hold.project_id,
        hold.placed_at,
    )


def answering_in(hub: HubView | None) -> Collection[HoldId]:
    """The sessions whose notebook answered the hub."""
    servers = () if hub is None else hub.servers
    return {server.hold_id for server in servers if server.ready and server.hold_id}


def listed_by(holds: Sequence[Hold], hub: HubView | None) -> Mapping[HoldId, bool | None]:
    """Whether the hub has each hold's session: by the hold's id where the hub says it, else by person and server name.

    By name only the newest open hold of a server can be the one.
    """
    if hub is None:
        return {hold.id: None for hold in holds}
    ids = {server.hold_id for server in hub.servers if server.hold_id}
    unnamed = {f"{server.hub_name}/{server.server_name}" for server in hub.servers if not server.hold_id}
    newest = {hold.subject: hold.id for hold in holds} if unnamed else {}  # oldest first: the last one stays
    listed: dict[HoldId, bool | None] = {}
    for hold in holds:
        by_name = hold.subject in unnamed and newest[hold.subject] == hold.id
        listed[hold.id] = hold.id in ids or by_name
    return listed


async def _gathered(items: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """`work` on all items, a bounded number at once."""
    done: list[R] = []
    for first in range(0, len(items), _AT_ONCE):
        done += await asyncio.gather(*(work(item) for item in items[first : first + _AT_ONCE]))
    return done


def _outcome(one: Look, failed: set[HoldId]) -> Outcome:
    if one.verdict is None:
        return Outcome.UNKNOWN
    if one.hold.id in failed:
        return Outcome.UNKNOWN
    if not one.closes:
        return Outcome.OPEN
    return Outcome.RELEASED if one.verdict is Verdict.RELEASE else Outcome.SETTLED


def _tell(hold_id: HoldId, error: QuotaError) -> None:
    if isinstance(error, _OTHERS):
        log.info("hold %s: %s", hold_id, error)
    elif isinstance(error, Unavailable):
        log.warning("hold %s: the ledger does not answer: %s", hold_id, error)
    else:
        log.error("hold %s: the ledger does not take what its evidence says; it stays open: %s", hold_id, error)


def _hinted(tx: Transaction, hold: Hold, reason: str) -> Session:
    if tx.sessions.get(hold.id) is None:
        tx.sessions.upsert(session_of(hold))
    return mark_stopping(tx, hold.id, reason)


def _save(changed: Sequence[Session], missing: Sequence[Session], tx: Transaction) -> None:
    for row in missing:
        if tx.sessions.get(row.hold_id) is None:
            tx.sessions.upsert(row)
    tx.sessions.observe([*changed, *missing])
