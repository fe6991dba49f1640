"""The store's fake: what is stored, in memory, behind the ports of quota.service.ports. It keeps their promises and no entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, TypeVar

from quota.domain.application import Application, ApplicationState, Ask
from quota.domain.errors import IdConflict, RefusalCode, Refused, Unavailable, WrongState
from quota.domain.hold import HoldState
from quota.domain.ids import AdjustmentId, AllocationId, ApplicationId, HoldId, PersonId, ProjectId
from quota.domain.limits import Limit, LimitName
from quota.domain.notice import balance_notices
from quota.domain.project import Allocation, Member, Person, Project, ProjectRole, ProjectState
from quota.domain.rates import ChargeRate
from quota.domain.session import Extension, ExtensionState, Session, SessionState
from quota.domain.units import Balance, Unit
from quota.service.exchange_ports import ExchangeRows
from quota.service.ports import Adjusted, LimitStanding, StatementLine
from tests.fake_books import Books, FakeFences, FakeRefunds, Line
from tests.fake_courses import FakeCourses
from tests.fake_gateway import FakeGatewayKeys, FakeKeptAnswers, FakeModelUsage, FakeRateWindows
from tests.fake_notices import FakeIdleStates, FakeNotices, FakeOutbox

T = TypeVar("T")


class FakeTransaction:
    """Every repository in one object; the ports' properties lead to views of it."""

    def __init__(self, books: Books) -> None:
        self.people = FakePeople(books)
        self.projects = FakeProjects(books)
        self.courses = FakeCourses(books.teaching, books.roles, books.people)
        self.applications = FakeApplications(books)
        self.accounts = FakeAccounts(books)
        self.sessions = FakeSessions(books)
        self.rates = FakeRates(books)
        self.limits = FakeLimits(books)
        self.gateway_keys = FakeGatewayKeys(books)
        self.rate_windows = FakeRateWindows(books)
        self.kept_answers = FakeKeptAnswers(books)
        self.model_usage = FakeModelUsage(books)
        self.fences = FakeFences(books)
        self.refunds = FakeRefunds(books)
        self.notices = FakeNotices(books.told)
        self.outbox = FakeOutbox(books.told)
        self.idle = FakeIdleStates(books.told)
        self._books = books

    @property
    def exchange(self) -> ExchangeRows:
        raise NotImplementedError("the exchange is tested over the real store")

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
        self._books.audited.append(action)


class FakeStore:
    def __init__(self, books: Books) -> None:
        self._books = books
        self.down = False

    async def read(self, work: Callable[[FakeTransaction], T]) -> T:
        if self.down:
            raise Unavailable("the store is down")
        return work(FakeTransaction(self._books))

    async def write(self, work: Callable[[FakeTransaction], T]) -> T:
        return await self.read(work)


@dataclass
class FakePeople:
    books: Books

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
        same = [p for p in self.books.people.values() if (p.issuer, p.subject) == (issuer, subject)]
        holder = self.by_hub_name(hub_name)
        if holder is not None and holder not in same:
            raise IdConflict("this hub name belongs to somebody else")
        number = len(self.books.people) + 1
        identity = PersonId(f"person-{number:04}") if not same else same[0].id
        uid = 20_000 + number if not same else same[0].uid
        person = Person(identity, issuer, subject, hub_name, f"cc-{uid}", uid, display_name, email, language)
        self.books.people[identity] = person
        return person

    def by_hub_name(self, hub_name: str) -> Person | None:
        return next((p for p in self.books.people.values() if p.hub_name == hub_name), None)

    def by_id(self, person_id: PersonId) -> Person | None:
        return self.books.people.get(person_id)

    def by_identity(self, issuer: str, subject: str) -> Person | None:
        return next((p for p in self.books.people.values() if (p.issuer, p.subject) == (issuer, subject)), None)

    def identities(self, person_id: PersonId) -> Sequence[tuple[str, datetime]]:
        raise NotImplementedError

    def suspend(self, person_id: PersonId, at: datetime | None) -> None:
        self.books.people[person_id] = replace(self.books.people[person_id], suspended=at is not None)

    def save_profile(self, person_id: PersonId, display_name: str, language: str, at: datetime) -> None:
        raise NotImplementedError

    def greet(self, person_id: PersonId) -> None:
        self.books.people[person_id] = replace(self.books.people[person_id], greeted=False)

    def put_link_code(self, code_hash: str, person_id: PersonId, expires_at: datetime) -> None:
        raise NotImplementedError

    def take_link_code(self, code_hash: str, at: datetime) -> PersonId | None:
        raise NotImplementedError

    def move_identities(self, person_id: PersonId, into: PersonId) -> None:
        raise NotImplementedError


