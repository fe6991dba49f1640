"""A ledger that writes nothing: what is left of a request's cost is the gateway's own."""

from __future__ import annotations

from quota.domain.hold import Hold, HoldOrder, HoldState, Usage
from quota.domain.ids import HoldId
from quota.store.ledger import LedgerStore


class InstantLedger(LedgerStore):
    """Answers as a ledger with endless balances would, out of memory; sessions are placed in the real one."""

    def __init__(self, real: LedgerStore) -> None:
        self._real = real
        self._placed: dict[HoldId, Hold] = {}

    async def place_hold(self, order: HoldOrder) -> Hold:
        hold = Hold(
            order.id, order.kind, HoldState.HELD, order.subject, order.actor, order.project_id, order.allocation_id, order.unit,
            order.amount, 0, order.at, order.lease_until, order.details,
        )  # fmt: skip
        self._placed[order.id] = hold
        return hold

    async def settle(self, hold_id: HoldId, at: object, usage: Usage | None = None, *, hurry: bool = True) -> Hold:
        return self._placed.pop(hold_id)

    async def hold(self, hold_id: HoldId) -> Hold | None:
        return await self._real.hold(hold_id)
