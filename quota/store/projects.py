"""Projects and their members."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, collate, delete, func, or_, select, update

from quota.domain.errors import Unknown
from quota.domain.ids import PersonId, ProjectId
from quota.domain.project import RANK, Member, Project, ProjectRole, ProjectState
from quota.store.course_tables import course_person
from quota.store.instants import from_us, to_us
from quota.store.tables import member, person, person_data, project


class SqlProjects:
    """`quota.service.ports.Projects`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Slugs sort by their characters on both engines, whatever the database's language.
        self._slug = collate(project.c.slug, "BINARY" if connection.dialect.name == "sqlite" else "C")

    def add(self, added: Project, pi: PersonId) -> None:
        """Store a project with its PI."""
        at_us = to_us(added.created_at)
        self._connection.execute(
            project.insert().values(
                id=added.id, slug=added.slug, title=added.title, state=added.state.value, created_us=at_us
            )
        )
        self._connection.execute(
            member.insert().values(project_id=added.id, person_id=pi, role=ProjectRole.PI.value, since_us=at_us)
        )

    def get(self, project_id: ProjectId) -> Project | None:
        row = self._connection.execute(select(project).where(project.c.id == project_id)).first()
        return None if row is None else _project(row)

    def of_person(self, person_id: PersonId) -> Sequence[tuple[Project, ProjectRole]]:
        query = (
            select(project, member.c.role)
            .join(member, member.c.project_id == project.c.id)
            .where(member.c.person_id == person_id)
            .order_by(self._slug)
        )
        return [(_project(row), ProjectRole(row.role)) for row in self._connection.execute(query)]

    def search(self, text: str, *, after: str | None, limit: int) -> Sequence[Project]:
        """Projects whose title, slug or PI contains `text`; wildcards are taken literally."""
        pi = (
            select(member.c.project_id)
            .join(person, person.c.id == member.c.person_id)
            .outerjoin(person_data, person_data.c.person_id == person.c.id)
            .where(
                member.c.role == ProjectRole.PI.value,
                or_(_contains(person_data.c.display_name, text), _contains(person.c.hub_name, text)),
            )
        )
        query = select(project).order_by(self._slug).limit(limit)
        if text:
            query = query.where(
                or_(_contains(project.c.title, text), _contains(project.c.slug, text), project.c.id.in_(pi))
            )
        if after is not None:
            query = query.where(self._slug > after)
        return [_project(row) for row in self._connection.execute(query)]

    def members(self, project_id: ProjectId) -> Sequence[Member]:
        query = (
            select(member, person.c.hub_name, person.c.login, person_data.c.display_name)
            .join(person, person.c.id == member.c.person_id)
            .outerjoin(person_data, person_data.c.person_id == person.c.id)
            .where(member.c.project_id == project_id)
            .order_by(member.c.since_us, person.c.hub_name)
        )
        return [
            Member(
                PersonId(row.person_id),
                row.hub_name,
                row.display_name if row.display_name is not None else row.login,
                ProjectRole(row.role),
                from_us(row.since_us),
            )
            for row in self._connection.execute(query)
        ]

    def role(self, project_id: ProjectId, person_id: PersonId) -> ProjectRole | None:
        query = select(member.c.role).where(member.c.project_id == project_id, member.c.person_id == person_id)
        found = self._connection.execute(query).scalar()
        return None if found is None else ProjectRole(found)

    def put_member(self, project_id: ProjectId, person_id: PersonId, role: ProjectRole, at: datetime) -> bool:
        """Add or change; True where the person is new in the project."""
        changed = self._connection.execute(
            update(member)
            .where(member.c.project_id == project_id, member.c.person_id == person_id)
            .values(role=role.value)
        ).rowcount
        if changed:
            return False
        self._connection.execute(
            member.insert().values(project_id=project_id, person_id=person_id, role=role.value, since_us=to_us(at))
        )
        return True

    def remove_member(self, project_id: ProjectId, person_id: PersonId) -> bool:
        theirs = (course_person.c.project_id == project_id, course_person.c.person_id == person_id)
        self._connection.execute(delete(course_person).where(*theirs))  # who comes back has no role of before
        where = (member.c.project_id == project_id, member.c.person_id == person_id)
        return self._connection.execute(delete(member).where(*where)).rowcount > 0

    def move_memberships(self, person_id: PersonId, into: PersonId) -> None:
        rows = self._connection.execute(
            select(member.c.project_id, member.c.role, member.c.since_us).where(member.c.person_id == person_id)
        ).all()
        self._connection.execute(delete(member).where(member.c.person_id == person_id))
        for row in rows:
            here = (member.c.project_id == row.project_id, member.c.person_id == into)
            own = self._connection.execute(select(member.c.role).where(*here)).scalar()
            if own is None:
                values = {"project_id": row.project_id, "person_id": into, "role": row.role, "since_us": row.since_us}
                self._connection.execute(member.insert().values(**values))
            elif RANK.index(ProjectRole(row.role)) < RANK.index(ProjectRole(own)):
                self._connection.execute(update(member).where(*here).values(role=row.role))
        self._move_course_roles(person_id, into)

    def _move_course_roles(self, person_id: PersonId, into: PersonId) -> None:
        """The roles that courses gave come along; where both have one, that of `into` stays."""
        own = select(course_person.c.project_id).where(course_person.c.person_id == into)
        both = (course_person.c.person_id == person_id, course_person.c.project_id.in_(own))
        self._connection.execute(delete(course_person).where(*both))
        query = update(course_person).where(course_person.c.person_id == person_id)
        self._connection.execute(query.values(person_id=into))

    def set_state(self, project_id: ProjectId, state: ProjectState) -> None:
        """Raises Unknown('project')."""
        query = update(project).where(project.c.id == project_id).values(state=state.value)
        if self._connection.execute(query).rowcount == 0:
            raise Unknown("project", project_id=project_id)

    def set_without_pi(self, project_id: ProjectId, since: datetime | None) -> None:
        """Write down since when a project has no PI; None: it has one."""
        values = {"without_pi_us": None if since is None else to_us(since)}
        self._connection.execute(update(project).where(project.c.id == project_id).values(values))


def _contains(column: Any, text: str) -> Any:
    escaped = text.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return func.lower(column).like(f"%{escaped}%", escape="\\")


def _project(row: Row[Any]) -> Project:
    since = None if row.without_pi_us is None else from_us(row.without_pi_us)
    return Project(ProjectId(row.id), row.slug, row.title, ProjectState(row.state), from_us(row.created_us), since)
