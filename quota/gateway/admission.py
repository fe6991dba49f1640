"""Admit a model request: set aside the most that it can use, with a shorter answer where the project has little left.

Invariant: nothing is sent to a model without a hold that the ledger committed; the amount covers prompt bound and capped output at
the model's weight. The cap shrinks before a request is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from quota.domain.errors import Unavailable
from quota.domain.hold import HoldKind, HoldOrder, HoldState
from quota.domain.ids import AllocationId, HoldId, new_id
from quota.domain.units import Unit
from quota.gateway import denials
from quota.gateway.callers import Caller
from quota.gateway.denials import Denied
from quota.gateway.model_request import ModelRequest
from quota.gateway.models import Price, Server
from quota.gateway.purses import BELIEVED_S, DOUBTED_S, Purse, Purses
from quota.gateway.settlement import Settlements
from quota.service.ports import Clock, Ledger

LEASE_MARGIN_S: Final = 120  # beyond the request's own deadline, for the settlement
_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request with its hold; `server` is the one that is asked first."""

    hold_id: HoldId
    allocation_id: AllocationId
    caller: Caller
    request: ModelRequest
    server: Server
    cap: int
    amount: int
    price: Price
    at: datetime
    lease_until: datetime


class _Offer(NamedTuple):
    allocation_id: AllocationId
    cap: int
    amount: int
    price: Price


class Admission:
    def __init__(self, ledger: Ledger, purses: Purses, settlements: Settlements, clock: Clock) -> None:
        self._ledger = ledger
        self._purses = purses
        self._settlements = settlements
        self._clock = clock

    async def admit(self, caller: Caller, request: ModelRequest) -> Admitted | Denied:
        """Place the hold, or say why not."""
        server = request.model.least_busy()
        if server is None:
            return denials.no_server(request.model.name)
        denied: Denied = denials.unavailable(1)
        within_s = BELIEVED_S
        try:
            for _ in range(_ATTEMPTS):
                purse = await self._purses.of(caller.project, within_s=within_s)
                offer = offered(purse, request, self._clock.now())
                if isinstance(offer, Denied):
                    if within_s <= DOUBTED_S:
                        return offer
                    within_s = DOUBTED_S  # refused on a number of up to a second ago: look again
                    continue
                placed = await self._place(caller, request, server, offer)
                if placed is not None:
                    purse.move(placed.allocation_id, held=placed.amount)
                    return placed
                # Somebody was faster. The ledger's answer is the newest there is.
                denied, within_s = denials.too_little(offer.amount, 0), 0.0
        except Unavailable as error:
            return denials.unavailable(error.retry_after_s)
        return denied

    async def _place(self, caller: Caller, request: ModelRequest, server: Server, offer: _Offer) -> Admitted | None:
        at = self._clock.now()
        lease_until = at + timedelta(seconds=server.target.total_deadline_s + LEASE_MARGIN_S)
        hold_id = HoldId(new_id())
        admitted = Admitted(
            hold_id, offer.allocation_id, caller, request, server, offer.cap, offer.amount, offer.price, at, lease_until
        )
        try:
            hold = await self._ledger.place_hold(_order(admitted))
        except Unavailable:
            # Whether it was committed is not known, and nothing was sent: it must not run into its lease and be charged.
            self._settlements.release_later(hold_id, lease_until)
            raise
        return admitted if hold.state is HoldState.HELD else None


def offered(purse: Purse, request: ModelRequest, at: datetime) -> _Offer | Denied:
    """The allocation that pays and the longest answer that it can carry, by what is known of the balances."""
    price = request.model.price_at(at)
    amount = price.up(request.hold_tokens(request.cap))
    allocation = purse.payer(amount, at)
    if allocation is None:
        return denials.no_tokens()
    available = allocation.balance.available
    if amount <= available:
        return _Offer(allocation.id, request.cap, amount, price)
    cap = request.cap_within(price.affordable(available))
    if cap is None:
        return denials.too_little(price.up(request.hold_tokens(request.smallest_cap)), available)
    return _Offer(allocation.id, cap, price.up(request.hold_tokens(cap)), price)


def _order(admitted: Admitted) -> HoldOrder:
    caller, request, server = admitted.caller, admitted.request, admitted.server
    return HoldOrder(
        id=admitted.hold_id,
        kind=HoldKind.REQUEST,
        subject=admitted.hold_id,
        actor=caller.person,
        project_id=caller.project,
        allocation_id=admitted.allocation_id,
        unit=Unit.TOKENS,
        amount=admitted.amount,
        at=admitted.at,
        lease_until=admitted.lease_until,
        # No `dispatched`: a hold that runs into its lease has an unknown outcome and is charged whole (quota.service.reconcile).
        details={
            "model": request.model.name,
            "provider": server.provider,
            "hardware": server.hardware,
            "cloud": server.cloud,
            "application": caller.application,
            "session": caller.session,
            "weight": str(admitted.price.weight),
            "prompt_bound": request.prompt_bound,
            "cap": admitted.cap,
            "answers": request.answers,
        },
        fingerprint=admitted.hold_id,  # made by us, once: nobody can send another body under it
    )