@dataclass
class FakeProjects:
    books: Books

    def add(self, project: Project, pi: PersonId) -> None:
        if any(p.slug == project.slug for p in self.books.projects.values()):
            raise IdConflict("slug")
        self.books.projects[project.id] = project
        self.books.roles[(project.id, pi)] = (ProjectRole.PI, project.created_at)

    def get(self, project_id: ProjectId) -> Project | None:
        return self.books.projects.get(project_id)

    def of_person(self, person_id: PersonId) -> Sequence[tuple[Project, ProjectRole]]:
        return [
            (self.books.projects[project], role)
            for (project, person), (role, _) in self.books.roles.items()
            if person == person_id
        ]

    def search(self, text: str, *, after: str | None, limit: int) -> Sequence[Project]:
        found = [
            p
            for p in self.books.projects.values()
            if (text.lower() in p.title.lower() or text.lower() in p.slug) and (after is None or p.slug > after)
        ]
        return sorted(found, key=lambda p: p.slug)[:limit]

    def members(self, project_id: ProjectId) -> Sequence[Member]:
        found = []
        for (project, person_id), (role, since) in self.books.roles.items():
            person = self.books.people[person_id]
            if project == project_id:
                found.append(Member(person_id, person.hub_name, person.display_name, role, since))
        return found

    def role(self, project_id: ProjectId, person_id: PersonId) -> ProjectRole | None:
        return self.books.roles.get((project_id, person_id), (None, None))[0]

    def put_member(self, project_id: ProjectId, person_id: PersonId, role: ProjectRole, at: datetime) -> bool:
        known = self.books.roles.get((project_id, person_id))
        self.books.roles[(project_id, person_id)] = (role, known[1] if known else at)
        return known is None

    def remove_member(self, project_id: ProjectId, person_id: PersonId) -> bool:
        self.books.teaching.given.pop((project_id, person_id), None)
        return self.books.roles.pop((project_id, person_id), None) is not None

    def move_memberships(self, person_id: PersonId, into: PersonId) -> None:
        raise NotImplementedError

    def set_without_pi(self, project_id: ProjectId, since: datetime | None) -> None:
        self.books.projects[project_id] = replace(self.books.projects[project_id], without_pi_since=since)

    def set_state(self, project_id: ProjectId, state: ProjectState) -> None:
        self.books.projects[project_id] = replace(self.books.projects[project_id], state=state)


@dataclass
class FakeApplications:
    books: Books

    def add(self, application_id: ApplicationId, applicant: PersonId, ask: Ask, at: datetime, body_hash: str) -> bool:
        if application_id in self.books.applications:
            if self.books.applications[application_id][1] != body_hash:
                raise IdConflict("another application")
            return False
        name = self.books.people[applicant].display_name
        stored = Application(
            application_id, applicant, name, ask, ApplicationState.SUBMITTED, at, None, None, None, None, None, None
        )
        self.books.applications[application_id] = (stored, body_hash)
        return True

    def get(self, application_id: ApplicationId) -> Application | None:
        found = self.books.applications.get(application_id)
        return found[0] if found is not None else None

    def of_person(self, person_id: PersonId) -> Sequence[Application]:
        return [a for a, _ in self.books.applications.values() if a.applicant == person_id]

    def move(self, applicant: PersonId, into: PersonId) -> None:
        raise NotImplementedError

    def in_state(self, *states: ApplicationState) -> Sequence[Application]:
        return [a for a, _ in self.books.applications.values() if a.state in states]

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
        stored, known = self.books.applications[application_id]
        if stored.state is not expected:
            raise WrongState("decided")
        decided = replace(
            stored, state=to, decided_by=by, decided_at=at, message=message, awarded_gpu_ms=awarded_gpu_ms,
            awarded_tokens=awarded_tokens, project_id=project_id,
        )  # fmt: skip
        self.books.applications[application_id] = (decided, known)


