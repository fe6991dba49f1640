"""What the use cases need of the database, as protocols; quota.store implements them, quota.main wires them.

Two doors lead to the database. `ledger_ports.Ledger` is the hot path: asynchronous, grouped commits, answers only after COMMIT.
`Store` runs a piece of synchronous work in one transaction in a thread; everything else goes through it.
No implementation makes a network call inside a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol, TypeVar

from quota.domain.application import Application, ApplicationState, Ask
from quota.domain.errors import Refused
from quota.domain.fence import Fence
from quota.domain.idle import IdleState
from quota.domain.ids import AdjustmentId, AllocationId, ApplicationId, HoldId, PersonId, ProjectId, RefundId
from quota.domain.limits import Limit
from quota.domain.project import Allocation, Member, Person, Project, ProjectRole, ProjectState
from quota.domain.rates import ChargeRate
from quota.domain.session import Extension, Session
from quota.domain.units import Balance, Unit
from quota.service.course_ports import Courses
from quota.service.exchange_ports import ExchangeRows
from quota.service.gateway_ports import GatewayKeys, KeptAnswers, ModelUsage, RateWindows
from quota.service.notice_ports import Notices, Outbox

T = TypeVar("T")


class Clock(Protocol):
    def now(self) -> datetime:
        """The present, aware, in UTC."""


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One line of a statement: what one ledger transaction did to one account, in words and numbers."""

    seq: int
    at: datetime
    kind: str  # deposit, hold, charge, settle, release, expire, adjustment, refund, top_up
    allocation_id: AllocationId
    unit: Unit
    delta_awarded: int
    delta_held: int
    delta_charged: int
    actor: PersonId
    actor_name: str
    hold_id: HoldId | None
    from_at: datetime | None
    to_at: datetime | None
    quantity: int | None
    estimated: bool
    code: str  # message code of "what"
    params: Mapping[str, object]  # of the hold's details, the adjustment, …
    reason: str | None


@dataclass(frozen=True, slots=True)
class Adjusted:
    before: Balance
    after: Balance
    replayed: bool


class People(Protocol):
    def register(
        self,
        *,
        issuer: str,
        subject: str,
        hub_name: str,
        display_name: str,
        email: str | None,
        language: str,
        at: datetime,
    ) -> Person:
        """The person (issuer, subject), made on first sight with a login and a uid never used before.

        Raises IdConflict where `hub_name` belongs to another identity.
        """

    def by_hub_name(self, hub_name: str) -> Person | None: ...
    def by_id(self, person_id: PersonId) -> Person | None: ...
    def by_identity(self, issuer: str, subject: str) -> Person | None: ...
    def identities(self, person_id: PersonId) -> Sequence[tuple[str, datetime]]:
        """The issuers that a person signs in with, and since when, oldest first."""

    def suspend(self, person_id: PersonId, at: datetime | None) -> None:
        """Note since when the sign-in provider does not vouch for a person any more; None: it does."""

    def save_profile(self, person_id: PersonId, display_name: str, language: str, at: datetime) -> None:
        """Keep what a person chose; what their provider says does not change it afterwards."""

    def greet(self, person_id: PersonId) -> None:
        """Show this person their profile first."""

    def put_link_code(self, code_hash: str, person_id: PersonId, expires_at: datetime) -> None:
        """Store a code under its hash; earlier ones of the person are worth nothing any more."""

    def take_link_code(self, code_hash: str, at: datetime) -> PersonId | None:
        """Use a code up: whose it is, or None for one that is unknown, used or too old."""

    def move_identities(self, person_id: PersonId, into: PersonId) -> None:
        """Let another person sign in with what this one signed in with."""


class Projects(Protocol):
    def add(self, project: Project, pi: PersonId) -> None: ...
    def get(self, project_id: ProjectId) -> Project | None: ...
    def of_person(self, person_id: PersonId) -> Sequence[tuple[Project, ProjectRole]]: ...
    def search(self, text: str, *, after: str | None, limit: int) -> Sequence[Project]:
        """Projects whose title, slug or PI contains `text` (case-insensitive, wildcards taken literally), ordered by slug, after slug `after`."""

    def members(self, project_id: ProjectId) -> Sequence[Member]: ...
    def role(self, project_id: ProjectId, person_id: PersonId) -> ProjectRole | None: ...
    def put_member(self, project_id: ProjectId, person_id: PersonId, role: ProjectRole, at: datetime) -> bool:
        """Add or change; True where the person is new in the project."""

    def remove_member(self, project_id: ProjectId, person_id: PersonId) -> bool: ...
    def set_state(self, project_id: ProjectId, state: ProjectState) -> None: ...
    def set_without_pi(self, project_id: ProjectId, since: datetime | None) -> None:
        """Write down since when a project has no PI; None: it has one."""

    def move_memberships(self, person_id: PersonId, into: PersonId) -> None:
        """Give `into` this person's place in each project; where both were in one, the role that may do more stays."""


