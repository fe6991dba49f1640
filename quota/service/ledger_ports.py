"""What the use cases need of the ledger, the hot path, and of the spool for what it does not take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from quota.domain.errors import QuotaError, Refused
from quota.domain.fence import Fence
from quota.domain.hold import Charged, Hold, HoldKind, HoldOrder, Usage
from quota.domain.ids import HoldId


class Ledger(Protocol):
    """Holds and charges. Every method is idempotent under the caller's ids and answers after COMMIT only.

    All raise Unavailable where the database does not answer or the queue is full, IdConflict for a known id with another body,
    Unknown('hold') for an id never seen.
    """

    def fenced(self, fence: Fence) -> Ledger:
        """The same ledger for somebody who may have been replaced: every write raises StaleEpoch once a newer epoch was taken.

        Compared in the transaction that writes; a replay is refused too.
        """

    async def place_hold(self, order: HoldOrder) -> Hold:
        """Set `order.amount` aside; a refusal is a Hold in state REFUSED with `refusal` set, stored and replayable.

        Raises TooMany, with nothing stored, where the actor was refused too often in the last minute.
        """

    async def top_up(
        self, hold_id: HoldId, line_id: str, amount: int, at: datetime, lease_until: datetime
    ) -> Hold | Refused:
        """Add a line of `amount` to an open hold under the caller's `line_id` (an extension). Raises WrongState on a closed one."""

    async def withdraw(self, hold_id: HoldId, line_id: str, at: datetime) -> Hold:
        """Give back what a top-up set aside and nothing was charged to; repeated, or on a closed hold, nothing changes.

        Raises Unknown('line').
        """

    async def charge_many(self, usages: Sequence[Usage]) -> Sequence[Charged | QuotaError]:
        """As `charge` for each, in order; what is wrong with one is its own answer. Never spooled: evidence gives the gap again."""

    async def charge(self, usage: Usage) -> Charged:
        """Record `usage` and move its amount from held to charged; beyond the hold it is an overrun. Raises WrongState if closed."""

    async def settle(self, hold_id: HoldId, at: datetime, usage: Usage | None = None, *, hurry: bool = True) -> Hold:
        """Charge `usage` if given, then close the hold and release what is left. On a closed hold: as it is, nothing changes.

        Without `hurry` it may go with what this process asks for next, never behind it, some milliseconds later at the latest.
        """

    async def release(self, hold_id: HoldId, at: datetime, reason: str) -> Hold:
        """Close a hold that was never used. Raises WrongState where something was charged already (settle it)."""

    async def expire(self, hold_id: HoldId, at: datetime, reason: str) -> Hold:
        """As `release`, for a hold whose lease ran out: it ends EXPIRED."""

    async def extend_lease(self, hold_id: HoldId, lease_until: datetime) -> Hold:
        """Move the lease of an open hold later; an earlier instant changes nothing."""

    async def hold(self, hold_id: HoldId) -> Hold | None:
        """The hold as committed, or None."""

    async def open_holds(self, kind: HoldKind) -> Sequence[Hold]:
        """All holds in state HELD, oldest first."""


class SpooledVerb(StrEnum):
    CHARGE = "charge"
    SETTLE = "settle"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class SpooledChange:
    """A call of `Ledger.charge`, `settle` or `release` that the ledger did not answer."""

    verb: SpooledVerb
    hold_id: HoldId
    at: datetime
    usage: Usage | None = None
    reason: str = ""


class Spool(Protocol):
    """What the ledger could not take, on disk until it does; in the order in which it was kept."""

    async def keep(self, change: SpooledChange) -> None:
        """Write a change down; returns once it is on disk. Raises Unavailable where it is full or the disk takes nothing."""

    def pending(self) -> Sequence[SpooledChange]:
        """What is kept and not done, oldest first."""

    async def done(self, change: SpooledChange) -> None:
        """Forget the oldest change, which is `change`: the ledger has it. After a crash it may be pending again."""

    async def set_aside(self, change: SpooledChange, why: str) -> None:
        """Move the oldest change, which is `change`, to where a person finds it: the ledger will never take it."""
