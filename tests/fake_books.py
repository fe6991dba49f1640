"""What the store's fake remembers, and the parts of it that only correct or fence: see fake_store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from quota.domain.application import Application
from quota.domain.errors import IdConflict, RefusalCode, Refused, StaleEpoch
from quota.domain.fence import Fence
from quota.domain.gateway_key import GatewayKey
from quota.domain.hold import Hold, LimitUse, Usage
from quota.domain.ids import AdjustmentId, AllocationId, ApplicationId, HoldId, PersonId, ProjectId, RefundId
from quota.domain.project import Allocation, Person, Project, ProjectRole
from quota.domain.rates import ChargeRate
from quota.domain.session import Extension, Session
from quota.domain.units import Balance
from quota.service.gateway_ports import Taken, TierUse, UseOfDay
from quota.service.ports import Adjusted
from tests.fake_courses import CourseBooks
from tests.fake_notices import NoticeBooks


@dataclass
class Line:
    """What the fake statement remembers of one movement."""

    kind: str
    allocation_id: AllocationId
    actor: PersonId
    at: datetime
    hold_id: HoldId | None = None
    awarded: int = 0
    held: int = 0
    charged: int = 0
    code: str = ""
    params: Mapping[str, object] = field(default_factory=dict)
    reason: str | None = None
    usage: Usage | None = None


@dataclass
class Books:
    """Everything that is stored; shared by ledger and store."""

    people: dict[PersonId, Person] = field(default_factory=dict)
    projects: dict[ProjectId, Project] = field(default_factory=dict)
    roles: dict[tuple[ProjectId, PersonId], tuple[ProjectRole, datetime]] = field(default_factory=dict)
    applications: dict[ApplicationId, tuple[Application, str]] = field(default_factory=dict)
    allocations: dict[AllocationId, Allocation] = field(default_factory=dict)
    sessions: dict[HoldId, Session] = field(default_factory=dict)
    rates: list[ChargeRate] = field(default_factory=list)
    holds: dict[HoldId, tuple[Hold, str]] = field(default_factory=dict)
    usages: dict[tuple[str, str], Usage] = field(default_factory=dict)
    deposits: set[str] = field(default_factory=set)
    adjustments: dict[AdjustmentId, tuple[Adjusted, tuple[object, ...]]] = field(default_factory=dict)
    gateway_keys: dict[str, GatewayKey] = field(default_factory=dict)
    minutes: dict[tuple[str, int], Taken] = field(default_factory=dict)
    uses: dict[ProjectId, list[UseOfDay]] = field(default_factory=dict)
    tiers: list[TierUse] = field(default_factory=list)
    kept: dict[HoldId, tuple[bytes, datetime]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    audited: list[str] = field(default_factory=list)
    epochs: dict[str, int] = field(default_factory=dict)
    epochs_since: dict[str, datetime] = field(default_factory=dict)
    refunds: dict[RefundId, tuple[Adjusted, tuple[object, ...]]] = field(default_factory=dict)
    caps: dict[str, int] = field(default_factory=dict)
    counted: dict[HoldId, tuple[LimitUse, ...]] = field(default_factory=dict)
    top_ups: dict[tuple[HoldId, str], int] = field(default_factory=dict)
    extensions: dict[str, Extension] = field(default_factory=dict)
    reversed: set[AdjustmentId] = field(default_factory=set)
    teaching: CourseBooks = field(default_factory=CourseBooks)
    told: NoticeBooks = field(default_factory=NoticeBooks)

    def move(self, line: Line) -> None:
        allocation = self.allocations[line.allocation_id]
        old = allocation.balance
        new = Balance(old.unit, old.awarded + line.awarded, old.charged + line.charged, old.held + line.held)
        self.allocations[allocation.id] = replace(allocation, balance=new)
        self.lines.append(line)


@dataclass
class FakeFences:
    books: Books

    def take(self, name: str, holder: str, at: datetime) -> int:
        self.books.epochs[name] = self.books.epochs.get(name, 0) + 1
        self.books.epochs_since[name] = at
        return self.books.epochs[name]

    def in_force(self, name: str) -> tuple[int, datetime] | None:
        return (self.books.epochs[name], self.books.epochs_since[name]) if name in self.books.epochs else None

    def check(self, fence: Fence) -> None:
        if self.books.epochs.get(fence.name) != fence.epoch:
            raise StaleEpoch(f"{fence.name} {fence.epoch} was replaced")


@dataclass
class FakeRefunds:
    books: Books

    def give(
        self, refund_id: RefundId, hold_id: HoldId, amount: int, *, actor: PersonId, reason: str, at: datetime
    ) -> Adjusted | Refused:
        body = (hold_id, amount, reason)
        if refund_id in self.books.refunds:
            done, known = self.books.refunds[refund_id]
            if known != body:
                raise IdConflict("another refund")
            return replace(done, replayed=True)
        hold = self.books.holds[hold_id][0]
        given = sum(int(str(said[1])) for _, said in self.books.refunds.values() if said[0] == hold_id)
        if amount > hold.charged - given:
            return Refused(RefusalCode.REFUND_EXCEEDS_CHARGED, {"available": hold.charged - given})
        before = self.books.allocations[hold.allocation_id].balance
        self.books.move(Line("refund", hold.allocation_id, actor, at, hold_id, charged=-amount, reason=reason))
        done = Adjusted(before, self.books.allocations[hold.allocation_id].balance, replayed=False)
        self.books.refunds[refund_id] = (done, body)
        return done