class Applications(Protocol):
    def add(self, application_id: ApplicationId, applicant: PersonId, ask: Ask, at: datetime, body_hash: str) -> bool:
        """Store a submitted application; False where the same was stored before. Raises IdConflict for another body."""

    def get(self, application_id: ApplicationId) -> Application | None: ...
    def of_person(self, person_id: PersonId) -> Sequence[Application]: ...
    def move(self, applicant: PersonId, into: PersonId) -> None:
        """Make another person the applicant of everything that this one applied for."""

    def in_state(self, *states: ApplicationState) -> Sequence[Application]: ...
    def decide(
        self,
        application_id: ApplicationId,
        *,
        expected: ApplicationState,
        to: ApplicationState,
        by: PersonId,
        at: datetime,
        message: str,
        awarded_gpu_ms: int | None,
        awarded_tokens: int | None,
        project_id: ProjectId | None,
    ) -> None:
        """Compare-and-set from `expected`; raises WrongState where it is no longer in it."""


class Accounts(Protocol):
    """The ledger's slower side, for use inside a Store transaction together with other rows."""

    def lock(self, allocation_ids: Sequence[AllocationId]) -> None:
        """Call first where one transaction changes several allocations: the ledger's writers lock in the same order.

        Raises Unknown('allocation').
        """

    def open_allocation(
        self, allocation_id: AllocationId, project_id: ProjectId, unit: Unit, starts_at: datetime, ends_at: datetime
    ) -> None: ...
    def deposit(
        self,
        txn_id: str,
        allocation_id: AllocationId,
        amount: int,
        *,
        actor: PersonId,
        at: datetime,
        code: str,
        params: Mapping[str, object],
    ) -> None:
        """Award `amount` (> 0) to the allocation out of the programme's pool; idempotent under `txn_id`."""

    def adjust(
        self,
        adjustment_id: AdjustmentId,
        allocation_id: AllocationId,
        delta: int,
        *,
        actor: PersonId,
        reason: str,
        at: datetime,
    ) -> Adjusted | Refused:
        """Change the award by ±`delta`, with who and why in entries and audit. Refused where it would go below charged + held."""

    def reverse(
        self, reversal_id: AdjustmentId, adjustment_id: AdjustmentId, *, actor: PersonId, reason: str, at: datetime
    ) -> Adjusted | Refused:
        """Take an adjustment back whole, once, by one of the opposite sign that names it. Refused as `adjust` is.

        Raises Unknown('adjustment'), and WrongState where it was reversed already or is itself a reversal.
        """

    def of_adjustment(self, adjustment_id: AdjustmentId) -> Allocation | None: ...
    def revoke(self, allocation_id: AllocationId) -> None:
        """End an allocation for good: nothing is held on it any more; late charges still post to it."""

    def set_target(self, allocation_id: AllocationId, target: int | None) -> None:
        """Keep the award that was decided while use keeps the effective one higher; None: they are the same."""

    def with_target(self) -> Sequence[Allocation]:
        """Allocations whose award was lowered below their use and is not reclaimed yet."""

    def of_project(self, project_id: ProjectId) -> Sequence[Allocation]: ...
    def get(self, allocation_id: AllocationId) -> Allocation | None: ...
    def strained(self, at: datetime) -> Sequence[Allocation]:
        """Allocations of the day `at` that are charged at least four fifths, or have nothing available."""

    def daily_use(self, project_id: ProjectId, since: date) -> Mapping[Unit, Mapping[date, int]]:
        """What was charged on each UTC day from `since` on, by unit; days without a charge are left out."""

    def statement(self, project_id: ProjectId, *, before: int | None, limit: int) -> Sequence[StatementLine]:
        """Newest first, lines with seq < `before`. One line per (transaction, account)."""


