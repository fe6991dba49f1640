"""The pages' surroundings in memory: people, projects, balances, a hub that signs in whoever a test names.

Fakes at the ports of quota.service; the use cases in between are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import TypeVar, cast

from quota.domain.application import Application, ApplicationState, Ask
from quota.domain.errors import IdConflict, Refused, Unavailable, WrongState
from quota.domain.ids import AllocationId, ApplicationId, HoldId, PersonId, ProjectId
from quota.domain.limits import Limit
from quota.domain.project import Allocation, Member, Person, Project, ProjectRole, ProjectState
from quota.domain.session import EndReason, Session, SessionState, SessionTerms
from quota.domain.units import Balance, Unit
from quota.service.ports import LimitStanding, StatementLine, Transaction
from quota.service.services import Policy, Programme, Services
from quota.service.session_ports import HubIdentity, HubView, PricedProfile, SessionEvidence, StopOrder
from tests.fake_books import Books, FakeRefunds
from tests.fake_courses import FakeCourses
from tests.fake_gateway import FakeGatewayKeys, FakeModelUsage
from tests.fake_notices import FakeIdleStates, FakeNotices, NoticeBooks
from tests.fake_work import FakeWork
from tests.fakes import FakeLedger

T = TypeVar("T")
NOW = datetime(2026, 3, 10, 12, 4, tzinfo=UTC)
HOUR = 3_600_000


class FixedClock:
    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at


@dataclass
class World:
    """All rows; the nested classes read and write them."""

    people: dict[str, Person] = field(default_factory=dict)
    projects: dict[ProjectId, Project] = field(default_factory=dict)
    members: dict[ProjectId, dict[PersonId, Member]] = field(default_factory=dict)
    allocations: dict[AllocationId, Allocation] = field(default_factory=dict)
    applications: dict[ApplicationId, tuple[Application, str]] = field(default_factory=dict)
    sessions: dict[HoldId, Session] = field(default_factory=dict)
    lines: list[StatementLine] = field(default_factory=list)
    stopped: list[tuple[str, str]] = field(default_factory=list)
    told: NoticeBooks = field(default_factory=NoticeBooks)
    shares: dict[str, LimitStanding] = field(default_factory=dict)
    used: dict[ProjectId, dict[Unit, dict[date, int]]] = field(default_factory=dict)
    books: Books = field(default_factory=Books)
    work: FakeWork = field(default_factory=FakeWork)
    down: bool = False

    def person(self, name: str, display: str = "") -> Person:
        """A registered person called `name`."""
        known = self.people.get(name)
        if known is None:
            number = len(self.people)
            known = Person(
                id=PersonId(f"person-{name}"),
                issuer="urn:test",
                subject=name,
                hub_name=name,
                login=f"cc-{number}",
                uid=60_000 + number,
                display_name=display or name.capitalize(),
                email=None,
                language="en",
            )
            self.people[name] = known
        return known

    def project(
        self, title: str, pi: str, *, gpu: tuple[int, int, int], tokens: tuple[int, int, int] = (0, 0, 0)
    ) -> ProjectId:
        """A project with awarded, charged and held in both units."""
        project_id = ProjectId(f"project-{len(self.projects) + 1}")
        self.projects[project_id] = Project(project_id, f"p{len(self.projects) + 1}", title, ProjectState.ACTIVE, NOW)
        self.members[project_id] = {}
        self.join(project_id, pi, ProjectRole.PI)
        for unit, (awarded, charged, held) in ((Unit.GPU_MS, gpu), (Unit.TOKENS, tokens)):
            balance = Balance(unit, awarded, charged, held)
            allocation_id = AllocationId(f"{project_id}-{unit.value.replace('_', '-')}")
            start, end = NOW - timedelta(days=30), NOW + timedelta(days=180)
            self.allocations[allocation_id] = Allocation(allocation_id, project_id, start, end, False, False, balance)
        return project_id

    def join(self, project_id: ProjectId, name: str, role: ProjectRole = ProjectRole.MEMBER) -> None:
        person = self.person(name)
        member = Member(person.id, name, person.display_name, role, NOW - timedelta(days=3))
        self.members[project_id][person.id] = member

    def session(self, project_id: ProjectId, name: str, state: SessionState, **changes: object) -> Session:
        """A two-hour session of one GPU that started 39 minutes ago."""
        hold_id = HoldId(f"hold-{len(self.sessions) + 1:08}")
        terms = SessionTerms("gpu1", "lab", "simulated-gpu", 1, Fraction(1), 7200, 120, "", name)
        over = state in (SessionState.SETTLED, SessionState.FAILED)
        began = NOW - timedelta(minutes=39)
        session = Session(
            hold_id=hold_id,
            person_id=self.person(name).id,
            project_id=project_id,
            allocation_id=AllocationId(f"{project_id}-gpu-ms"),
            terms=terms,
            state=state,
            held_at=began,
            started_at=began,
            alive_at=NOW,
            ends_at=began + timedelta(hours=2),
            ended_at=NOW if over else None,
            end_reason=EndReason.STOPPED if over else None,
            stop_reason="owner" if over else None,
            amount=7_320_000,
            charged=2_340_000,
        )
        session = replace(session, **changes)  # type: ignore[arg-type]
        self.sessions[hold_id] = session
        return session

    def line(self, project_id: ProjectId, name: str, kind: str, **changes: object) -> StatementLine:
        """A line of the statement; the newest has the highest number."""
        line = StatementLine(
            seq=len(self.lines) + 1,
            at=NOW - timedelta(minutes=60 - len(self.lines)),
            kind=kind,
            allocation_id=AllocationId(f"{project_id}-gpu-ms"),
            unit=Unit.GPU_MS,
            delta_awarded=0,
            delta_held=0,
            delta_charged=0,
            actor=self.person(name).id,
            actor_name=self.person(name).display_name,
            hold_id=None,
            from_at=None,
            to_at=None,
            quantity=None,
            estimated=False,
            code="session",
            params={"server_name": "", "profile": "gpu1", "gpus": 1, "rate": "1"},
            reason=None,
        )
        line = replace(line, **changes)  # type: ignore[arg-type]
        self.lines.append(line)
        return line


class _People:
    def __init__(self, world: World) -> None:
        self._world = world

    def by_hub_name(self, hub_name: str) -> Person | None:
        return self._world.people.get(hub_name)


class _Projects:
    def __init__(self, world: World) -> None:
        self._world = world

    def add(self, project: Project, pi: PersonId) -> None:
        self._world.projects[project.id] = project
        self._world.members[project.id] = {}
        self.put_member(project.id, pi, ProjectRole.PI, project.created_at)

    def get(self, project_id: ProjectId) -> Project | None:
        return self._world.projects.get(project_id)

    def of_person(self, person_id: PersonId) -> Sequence[tuple[Project, ProjectRole]]:
        of = self._world.members.items()
        return [(self._world.projects[key], held[person_id].role) for key, held in of if person_id in held]

    def search(self, text: str, *, after: str | None, limit: int) -> Sequence[Project]:
        return []

    def members(self, project_id: ProjectId) -> Sequence[Member]:
        return list(self._world.members[project_id].values())

    def role(self, project_id: ProjectId, person_id: PersonId) -> ProjectRole | None:
        member = self._world.members.get(project_id, {}).get(person_id)
        return member.role if member is not None else None

    def put_member(self, project_id: ProjectId, person_id: PersonId, role: ProjectRole, at: datetime) -> bool:
        person = next(p for p in self._world.people.values() if p.id == person_id)
        new = person_id not in self._world.members[project_id]
        self._world.members[project_id][person_id] = Member(person_id, person.hub_name, person.display_name, role, at)
        return new

    def remove_member(self, project_id: ProjectId, person_id: PersonId) -> bool:
        return self._world.members[project_id].pop(person_id, None) is not None


class _Applications:
    def __init__(self, world: World) -> None:
        self._world = world

    def add(self, application_id: ApplicationId, applicant: PersonId, ask: Ask, at: datetime, body_hash: str) -> bool:
        known = self._world.applications.get(application_id)
        if known is not None:
            if known[1] != body_hash:
                raise IdConflict
            return False
        name = next(p.display_name for p in self._world.people.values() if p.id == applicant)
        state = ApplicationState.SUBMITTED
        made = Application(application_id, applicant, name, ask, state, at, None, None, None, None, None, None)
        self._world.applications[application_id] = (made, body_hash)
        return True

    def get(self, application_id: ApplicationId) -> Application | None:
        known = self._world.applications.get(application_id)
        return known[0] if known is not None else None

    def of_person(self, person_id: PersonId) -> Sequence[Application]:
        return [one for one, _ in reversed(self._world.applications.values()) if one.applicant == person_id]

    def in_state(self, *states: ApplicationState) -> Sequence[Application]:
        return [one for one, _ in self._world.applications.values() if one.state in states]

    def decide(
        self, application_id: ApplicationId, *, expected: ApplicationState, to: ApplicationState, **how: object
    ) -> None:
        known, body_hash = self._world.applications[application_id]
        if known.state is not expected:
            raise WrongState
        how["decided_by"], how["decided_at"] = how.pop("by"), how.pop("at")
        self._world.applications[application_id] = (replace(known, state=to, **how), body_hash)  # type: ignore[arg-type]


class _Accounts:
    def __init__(self, world: World) -> None:
        self._world = world

    def open_allocation(
        self, allocation_id: AllocationId, project_id: ProjectId, unit: Unit, starts_at: datetime, ends_at: datetime
    ) -> None:
        balance = Balance(unit, 0, 0, 0)
        made = Allocation(allocation_id, project_id, starts_at, ends_at, False, False, balance)
        self._world.allocations[allocation_id] = made

    def deposit(self, txn_id: str, allocation_id: AllocationId, amount: int, **about: object) -> None:
        known = self._world.allocations[allocation_id]
        more = replace(known.balance, awarded=known.balance.awarded + amount)
        self._world.allocations[allocation_id] = replace(known, balance=more)

    def get(self, allocation_id: AllocationId) -> Allocation | None:
        return self._world.allocations.get(allocation_id)

    def of_project(self, project_id: ProjectId) -> Sequence[Allocation]:
        return [one for one in self._world.allocations.values() if one.project_id == project_id]

    def daily_use(self, project_id: ProjectId, since: date) -> Mapping[Unit, Mapping[date, int]]:
        return {unit: {} for unit in Unit} | self._world.used.get(project_id, {})

    def statement(self, project_id: ProjectId, *, before: int | None, limit: int) -> Sequence[StatementLine]:
        own = [line for line in self._world.lines if line.allocation_id.startswith(f"{project_id}-")]
        return [line for line in reversed(own) if before is None or line.seq < before][:limit]


class _Sessions:
    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, hold_id: HoldId) -> Session | None:
        return self._world.sessions.get(hold_id)

    def upsert(self, session: Session) -> None:
        self._world.sessions[session.hold_id] = session

    def of_person(self, person_id: PersonId, *, limit: int) -> Sequence[Session]:
        own = [one for one in self._world.sessions.values() if one.person_id == person_id]
        return list(reversed(own))[:limit]

    def unfinished(self) -> Sequence[Session]:
        return [one for one in self._world.sessions.values() if not one.over]


class _Limits:
    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, limit_id: str) -> LimitStanding | None:
        return self._world.shares.get(limit_id)

    def put(self, limit: Limit) -> LimitStanding:
        self._world.shares[limit.id] = LimitStanding(limit.id, limit.cap, 0, 0)
        return self._world.shares[limit.id]


class FakeStore:
    """Runs work at once; raises Unavailable while the world is down."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.people, self.projects = _People(world), _Projects(world)
        self.applications, self.accounts = _Applications(world), _Accounts(world)
        self.sessions = _Sessions(world)
        self.notices = FakeNotices(world.told)
        self.gateway_keys = FakeGatewayKeys(world.books)
        self.model_usage = FakeModelUsage(world.books)
        self.idle = FakeIdleStates(world.told)
        self.limits = _Limits(world)
        self.exchange = world.work
        self.refunds = FakeRefunds(world.books)

    @property
    def courses(self) -> FakeCourses:
        """As of now: members and people are read anew each time."""
        rows = ((project, one) for project, members in self._world.members.items() for one in members.values())
        roles = {(project, one.person_id): (one.role, one.since) for project, one in rows}
        return FakeCourses(self._world.books.teaching, roles, {one.id: one for one in self._world.people.values()})

    def audit(self, **entry: object) -> None:
        """Kept by the real store only."""

    async def read(self, work: Callable[[Transaction], T]) -> T:
        if self._world.down:
            raise Unavailable("the database does not answer")
        return work(cast(Transaction, self))

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self.read(work)


