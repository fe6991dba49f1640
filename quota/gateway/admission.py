"""Admit a model request: set aside the most that it can use, with a shorter answer where the project has little left.

Invariant: nothing is sent to a model without a hold that the ledger committed; the amount covers prompt bound and capped output at
the model's weight. The cap shrinks before a request is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Final, NamedTuple

from quota.domain.errors import IdConflict, RefusalCode, Refused, TooMany, Unavailable
from quota.domain.hold import Hold, HoldKind, HoldOrder, HoldState, LimitUse
from quota.domain.ids import AllocationId, HoldId, new_ordered_id
from quota.domain.limits import LimitName, name_of
from quota.domain.units import Unit
from quota.gateway import denials
from quota.gateway.callers import NO_SHARE, Caller
from quota.gateway.denials import Denied
from quota.gateway.journal import Journal, Slot
from quota.gateway.model_request import ModelRequest
from quota.gateway.models import Price, Server
from quota.gateway.purses import BELIEVED_S, DOUBTED_S, Purse, Purses
from quota.gateway.repeats import FINGERPRINT, Repeatable
from quota.gateway.settlement import Settlements
from quota.gateway.tokenizers import counted
from quota.service.ledger_ports import Ledger
from quota.service.ports import Clock
from quota.service.upstreams import Upstreams

LEASE_MARGIN_S: Final = 120  # beyond the request's own deadline, for the settlement
_ATTEMPTS: Final = 5


@dataclass(slots=True)  # not frozen: made with every request, and a frozen one takes three times as long
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
    repeatable: Repeatable | None = None
    slot: Slot | None = None  # in the journal; freed when the hold is closed

    @property
    def hold_tokens(self) -> int:
        return self.request.hold_tokens(self.cap)


class _Offer(NamedTuple):
    allocation_id: AllocationId
    cap: int
    amount: int
    price: Price


@dataclass(slots=True)
class _Attempt:
    """What is known of a request while its hold is tried for."""

    request: ModelRequest
    repeatable: Repeatable | None
    within_s: float = BELIEVED_S
    exact: bool = False  # whether the prompt's length was asked of its server
    key_left: int | None = None  # of the key's own limit, as the ledger told
    denied: Denied | None = None  # the answer, where no further try is better

    def not_written_down(self, caller: Caller, amount: int) -> None:
        """Refused, and of this person no more refusals are kept this minute: it is an answer all the same."""
        limited = caller.limit_id is not None or caller.share != NO_SHARE
        self.denied = denials.over_limit() if limited else denials.too_little(amount, 0)
        self.within_s = 0.0

    def refused(self, caller: Caller, refusal: Refused | None, amount: int) -> Denied | None:
        """Somebody was faster, or a limit is reached: the answer, or None where another try may do. The ledger's word is the newest."""
        self.denied, self.within_s = denials.too_little(amount, 0), 0.0
        if self.repeatable is not None:  # the refusal is stored under its id
            self.repeatable = self.repeatable.later()
            if self.repeatable is None:
                return self.denied
        if refusal is not None and refusal.code is RefusalCode.LIMIT_REACHED:
            left = refusal.params.get("available")
            if refusal.params.get("limit") != caller.limit_id or type(left) is not int:
                return denials.over_limit(today=_of_a_day(refusal.params.get("limit")))
            self.denied, self.key_left = denials.key_used_up(amount, left), left
        return None


