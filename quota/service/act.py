"""What reconciliation does about sessions that are not where they should be: stop, ask, cancel, take over, resume extensions.

One queue of what is due, each hold in it once; a failed try is tried again with a growing pause, kept in the row, so that a restart
neither forgets it nor hammers. Invariant: stopping is asked of the hub by hold, and counts as done only once evidence shows the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from quota.domain.errors import Unavailable
from quota.domain.ids import HoldId
from quota.domain.notice import NoticeKind
from quota.domain.session import Session, SessionState, Target
from quota.service import extend
from quota.service.notices import about_session, tell
from quota.service.ports import Transaction
from quota.service.services import Services
from quota.service.session_ports import HubView
from quota.service.sessions import stop_order

log = logging.getLogger("quota.act")
_AT_ONCE: Final = 16
_FIRST_RETRY_S: Final = 5
PENDING_TOO_LONG: Final = "pending_too_long"
_RUNS: Final = frozenset({SessionState.RUNNING, SessionState.UNKNOWN})


class Actions:
    """Acts on what the rows say; holds only what is under way in this process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._under_way: set[HoldId] = set()

    async def run(self, hub: HubView | None, rows: Sequence[Session] | None = None) -> int:
        """Do what is due; returns how many sessions were acted on. Without a hub nothing can be asked of it.

        `rows` are the sessions that are not over, as a pass has just left them; None: read them.
        """
        at = self._services.clock.now()
        if rows is None:
            rows = await self._services.store.read(lambda tx: tx.sessions.unfinished())
        rows = await self._pending(rows, at)
        if hub is None:
            return 0
        await extend.resume(self._services, at)
        listed = {server.hold_id for server in hub.servers if server.hold_id}
        stops = [row for row in rows if row.to_stop(at) and _due(row, at)]
        forgotten = [row for row in rows if row.state in _RUNS and _forgotten(row, hub, listed, at)]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(row: Session) -> bool:
            async with gate:
                return await self._act(row, at)

        return sum(
            await asyncio.gather(*(one(row) for row in {row.hold_id: row for row in [*forgotten, *stops]}.values()))
        )

    async def _act(self, row: Session, at: datetime) -> bool:
        if row.hold_id in self._under_way:
            return False
        self._under_way.add(row.hold_id)
        try:
            if row.to_stop(at):
                reason = row.stop_reason or "stopped"
                await self._services.hub.stop_session(stop_order(self._services, row, reason))
                await self._services.store.write(lambda tx: _told(tx, row.hold_id, at + self._pause(row)))
            else:
                await self._services.hub.adopt(row.terms.hub_name, row.terms.server_name, row.hold_id)
            return True
        except Unavailable as error:
            log.warning("session %s could not be brought to %s: %s", row.hold_id, row.target.value, error)
            await self._services.store.write(lambda tx: _tried(tx, row.hold_id, at + self._pause(row)))
            return False
        finally:
            self._under_way.discard(row.hold_id)

    def _pause(self, row: Session) -> timedelta:
        """Growing; a stop is asked for again within the grace that it gives, whatever became of the one before."""
        policy = self._services.policy
        longest_s = policy.stop_grace_s if row.target is Target.STOPPED else policy.retry_max_s
        return timedelta(seconds=min(_FIRST_RETRY_S * 2 ** min(row.tries, 16), longest_s))

    async def _pending(self, rows: Sequence[Session], at: datetime) -> Sequence[Session]:
        """After a day in a queue the owner is asked once, after two the session is cancelled; the rows as they are then."""
        policy, after = self._services.policy, []
        for row in rows:
            if row.state is SessionState.PENDING and row.waiting_since is not None and row.target is Target.RUNNING:
                waited_s = (at - row.waiting_since).total_seconds()
                if waited_s >= policy.pending_max_s:
                    row = await self._services.store.write(partial(_cancel, self._services, row, at))
                elif waited_s >= policy.pending_ask_s and row.asked_at is None:
                    await self._services.store.write(partial(_ask, self._services, row.hold_id, at))
            after.append(row)
        return after


def _due(row: Session, at: datetime) -> bool:
    return row.next_try_at is None or row.next_try_at <= at


def _forgotten(row: Session, hub: HubView, listed: set[HoldId], at: datetime) -> bool:
    """Whether the hub in charge does not know what evidence shows running; one that starts just now is listed from its hold on."""
    return (
        row.state is SessionState.RUNNING
        and row.target is Target.RUNNING
        and hub.since is not None
        and row.hold_id not in listed
        and _due(row, at)
    )


def _told(tx: Transaction, hold_id: HoldId, again_at: datetime) -> None:
    row = tx.sessions.get(hold_id)
    if row is not None and not row.over:
        state = SessionState.STOPPING
        tx.sessions.upsert(replace(row, state=state, tries=row.tries + 1, next_try_at=again_at))


def _tried(tx: Transaction, hold_id: HoldId, again_at: datetime) -> None:
    row = tx.sessions.get(hold_id)
    if row is not None and not row.over:
        tx.sessions.upsert(replace(row, tries=row.tries + 1, next_try_at=again_at))


def _cancel(services: Services, seen: Session, at: datetime, tx: Transaction) -> Session:
    row = tx.sessions.get(seen.hold_id)
    if row is None or row.state is not SessionState.PENDING:
        return seen
    row = replace(row, target=Target.STOPPED, stop_reason=row.stop_reason or PENDING_TOO_LONG)
    tx.sessions.upsert(row)
    tell(services, tx, about_session(row, NoticeKind.PENDING_OVER, "once", at, _waited(row, at)))
    return row


def _ask(services: Services, hold_id: HoldId, at: datetime, tx: Transaction) -> None:
    row = tx.sessions.get(hold_id)
    if row is not None and row.state is SessionState.PENDING and row.asked_at is None:
        tx.sessions.upsert(replace(row, asked_at=at))
        tell(services, tx, about_session(row, NoticeKind.PENDING, "once", at, _waited(row, at)))


def _waited(row: Session, at: datetime) -> dict[str, object]:
    since = row.waiting_since or row.held_at
    return {"waited_s": round((at - since).total_seconds())}