class FakeHub:
    def __init__(self, world: World) -> None:
        self._world = world

    async def active_servers(self) -> HubView:
        return HubView()

    async def stop_session(self, order: StopOrder) -> bool:
        self._world.stopped.append((order.hub_name, order.server_name))
        return True

    async def set_deadline(self, hub_name: str, server_name: str, hold_id: HoldId, ends_at: datetime) -> Refused | None:
        return None

    async def adopt(self, hub_name: str, server_name: str, hold_id: HoldId) -> None:
        raise NotImplementedError


class FakeCatalogue:
    def profile(self, profile_id: str) -> PricedProfile | None:
        titles: Mapping[str, tuple[str, int, str]] = {
            "cpu": ("CPU only", 0, "仅 CPU"),
            "gpu1": ("1 simulated GPU", 1, "1 块模拟 GPU"),
            "gpu9": ("9 GPUs", 9, ""),
        }
        if profile_id not in titles:
            return None
        title, gpus, title_zh = titles[profile_id]
        return PricedProfile(profile_id, title, "simulated-gpu", "this-machine", ("lab",), gpus, 43_200, title_zh)

    def free_profile(self) -> PricedProfile | None:
        return self.profile("cpu")


@dataclass(frozen=True)
class LoginStart:
    redirect_url: str
    state: str