class Refunds(Protocol):
    def give(
        self, refund_id: RefundId, hold_id: HoldId, amount: int, *, actor: PersonId, reason: str, at: datetime
    ) -> Adjusted | Refused:
        """Give back `amount` (> 0) of what a hold was charged; refused beyond what is charged and not refunded yet.

        Idempotent under `refund_id`, refusals included. Raises Unknown('hold'), IdConflict.
        """


class Sessions(Protocol):
    def upsert(self, session: Session) -> None:
        """Insert or replace the row of `session.hold_id`."""

    def observe(self, rows: Sequence[Session]) -> None:
        """Write what a look showed (state, instants, end, note), all rows in one statement.

        What is wanted (target, stop, extensions) and rows that are over stay as they are; a row that is stopping stays so until its end.
        """

    def get(self, hold_id: HoldId) -> Session | None: ...
    def of_person(self, person_id: PersonId, *, limit: int) -> Sequence[Session]: ...
    def unfinished(self) -> Sequence[Session]:
        """Sessions that are not over, with amount and charged as the ledger has them."""

    def add_extension(self, extension: Extension) -> None: ...
    def put_extension(self, extension: Extension) -> None:
        """Replace the row of `extension.id`."""

    def extension(self, extension_id: str) -> Extension | None: ...
    def open_extensions(self) -> Sequence[Extension]:
        """Extensions of which it is not known whether the backend took them, oldest first."""

    def ending(self, after: datetime, until: datetime) -> Sequence[Session]:
        """Those of them that end later than `after` and not later than `until`."""


class IdleStates(Protocol):
    def get(self, hold_id: HoldId) -> IdleState | None: ...
    def put(self, hold_id: HoldId, state: IdleState) -> None:
        """Insert or replace what is remembered of a session's idleness."""


class Rates(Protocol):
    def put(self, rate: ChargeRate) -> None:
        """Publish a rate; the same (hardware, valid_from) with another value raises IdConflict."""

    def at(self, hardware: str, at: datetime) -> ChargeRate | None: ...


@dataclass(frozen=True, slots=True)
class LimitStanding:
    """A limit as it stands."""

    id: str
    cap: int
    charged: int
    held: int

    @property
    def available(self) -> int:
        return self.cap - self.charged - self.held


class LimitCounters(Protocol):
    def get(self, limit_id: str) -> LimitStanding | None: ...
    def put(self, limit: Limit) -> LimitStanding:
        """Make a counter, which begins with what stands, or move its cap."""


class Fences(Protocol):
    def take(self, name: str, holder: str, at: datetime) -> int:
        """The next epoch of `name`, from now on the only one that writes; `holder` says who took it, for people to read."""

    def in_force(self, name: str) -> tuple[int, datetime] | None:
        """The epoch of `name` that writes, and since when; None where nobody took one."""

    def check(self, fence: Fence) -> None:
        """Raises StaleEpoch where `fence` is not in force; it stays in force until this transaction ends."""


class Transaction(Protocol):
    """One database transaction: commits when the work returns, rolls back when it raises."""

    @property
    def people(self) -> People: ...
    @property
    def projects(self) -> Projects: ...
    @property
    def courses(self) -> Courses: ...
    @property
    def exchange(self) -> ExchangeRows: ...
    @property
    def applications(self) -> Applications: ...
    @property
    def accounts(self) -> Accounts: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def rates(self) -> Rates: ...
    @property
    def fences(self) -> Fences: ...
    @property
    def limits(self) -> LimitCounters: ...
    @property
    def refunds(self) -> Refunds: ...
    @property
    def notices(self) -> Notices: ...
    @property
    def idle(self) -> IdleStates: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def gateway_keys(self) -> GatewayKeys: ...
    @property
    def rate_windows(self) -> RateWindows: ...
    @property
    def kept_answers(self) -> KeptAnswers: ...
    @property
    def model_usage(self) -> ModelUsage: ...
    def audit(
        self,
        *,
        actor: PersonId | None,
        action: str,
        subject: str,
        before: Mapping[str, object] | None,
        after: Mapping[str, object] | None,
        reason: str | None,
        at: datetime,
    ) -> None:
        """Append to the hash-chained audit."""


class Store(Protocol):
    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a read-only transaction, in a thread."""

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in one write transaction, in a thread; retried whole on a serialisation failure, so it must be pure but for `tx`."""
