"""Holds: an amount set aside before work starts (MAM's lien, TigerBeetle's pending transfer).

A hold resolves at most once: held → settled | released | expired; a refusal is stored under the caller's id too, so that
its replay gives the same answer. `charged ≤ amount` on each line; the next line is a top-up (an extension).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from quota.domain.errors import Refused
from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId
from quota.domain.units import Unit


class HoldKind(StrEnum):
    SESSION = "session"
    REQUEST = "request"


class HoldState(StrEnum):
    HELD = "held"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"
    REFUSED = "refused"


TRANSITIONS: Mapping[HoldState, frozenset[HoldState]] = {
    HoldState.HELD: frozenset({HoldState.SETTLED, HoldState.RELEASED, HoldState.EXPIRED}),
    HoldState.SETTLED: frozenset(),
    HoldState.RELEASED: frozenset(),
    HoldState.EXPIRED: frozenset(),
    HoldState.REFUSED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit that a hold counts against besides its account: a member's cap, a day's, simultaneous sessions.

    `beyond`: counted although it does not fit, for what happened already.
    """

    limit_id: str
    amount: int
    beyond: bool = False


_NOTHING: Final[Mapping[str, object]] = {}


class HoldOrder(NamedTuple):
    """A hold to place. `amount` in `unit`; `details` is what the hold pins (profile, rate, runtime, model), JSON values only.

    A tuple, since each model request makes one: a frozen dataclass takes seven times as long.
    """

    id: HoldId
    kind: HoldKind
    subject: str  # "hubuser/servername" of a session, the request's id of a model request
    actor: PersonId
    project_id: ProjectId
    allocation_id: AllocationId
    unit: Unit
    amount: int
    at: datetime
    lease_until: datetime
    limits: tuple[LimitUse, ...] = ()
    details: Mapping[str, object] = _NOTHING
    fingerprint: str = ""  # of the caller's request; where empty, of the order itself


def body_hash(body: Mapping[str, object]) -> str:
    """A fingerprint of a request's body, independent of key order."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Hold(NamedTuple):
    """A hold as it stands. `amount` and `charged` are the sums of its lines. A tuple, since each operation makes one."""

    id: HoldId
    kind: HoldKind
    state: HoldState
    subject: str
    actor: PersonId
    project_id: ProjectId
    allocation_id: AllocationId
    unit: Unit
    amount: int
    charged: int
    placed_at: datetime
    lease_until: datetime
    details: Mapping[str, object]
    refusal: Refused | None = None
    next_seq: int = 0  # the number of the next usage record
    charged_to: datetime | None = None  # end of the last usage record's interval
    replayed: bool = False  # this answer was given before


def repeated(known: Hold, fingerprint: str) -> HoldOrder:
    """The order that `known` answers, with the fingerprint of who asks again: the ledger compares them."""
    return HoldOrder(
        id=known.id,
        kind=known.kind,
        subject=known.subject,
        actor=known.actor,
        project_id=known.project_id,
        allocation_id=known.allocation_id,
        unit=known.unit,
        amount=known.amount,
        at=known.placed_at,
        lease_until=known.lease_until,
        details=known.details,
        fingerprint=fingerprint,
    )


class Usage(NamedTuple):
    """What was measured and what it costs: one interval of one hold. A tuple, as HoldOrder is.

    (source, event_id) is what is deduplicated; `quantity` is raw (milliseconds, tokens), `amount` is priced. An amount beyond
    the hold is an overrun: charged, flagged, never clamped.
    """

    source: str
    event_id: str
    hold_id: HoldId
    from_at: datetime
    to_at: datetime
    quantity: int
    amount: int
    estimated: bool = False
    payload: Mapping[str, object] = _NOTHING


@dataclass(frozen=True, slots=True)
class Charged:
    """What a charge did; `applied` is False for a replay of the same usage."""

    hold: Hold
    applied: bool
    overrun: int = 0