@dataclass(frozen=True)
class LoginEnd:
    token: str
    identity: HubIdentity
    next_url: str


ACCESS = "access:services!service=quota"


@dataclass(frozen=True)
class FakeModel:
    name: str
    title: str
    license: str = "Apache-2.0"
    license_flags: tuple[str, ...] = ("attribution",)


class FakeModels:
    """Two models; the second belongs to one project."""

    def offered(self, project_slug: str | None = None) -> Sequence[FakeModel]:
        both = [FakeModel("small", "Small model"), FakeModel("secret", "Secret model")]
        return both if project_slug in (None, "secret-project") else both[:1]

    def gpus(self, model: str, provider: str, hardware: str, cloud: str) -> int:
        return 2 if hardware == "a100" else 0


class FakeSignIn:
    """A hub that knows tokens; the code of a sign-in is the token that it ends with."""

    def __init__(self) -> None:
        self.identities: dict[str, HubIdentity] = {}
        self.asked_fresh: list[bool] = []
        self.nexts: dict[str, str] = {}
        self.down = False

    def knows(self, name: str, *powers: str) -> str:
        """Make a token for `name`."""
        token = f"token-{name}"
        scopes = frozenset({ACCESS, *(f"custom:quota:{power}" for power in powers)})
        self.identities[token] = HubIdentity(name, scopes)
        return token

    async def introspect(self, token: str, *, fresh: bool = False) -> HubIdentity | None:
        if self.down:
            raise Unavailable("the hub does not answer")
        self.asked_fresh.append(fresh)
        return self.identities.get(token)

    def start_login(self, next_url: str) -> LoginStart:
        state = f"state{len(self.nexts)}abcdefghijklmnop"
        self.nexts[state] = next_url
        return LoginStart(f"/hub/api/oauth2/authorize?state={state}", state)

    async def finish_login(self, *, code: str, state: str, cookie_state: str) -> LoginEnd | None:
        identity = self.identities.get(code)
        if identity is None or state != cookie_state or state not in self.nexts:
            return None
        return LoginEnd(code, identity, self.nexts.pop(state))


def services_of(world: World, clock: FixedClock | None = None) -> Services:
    """The use cases' services over `world`; evidence is not reached from the pages."""
    return Services(
        clock=clock or FixedClock(),
        ledger=FakeLedger(world.books),
        store=FakeStore(world),
        hub=FakeHub(world),
        evidence=cast(SessionEvidence, None),
        catalogue=FakeCatalogue(),
        policy=Policy(),
        programme=Programme(),
        session_key_secret=b"secret",
        models=FakeModels(),
    )