@dataclass
class FakeAccounts:
    books: Books

    def lock(self, allocation_ids: Sequence[AllocationId]) -> None:
        pass

    def open_allocation(
        self, allocation_id: AllocationId, project_id: ProjectId, unit: Unit, starts_at: datetime, ends_at: datetime
    ) -> None:
        empty = Balance(unit, 0, 0, 0)
        self.books.allocations[allocation_id] = Allocation(
            allocation_id, project_id, starts_at, ends_at, suspended=False, frozen=False, balance=empty
        )

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
        if txn_id not in self.books.deposits:
            self.books.deposits.add(txn_id)
            self.books.move(Line("deposit", allocation_id, actor, at, awarded=amount, code=code, params=params))

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
        body = (allocation_id, delta, reason)
        if adjustment_id in self.books.adjustments:
            done, known = self.books.adjustments[adjustment_id]
            if known != body:
                raise IdConflict("another adjustment")
            return replace(done, replayed=True)
        before = self.books.allocations[allocation_id].balance
        if before.available + delta < 0:
            return Refused(RefusalCode.WOULD_TAKE_BACK_USED, {"available": before.available})
        self.books.move(Line("adjustment", allocation_id, actor, at, awarded=delta, reason=reason))
        done = Adjusted(before, self.books.allocations[allocation_id].balance, replayed=False)
        self.books.adjustments[adjustment_id] = (done, body)
        return done

    def reverse(
        self, reversal_id: AdjustmentId, adjustment_id: AdjustmentId, *, actor: PersonId, reason: str, at: datetime
    ) -> Adjusted | Refused:
        if adjustment_id in self.books.reversed and reversal_id not in self.books.adjustments:
            raise WrongState("taken back already")
        allocation_id, delta = self.books.adjustments[adjustment_id][1][:2]
        assert isinstance(allocation_id, str)
        assert isinstance(delta, int)
        done = self.adjust(reversal_id, AllocationId(allocation_id), -delta, actor=actor, reason=reason, at=at)
        self.books.reversed.add(adjustment_id)
        return done

    def of_adjustment(self, adjustment_id: AdjustmentId) -> Allocation | None:
        known = self.books.adjustments.get(adjustment_id)
        return None if known is None else self.books.allocations[AllocationId(str(known[1][0]))]

    def revoke(self, allocation_id: AllocationId) -> None:
        self._change(allocation_id, revoked=True, frozen=True)

    def set_target(self, allocation_id: AllocationId, target: int | None) -> None:
        self._change(allocation_id, target=target)

    def with_target(self) -> Sequence[Allocation]:
        return [one for one in self.books.allocations.values() if one.target is not None]

    def _change(self, allocation_id: AllocationId, **values: Any) -> None:
        self.books.allocations[allocation_id] = replace(self.books.allocations[allocation_id], **values)

    def of_project(self, project_id: ProjectId) -> Sequence[Allocation]:
        return [a for a in self.books.allocations.values() if a.project_id == project_id]

    def get(self, allocation_id: AllocationId) -> Allocation | None:
        return self.books.allocations.get(allocation_id)

    def strained(self, at: datetime) -> Sequence[Allocation]:
        return [
            a for a in self.books.allocations.values() if a.starts_at <= at < a.ends_at and balance_notices(a.balance)
        ]

    def daily_use(self, project_id: ProjectId, since: date) -> Mapping[Unit, Mapping[date, int]]:
        found: dict[Unit, dict[date, int]] = {unit: {} for unit in Unit}
        for line in self.books.lines:
            allocation = self.books.allocations[line.allocation_id]
            day = line.at.date()
            if allocation.project_id == project_id and line.charged and day >= since:
                of_unit = found[allocation.unit]
                of_unit[day] = of_unit.get(day, 0) + line.charged
        return found

    def statement(self, project_id: ProjectId, *, before: int | None, limit: int) -> Sequence[StatementLine]:
        found = []
        for seq, line in reversed(list(enumerate(self.books.lines, start=1))):
            allocation = self.books.allocations[line.allocation_id]
            if allocation.project_id == project_id and (before is None or seq < before):
                found.append(self._line(seq, line, allocation.unit))
        return found[:limit]

    def _line(self, seq: int, line: Line, unit: Unit) -> StatementLine:
        usage = line.usage
        return StatementLine(
            seq, line.at, line.kind, line.allocation_id, unit, line.awarded, line.held, line.charged, line.actor,
            self.books.people[line.actor].display_name, line.hold_id, usage.from_at if usage else None,
            usage.to_at if usage else None, usage.quantity if usage else None, usage.estimated if usage else False,
            line.code or line.kind, line.params, line.reason,
        )  # fmt: skip


