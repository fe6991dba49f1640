"""The ledger with a spool behind it: charges, settlements and releases that it does not answer are kept and made later, once.

Invariants: new holds are never spooled, they fail; a hold's changes keep their order, since a second one is not taken while the
first waits; a replayed change has its effect once, because the ledger knows it by its id. What the ledger will never take is set
aside for a person and logged, not dropped.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import TypeVar

from quota.domain.errors import IdConflict, QuotaError, Refused, Spooled, Unavailable, Unknown, WrongState
from quota.domain.fence import Fence
from quota.domain.hold import Charged, Hold, HoldKind, HoldOrder, Usage
from quota.domain.ids import HoldId
from quota.service.ledger_ports import Ledger, Spool, SpooledChange, SpooledVerb

log = logging.getLogger("quota.spool")
T = TypeVar("T")


class SpooledLedger:
    """`quota.service.ledger_ports.Ledger` over another one. `replay` makes what is kept; call it from time to time."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self._ledger = ledger
        self._spool = spool
        self._waiting: dict[HoldId, SpooledChange] = {one.hold_id: one for one in spool.pending()}
        self._replaying = asyncio.Lock()
        self._keeps = True

    def fenced(self, fence: Fence) -> Ledger:
        """What somebody who may have been replaced asks for is never kept: made later, it would escape its fence."""
        other = copy.copy(self)
        other._ledger, other._keeps = self._ledger.fenced(fence), False
        return other

    def charge(self, usage: Usage) -> Coroutine[None, None, Charged]:
        """As the ledger does. Raises Spooled where the usage is kept for later."""
        return self._made_or_kept(
            usage.hold_id,
            lambda: self._ledger.charge(usage),
            lambda: SpooledChange(SpooledVerb.CHARGE, usage.hold_id, usage.to_at, usage),
        )

    def settle(
        self, hold_id: HoldId, at: datetime, usage: Usage | None = None, *, hurry: bool = True
    ) -> Coroutine[None, None, Hold]:
        """As the ledger does. Raises Spooled where the settlement is kept for later."""
        return self._made_or_kept(
            hold_id,
            lambda: self._ledger.settle(hold_id, at, usage, hurry=hurry),
            lambda: SpooledChange(SpooledVerb.SETTLE, hold_id, at, usage),
        )

    def release(self, hold_id: HoldId, at: datetime, reason: str) -> Coroutine[None, None, Hold]:
        """As the ledger does. Raises Spooled where the release is kept for later."""
        return self._made_or_kept(
            hold_id,
            lambda: self._ledger.release(hold_id, at, reason),
            lambda: SpooledChange(SpooledVerb.RELEASE, hold_id, at, reason=reason),
        )

    async def replay(self) -> int:
        """Make what is kept, oldest first, until the ledger does not answer; returns how many changes are done with."""
        async with self._replaying:
            count = 0
            for change in list(self._spool.pending()):
                try:
                    await self._make(change)
                except Unavailable as error:
                    log.warning("%d changes wait in the spool: %s", len(self._spool.pending()), error)
                    break
                count += 1
            if count:
                log.info("%d changes out of the spool are made", count)
            return count

    async def _made_or_kept(
        self, hold_id: HoldId, ask: Callable[[], Awaitable[T]], change: Callable[[], SpooledChange]
    ) -> T:
        """What the ledger answers to a change of a hold; where it does not, the change is kept. Raises Spooled."""
        self._refuse_to_overtake(hold_id)
        try:
            return await ask()
        except Unavailable as error:
            raise await self._kept(change(), error) from error

    async def _kept(self, change: SpooledChange, error: Unavailable) -> Spooled:
        """Keep what the ledger did not answer; what to tell whoever asked. Raises Unavailable where it is not kept."""
        if not self._keeps:
            raise error
        # Taken before the disk is asked: a second change of the hold must not come between.
        self._waiting[change.hold_id] = change
        try:
            await asyncio.shield(self._spool.keep(change))
        except Unavailable:
            del self._waiting[change.hold_id]
            raise
        log.warning("hold %s: %s is kept in the spool: %s", change.hold_id, change.verb.value, error)
        return Spooled("the ledger does not answer; the change is kept", retry_after_s=error.retry_after_s)

    def _refuse_to_overtake(self, hold_id: HoldId) -> None:
        if hold_id in self._waiting:
            raise Spooled("a change of this hold waits in the spool")

    async def _make(self, change: SpooledChange) -> None:
        try:
            await self._send(change)
        except Unavailable:
            raise
        except QuotaError as error:
            if not await self._superseded(change, error):
                log.error("hold %s: the ledger does not take %s: %s", change.hold_id, change.verb.value, error)
                await self._spool.set_aside(change, f"{error.code}: {error}")
                self._waiting.pop(change.hold_id, None)
                return
        await self._spool.done(change)
        self._waiting.pop(change.hold_id, None)

    async def _send(self, change: SpooledChange) -> None:
        match change.verb:
            case SpooledVerb.CHARGE:
                assert change.usage is not None
                await self._ledger.charge(change.usage)
            case SpooledVerb.SETTLE:
                hold = await self._ledger.settle(change.hold_id, change.at, change.usage)
                if hold.replayed and change.usage is not None:
                    # Closed by this very change, or by another that may not have charged the same: the ledger knows.
                    await self._ledger.charge(change.usage)
            case SpooledVerb.RELEASE:
                await self._ledger.release(change.hold_id, change.at, change.reason)

    async def _superseded(self, change: SpooledChange, error: QuotaError) -> bool:
        """Whether another process has done what the change was for: closed the hold, or charged the same usage and more."""
        if change.verb is SpooledVerb.RELEASE and isinstance(error, Unknown | WrongState):
            return True  # it was never committed, or it is closed
        if not isinstance(error, IdConflict) or change.usage is None:
            return False
        hold = await self._ledger.hold(change.hold_id)
        return hold is not None and hold.charged_to is not None and hold.charged_to >= change.usage.to_at

    # -- what is never spooled --------------------------------------------------------------------------------------------------

    def place_hold(self, order: HoldOrder) -> Coroutine[None, None, Hold]:
        return self._ledger.place_hold(order)

    def top_up(
        self, hold_id: HoldId, line_id: str, amount: int, at: datetime, lease_until: datetime
    ) -> Coroutine[None, None, Hold | Refused]:
        return self._ledger.top_up(hold_id, line_id, amount, at, lease_until)

    def withdraw(self, hold_id: HoldId, line_id: str, at: datetime) -> Coroutine[None, None, Hold]:
        return self._ledger.withdraw(hold_id, line_id, at)

    async def charge_many(self, usages: Sequence[Usage]) -> Sequence[Charged | QuotaError]:
        """As the ledger does; nothing is kept: the meter bills the exact gap later. What waits is not overtaken."""
        waiting = frozenset(self._waiting)
        answers = iter(await self._ledger.charge_many([one for one in usages if one.hold_id not in waiting]))
        waits = Spooled("a change of this hold waits in the spool")
        return [waits if usage.hold_id in waiting else next(answers) for usage in usages]

    async def expire(self, hold_id: HoldId, at: datetime, reason: str) -> Hold:
        """As the ledger does. Raises Spooled while a change of the hold waits: what was used is charged first."""
        self._refuse_to_overtake(hold_id)
        return await self._ledger.expire(hold_id, at, reason)

    def extend_lease(self, hold_id: HoldId, lease_until: datetime) -> Coroutine[None, None, Hold]:
        return self._ledger.extend_lease(hold_id, lease_until)

    def hold(self, hold_id: HoldId) -> Coroutine[None, None, Hold | None]:
        return self._ledger.hold(hold_id)

    def open_holds(self, kind: HoldKind) -> Coroutine[None, None, Sequence[Hold]]:
        return self._ledger.open_holds(kind)
