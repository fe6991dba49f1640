"""What the ledger's writer is asked to do, one frozen value an operation, with nonsense refused before it is queued.

Invariant: an operation carries everything that its rows will say (fingerprint and JSON included), so that the writer thread and a
later replay compute nothing anew.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Final, NamedTuple

from quota.domain.errors import Invalid
from quota.domain.fence import Fence
from quota.domain.hold import HoldOrder, HoldState, Usage
from quota.domain.units import AMOUNT_MAX
from quota.store.instants import to_us
from quota.store.json_text import dump

# A named tuple out of its fields in their order: its own constructor is a Python function and takes three times as long.
made: Final = tuple.__new__


class PlaceHold(NamedTuple):
    order: HoldOrder
    at_us: int
    lease_until_us: int
    body_hash: str
    details: str


class TopUp(NamedTuple):
    hold_id: str
    line_id: str
    amount: int
    at_us: int
    lease_until_us: int


class Withdraw(NamedTuple):
    """Give back what a top-up's line set aside and nothing was charged to."""

    hold_id: str
    line_id: str
    at_us: int


class Charge(NamedTuple):
    usage: Usage
    from_us: int
    to_us: int
    payload: str
    payload_hash: str

    @property
    def hold_id(self) -> str:
        return self.usage.hold_id


class Settle(NamedTuple):
    hold_id: str
    at_us: int
    charge: Charge | None


class Close(NamedTuple):
    """Close a hold that was never used, as `to`: released or expired."""

    hold_id: str
    at_us: int
    to: HoldState
    reason: str


class ExtendLease(NamedTuple):
    hold_id: str
    lease_until_us: int


Plain = PlaceHold | TopUp | Withdraw | Charge | Settle | Close | ExtendLease


class Fenced(NamedTuple):
    """An operation of somebody who may have been replaced."""

    operation: Plain
    fence: Fence


Operation = Plain | Fenced


def place_hold(order: HoldOrder) -> PlaceHold:
    """Raises Invalid for an amount out of range."""
    _check_amount(order.amount)
    if order.limits:
        for use in order.limits:
            _check_amount(use.amount)
        if len({use.limit_id for use in order.limits}) != len(order.limits):
            raise Invalid([("limits", "malformed")])
    details = dump(order.details)
    body_hash = order.fingerprint or _order_hash(order, details)
    return made(PlaceHold, (order, to_us(order.at), to_us(order.lease_until), body_hash, details))


def charge(usage: Usage) -> Charge:
    """Raises Invalid for an amount out of range or an interval that ends before it starts."""
    _check_amount(usage.amount)
    _check_amount(usage.quantity)
    from_us, to_us_ = to_us(usage.from_at), to_us(usage.to_at)
    if to_us_ < from_us:
        raise Invalid([("to_at", "ends_before_start")])
    payload = dump(usage.payload) if usage.payload else "{}"
    hold_id, begin, end, quantity, amount = (
        usage.hold_id,
        str(from_us),
        str(to_us_),
        str(usage.quantity),
        str(usage.amount),
    )
    # Texts with their lengths before them, so that none can be read as two.
    said = (
        f"{len(hold_id)}:{hold_id}{len(begin)}:{begin}{len(end)}:{end}{len(quantity)}:{quantity}{len(amount)}:{amount}"
        f"{'4:True' if usage.estimated else '5:False'}{len(payload)}:{payload}"
    )
    return made(Charge, (usage, from_us, to_us_, payload, sha256(said.encode()).hexdigest()))


def settle(hold_id: str, at: datetime, usage: Usage | None) -> Settle:
    """Raises Invalid for usage of another hold, and as `charge` does."""
    if usage is None:
        return made(Settle, (hold_id, to_us(at), None))
    if usage.hold_id != hold_id:
        raise Invalid([("hold_id", "malformed")])
    charged = charge(usage)
    return made(Settle, (hold_id, charged.to_us if usage.to_at is at else to_us(at), charged))


def top_up(hold_id: str, line_id: str, amount: int, at_us: int, lease_until_us: int) -> TopUp:
    """Raises Invalid for an amount out of range or an id that a line of ours could have."""
    _check_amount(amount)
    if not line_id or line_id.startswith("overrun:"):
        raise Invalid([("line_id", "malformed")])
    return TopUp(hold_id, line_id, amount, at_us, lease_until_us)


def _order_hash(order: HoldOrder, details: str) -> str:
    # Without the instants: a retry of the same request comes later.
    limits = dump({use.limit_id: use.amount for use in order.limits}) if order.limits else "{}"
    kind, unit, amount = order.kind, order.unit, str(order.amount)  # enumerations of texts are texts
    said = (
        f"{len(kind)}:{kind}{len(order.subject)}:{order.subject}{len(order.actor)}:{order.actor}"
        f"{len(order.project_id)}:{order.project_id}{len(order.allocation_id)}:{order.allocation_id}"
        f"{len(unit)}:{unit}{len(amount)}:{amount}{len(limits)}:{limits}{len(details)}:{details}"
    )
    return sha256(said.encode()).hexdigest()


def _check_amount(amount: int) -> None:
    if type(amount) is not int or not 0 <= amount <= AMOUNT_MAX:
        raise Invalid([("amount", "out_of_range")])