@dataclass
class FakeSessions:
    books: Books

    def upsert(self, session: Session) -> None:
        self.books.sessions[session.hold_id] = session

    def get(self, hold_id: HoldId) -> Session | None:
        found = self.books.sessions.get(hold_id)
        if found is None:
            return None
        hold = self.books.holds[hold_id][0]
        return replace(found, amount=hold.amount, charged=hold.charged)

    def of_person(self, person_id: PersonId, *, limit: int) -> Sequence[Session]:
        return [s for s in self.books.sessions.values() if s.person_id == person_id][:limit]

    def unfinished(self) -> Sequence[Session]:
        return [one for one in map(self.get, list(self.books.sessions)) if one is not None and not one.over]

    def observe(self, rows: Sequence[Session]) -> None:
        for row in rows:
            old = self.books.sessions.get(row.hold_id)
            if old is None or old.over:
                continue
            state = old.state if old.state is SessionState.STOPPING and not row.over else row.state
            as_it_was = (old.extended_s, old.stop_at) == (row.extended_s, row.stop_at)
            ends_at = row.ends_at if as_it_was else old.ends_at
            self.books.sessions[row.hold_id] = replace(
                old, state=state, started_at=row.started_at, alive_at=row.alive_at, ends_at=ends_at,
                ended_at=row.ended_at, end_reason=row.end_reason, waiting_since=row.waiting_since,
                suspended=row.suspended, note=row.note,
            )  # fmt: skip

    def add_extension(self, extension: Extension) -> None:
        assert extension.id not in self.books.extensions
        self.books.extensions[extension.id] = extension

    def put_extension(self, extension: Extension) -> None:
        self.books.extensions[extension.id] = extension

    def extension(self, extension_id: str) -> Extension | None:
        return self.books.extensions.get(extension_id)

    def open_extensions(self) -> Sequence[Extension]:
        return [one for one in self.books.extensions.values() if one.state is ExtensionState.ASKED]

    def ending(self, after: datetime, until: datetime) -> Sequence[Session]:
        return [s for s in self.unfinished() if s.ends_at is not None and after < s.ends_at <= until]


@dataclass
class FakeRates:
    books: Books

    def put(self, rate: ChargeRate) -> None:
        self.books.rates.append(rate)

    def at(self, hardware: str, at: datetime) -> ChargeRate | None:
        valid = [r for r in self.books.rates if r.hardware == hardware and r.valid_from <= at]
        return max(valid, key=lambda r: r.valid_from, default=None)


@dataclass
class FakeLimits:
    """Caps, and what open holds count; what a charge leaves is counted by the real ledger, for a limit on time here, too."""

    books: Books

    def get(self, limit_id: str) -> LimitStanding | None:
        cap = self.books.caps.get(limit_id)
        if cap is None:
            return None
        held = charged = 0
        for hold_id, uses in self.books.counted.items():
            amount = sum(use.amount for use in uses if use.limit_id == limit_id)
            if amount and self.books.holds[hold_id][0].state is HoldState.HELD:
                held += amount
            elif amount and limit_id.startswith(LimitName.RESCUE.value):
                charged += sum(one.quantity for one in self.books.usages.values() if one.hold_id == hold_id)
        return LimitStanding(limit_id, cap, charged, held)

    def put(self, limit: Limit) -> LimitStanding:
        self.books.caps[limit.id] = limit.cap
        return self.get(limit.id) or LimitStanding(limit.id, limit.cap, 0, 0)