class Admission:
    def __init__(
        self,
        ledger: Ledger,
        purses: Purses,
        settlements: Settlements,
        clock: Clock,
        journal: Journal | None = None,
        upstreams: Upstreams | None = None,
    ) -> None:
        self._upstreams = upstreams
        self._journal = journal
        self._ledger = ledger
        self._purses = purses
        self._settlements = settlements
        self._clock = clock

    async def admit(
        self, caller: Caller, request: ModelRequest, repeatable: Repeatable | None = None
    ) -> Admitted | Denied:
        """Place the hold, or say why not."""
        server = request.model.least_busy()
        if server is None:
            return denials.no_server(request.model.name)
        attempt = _Attempt(request, repeatable)
        try:
            for _ in range(_ATTEMPTS):
                purse = await self._purses.of(caller.project, within_s=attempt.within_s)
                at = self._clock.now()
                offer = offered(purse, attempt.request, at, attempt.key_left)
                if isinstance(offer, Denied):
                    if not await self._looked_closer(attempt):
                        return offer
                    continue
                admitted = _ordered(caller, attempt.request, server, offer, at, attempt.repeatable)
                try:
                    hold = await self._place(admitted)
                except TooMany:
                    attempt.not_written_down(caller, offer.amount)
                    continue
                if isinstance(hold, Denied):
                    return hold
                if hold.state is HoldState.HELD:
                    purse.move(admitted.allocation_id, held=admitted.amount)
                    return admitted
                final = attempt.refused(caller, hold.refusal, offer.amount)
                if final is not None:
                    return final
        except Unavailable as error:
            return denials.unavailable(error.retry_after_s)
        return attempt.denied or denials.unavailable(1)

    async def _looked_closer(self, attempt: _Attempt) -> bool:
        """Whether there was something left to find out about a request that does not fit into what is known. Raises Unavailable."""
        if attempt.within_s > DOUBTED_S and attempt.key_left is None:
            attempt.within_s = DOUBTED_S  # refused on a number of up to a second ago: look again
        elif self._upstreams is not None and not attempt.exact:
            attempt.exact, attempt.request = True, await counted(attempt.request, self._upstreams)
        else:
            return False
        return True

    async def _place(self, admitted: Admitted) -> Hold | Denied:
        slot = self._journal.take(admitted.hold_id) if self._journal is not None else None
        try:
            hold = await self._ledger.place_hold(_order(admitted))
        except IdConflict:
            _free(slot)
            return denials.other_body()
        except TooMany:
            _free(slot)
            raise
        except Unavailable:
            # Whether it was committed is not known, and nothing was sent: it must not run into its lease and be charged.
            self._settlements.release_later(admitted.hold_id, admitted.lease_until, slot)
            raise
        if hold.state is HoldState.HELD and not hold.replayed:
            admitted.slot = slot
        else:
            _free(slot)
        return denials.under_way() if hold.replayed else hold


def _ordered(
    caller: Caller, request: ModelRequest, server: Server, offer: _Offer, at: datetime, repeatable: Repeatable | None
) -> Admitted:
    hold_id = HoldId(new_ordered_id()) if repeatable is None else repeatable.hold_id
    allocation_id, cap, amount, price = offer
    lease_until = at + _lease(server.target.total_deadline_s)
    return Admitted(hold_id, allocation_id, caller, request, server, cap, amount, price, at, lease_until, repeatable)


@cache
def _lease(deadline_s: int) -> timedelta:
    return timedelta(seconds=deadline_s + LEASE_MARGIN_S)


def _free(slot: Slot | None) -> None:
    if slot is not None:
        slot.free()


def offered(purse: Purse, request: ModelRequest, at: datetime, key_left: int | None = None) -> _Offer | Denied:
    """The allocation that pays and the longest answer that it can carry, by what is known of the balances."""
    price = request.model.price_at(at)
    amount = price.up(request.hold_tokens(request.cap))
    coffer = purse.payer(amount, at)
    if coffer is None:
        return denials.no_tokens()
    available, allocation = coffer.available, coffer.allocation
    if key_left is not None:
        available = min(available, key_left)
    if amount <= available:
        return _Offer(allocation.id, request.cap, amount, price)
    cap = request.cap_within(price.affordable(available))
    if cap is None:
        needed = price.up(request.hold_tokens(request.smallest_cap))
        return (
            denials.key_used_up(needed, available) if key_left == available else denials.too_little(needed, available)
        )
    return _Offer(allocation.id, cap, price.up(request.hold_tokens(cap)), price)


def _limits(caller: Caller, amount: int, at: datetime) -> tuple[LimitUse, ...]:
    own = () if caller.limit_id is None else (LimitUse(caller.limit_id, amount),)
    return own if caller.share is NO_SHARE else (*own, *caller.share.uses(amount, at))


def _of_a_day(limit_id: object) -> bool:
    return name_of(str(limit_id)) is LimitName.MEMBER_DAY


def _order(admitted: Admitted) -> HoldOrder:
    caller, request, server = admitted.caller, admitted.request, admitted.server
    # No `dispatched`: a hold that runs into its lease has an unknown outcome and is charged whole (quota.service.reconcile),
    # unless the journal of its process tells more (quota.gateway.journal).
    details: dict[str, object] = {
        "model": request.model.name,
        "provider": server.provider,
        "hardware": server.hardware,
        "cloud": server.cloud,
        "application": caller.application,
        "session": caller.session or "",
        "key": caller.key_id,
        "weight": admitted.price.text,
        "prompt_bound": request.prompt_bound,
        "cap": admitted.cap,
        "answers": request.answers,
    }
    if admitted.repeatable is not None:
        details[FINGERPRINT] = admitted.repeatable.fingerprint
    fingerprint = admitted.repeatable.fingerprint if admitted.repeatable is not None else admitted.hold_id
    # Fields by position: by name a tuple with names takes twice as long.
    return HoldOrder(
        admitted.hold_id, HoldKind.REQUEST, admitted.hold_id, caller.person, caller.project, admitted.allocation_id,
        Unit.TOKENS, admitted.amount, admitted.at, admitted.lease_until, _limits(caller, admitted.amount, admitted.at),
        details, fingerprint,
    )  # fmt: skip
