"""What people and pages read: home, projects, payers, statements. Reads only; each answer comes from one transaction.

Plain members see their own use and the totals; PI, co-PI, manager and admins see everybody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction

from quota.domain.application import Application
from quota.domain.course import Course
from quota.domain.errors import Refused, Unknown
from quota.domain.ids import ProjectId
from quota.domain.project import Allocation, AllocationState, Member, Person, Project, ProjectRole
from quota.domain.session import Session
from quota.domain.units import Balance, Unit
from quota.service.callers import Caller, Power, person_named
from quota.service.ports import LimitStanding, StatementLine, Transaction
from quota.service.project_roles import reader_role, sees_everybody
from quota.service.quote import Price, decide, member_shares, payer_facts
from quota.service.services import Services
from quota.service.session_ports import ProfileCatalogue

_PAGE = 200  # lines read at a time where a filter thins them out
_SESSIONS_SHOWN = 50


@dataclass(frozen=True, slots=True)
class ProjectCard:
    """One project with its totals; `role` is the reader's, None for an admin who is not in it."""

    project: Project
    role: ProjectRole | None
    pi: Member | None
    balances: Sequence[Balance]  # GPU-milliseconds first, then tokens; allocations that are not over
    allocations: Sequence[Allocation]

    @property
    def starts_at(self) -> datetime | None:
        return min((a.starts_at for a in self.allocations), default=None)

    @property
    def ends_at(self) -> datetime | None:
        return max((a.ends_at for a in self.allocations), default=None)


@dataclass(frozen=True, slots=True)
class Home:
    cards: Sequence[ProjectCard]
    sessions: Sequence[Session]  # newest first, running and ended
    applications: Sequence[Application]


@dataclass(frozen=True, slots=True)
class ProjectView:
    card: ProjectCard
    members: Sequence[Member]


@dataclass(frozen=True, slots=True)
class StatementPage:
    """Newest first; `next` is passed as `before` for the following page, None at the end."""

    lines: Sequence[StatementLine]
    next: int | None


@dataclass(frozen=True, slots=True)
class ProjectPage:
    cards: Sequence[ProjectCard]
    next: str | None  # passed as `after` for the following page


@dataclass(frozen=True, slots=True)
class PayerView:
    """A project in the start chooser; with `refusal` nothing can start in it, not even what is free."""

    card: ProjectCard
    refusal: Refused | None
    course: Course | None = None
    shares: Mapping[Unit, LimitStanding] = field(default_factory=dict)  # the person's own, where they have any


async def home(services: Services, caller: Caller) -> Home:
    """Everything on the caller's home page."""
    at = services.clock.now()

    def work(tx: Transaction) -> Home:
        cards = [_card(tx, project, role, at) for project, role in tx.projects.of_person(caller.id)]
        sessions = tx.sessions.of_person(caller.id, limit=_SESSIONS_SHOWN)
        return Home(cards, sessions, tx.applications.of_person(caller.id))

    return await services.store.read(work)


async def projects(services: Services, caller: Caller) -> Sequence[ProjectCard]:
    """The caller's projects."""
    at = services.clock.now()
    return await services.store.read(
        lambda tx: [_card(tx, project, role, at) for project, role in tx.projects.of_person(caller.id)]
    )


async def project(services: Services, caller: Caller, project_id: ProjectId) -> ProjectView:
    """One project for a member or an admin. Raises Unknown('project')."""
    at = services.clock.now()

    def work(tx: Transaction) -> ProjectView:
        found, role = _visible(tx, caller, project_id)
        return ProjectView(_card(tx, found, role, at), tx.projects.members(project_id))

    return await services.store.read(work)


async def statement(
    services: Services,
    caller: Caller,
    project_id: ProjectId,
    *,
    before: int | None,
    limit: int,
    language: str = "en",
) -> StatementPage:
    """The project's statement; a plain member reads their own lines and those of awards. Raises Unknown('project').

    A session's line gets its profile's title in `language` as a further parameter, `profile_title`.
    """

    def work(tx: Transaction) -> StatementPage:
        _, role = _visible(tx, caller, project_id)
        sees_all = sees_everybody(caller, role)
        return _page(tx, project_id, None if sees_all else caller.person, before, limit)

    page = await services.store.read(work)
    return replace(page, lines=[_titled(line, services.catalogue, language) for line in page.lines])


async def search(services: Services, caller: Caller, text: str, *, after: str | None, limit: int) -> ProjectPage:
    """Projects by title, slug or PI, for admins. Raises Forbidden."""
    caller.must(Power.ADMIN)
    at = services.clock.now()

    def work(tx: Transaction) -> ProjectPage:
        found = list(tx.projects.search(text, after=after, limit=limit + 1))
        cards = [_card(tx, one, None, at) for one in found[:limit]]
        return ProjectPage(cards, found[limit - 1].slug if len(found) > limit else None)

    return await services.store.read(work)


async def payers(services: Services, hub_name: str) -> Sequence[PayerView]:
    """The projects that could pay for a start, each judged by the function that decides. Raises Unknown('person')."""
    at = services.clock.now()
    person = await person_named(services, hub_name)
    # The cheapest start there is: what even this cannot pay for, can pay for nothing.
    free = Price("", "", 0, Fraction(0), 1, services.policy.stop_margin_s)

    def work(tx: Transaction) -> list[PayerView]:
        views = []
        for one, role in tx.projects.of_person(person.id):
            card = _card(tx, one, role, at)
            facts = payer_facts(tx, one, person.id)
            quoted = decide(free, facts, free.runtime_s, at)
            views.append(PayerView(card, quoted.refusal, facts.course, member_shares(tx, one.id, person.id)))
        return views

    return await services.store.read(work)


def totals(allocations: Iterable[Allocation], at: datetime) -> list[Balance]:
    """Balances by unit over the allocations that are not over; both units always, a true zero where there is none."""
    sums = {unit: Balance(unit, 0, 0, 0) for unit in Unit}
    for one in allocations:
        if one.state_at(at) is not AllocationState.EXPIRED:
            sums[one.unit] += one.balance
    return list(sums.values())


def _card(tx: Transaction, project: Project, role: ProjectRole | None, at: datetime) -> ProjectCard:
    allocations = tx.accounts.of_project(project.id)
    pi = next((m for m in tx.projects.members(project.id) if m.role is ProjectRole.PI), None)
    return ProjectCard(project, role, pi, totals(allocations, at), allocations)


def _visible(tx: Transaction, caller: Caller, project_id: ProjectId) -> tuple[Project, ProjectRole | None]:
    found = tx.projects.get(project_id)
    if found is None:
        raise Unknown("project", project_id=project_id)
    return found, reader_role(tx, caller, project_id)


def _titled(line: StatementLine, catalogue: ProfileCatalogue, language: str) -> StatementLine:
    profile = catalogue.profile(str(line.params.get("profile", "")))
    if profile is None:
        return line
    return replace(line, params={**line.params, "profile_title": profile.title_in(language)})


def _page(tx: Transaction, project_id: ProjectId, only: Person | None, before: int | None, limit: int) -> StatementPage:
    lines: list[StatementLine] = []
    while True:  # ends with the statement
        read = tx.accounts.statement(project_id, before=before, limit=_PAGE if only else limit + 1)
        for line in read:
            if only is None or line.hold_id is None or line.actor == only.id:
                lines.append(line)
            if len(lines) > limit:
                return StatementPage(lines[:limit], lines[limit - 1].seq)
        if only is None or len(read) < _PAGE:
            return StatementPage(lines, None)
        before = read[-1].seq
