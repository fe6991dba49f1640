"""Courses, the roles in them and their invitations.

Invariant: a role is read together with the membership, so that who left a project is nothing in its course, whatever rows are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, and_, collate, delete, or_, select, update

from quota.domain.course import Course, CoursePerson, CourseRole, CourseTerms, course_role
from quota.domain.errors import IdConflict, Unknown
from quota.domain.ids import PersonId, ProjectId
from quota.domain.project import LEADS, ProjectRole
from quota.service.course_ports import Invitation
from quota.store.course_tables import course, course_invitation, course_person
from quota.store.instants import from_us, from_us_or_none, to_us
from quota.store.tables import member, person, person_data

_ORDER: Final = tuple(CourseRole)


class SqlCourses:
    """`quota.service.course_ports.Courses`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._slug = collate(course.c.slug, "BINARY" if connection.dialect.name == "sqlite" else "C")

    def add(self, added: Course) -> None:
        if self.of_project(added.project_id) is not None:
            raise IdConflict("this project is a course already")
        if self.of_slug(added.slug) is not None:
            raise IdConflict("another course has this name", slug=added.slug)
        self._connection.execute(
            course.insert().values(
                project_id=added.project_id, slug=added.slug, created_us=to_us(added.created_at), **_terms(added)
            )
        )

    def change(self, project_id: ProjectId, terms: CourseTerms) -> None:
        """Raises Unknown('course')."""
        query = update(course).where(course.c.project_id == project_id).values(**_terms(terms))
        if self._connection.execute(query).rowcount == 0:
            raise Unknown("course", project_id=project_id)

    def retire(self, project_id: ProjectId, at: datetime) -> None:
        where = (course.c.project_id == project_id, course.c.retired_us.is_(None))
        self._connection.execute(update(course).where(*where).values(retired_us=to_us(at)))

    def of_project(self, project_id: ProjectId) -> Course | None:
        return self._one(select(course).where(course.c.project_id == project_id))

    def of_slug(self, slug: str) -> Course | None:
        return self._one(select(course).where(course.c.slug == slug))

    def of_person(self, person_id: PersonId) -> Sequence[tuple[Course, CourseRole]]:
        query = (
            select(course, member.c.role, course_person.c.role.label("given"))
            .join(member, member.c.project_id == course.c.project_id)
            .outerjoin(course_person, _given())
            .where(member.c.person_id == person_id, _has_role())
            .order_by(self._slug)
        )
        return [(_course(row), _role(row)) for row in self._connection.execute(query)]

    def all(self) -> Sequence[Course]:
        return [_course(row) for row in self._connection.execute(select(course).order_by(self._slug))]

    def role(self, project_id: ProjectId, person_id: PersonId) -> CourseRole | None:
        query = (
            select(member.c.role, course_person.c.role.label("given"))
            .join(course, course.c.project_id == member.c.project_id)
            .outerjoin(course_person, _given())
            .where(member.c.project_id == project_id, member.c.person_id == person_id, _has_role())
        )
        row = self._connection.execute(query).first()
        return None if row is None else _role(row)

    def people(self, project_id: ProjectId) -> Sequence[CoursePerson]:
        query = (
            select(
                member, course_person.c.role.label("given"), course_person.c.since_us.label("given_us"),
                person.c.hub_name, person.c.login, person_data.c.display_name,
            )
            .join(course, course.c.project_id == member.c.project_id)
            .join(person, person.c.id == member.c.person_id)
            .outerjoin(person_data, person_data.c.person_id == person.c.id)
            .outerjoin(course_person, _given())
            .where(member.c.project_id == project_id, _has_role())
        )  # fmt: skip
        found = [_person(row) for row in self._connection.execute(query)]
        return sorted(found, key=lambda one: (_ORDER.index(one.role), one.hub_name))

    def put_person(self, project_id: ProjectId, person_id: PersonId, role: CourseRole, at: datetime) -> None:
        where = (course_person.c.project_id == project_id, course_person.c.person_id == person_id)
        if self._connection.execute(update(course_person).where(*where).values(role=role.value)).rowcount == 0:
            values = {"project_id": project_id, "person_id": person_id, "role": role.value, "since_us": to_us(at)}
            self._connection.execute(course_person.insert().values(**values))

    def invite(self, invitation: Invitation) -> None:
        self.withdraw(invitation.project_id, invitation.role)
        self._connection.execute(
            course_invitation.insert().values(
                code_hash=invitation.code_hash,
                project_id=invitation.project_id,
                role=invitation.role.value,
                made_by=invitation.made_by,
                made_us=to_us(invitation.made_at),
                expires_us=to_us(invitation.expires_at),
            )
        )

    def invitation(self, code_hash: str) -> Invitation | None:
        row = self._connection.execute(
            select(course_invitation).where(course_invitation.c.code_hash == code_hash)
        ).first()
        return None if row is None else _invitation(row)

    def invitations(self, project_id: ProjectId) -> Sequence[Invitation]:
        query = select(course_invitation).where(course_invitation.c.project_id == project_id)
        return [_invitation(row) for row in self._connection.execute(query.order_by(course_invitation.c.role))]

    def count_use(self, code_hash: str) -> None:
        query = update(course_invitation).where(course_invitation.c.code_hash == code_hash)
        self._connection.execute(query.values(used=course_invitation.c.used + 1))

    def withdraw(self, project_id: ProjectId, role: CourseRole) -> bool:
        where = (course_invitation.c.project_id == project_id, course_invitation.c.role == role.value)
        return self._connection.execute(delete(course_invitation).where(*where)).rowcount > 0

    def _one(self, query: Select[Any]) -> Course | None:
        row = self._connection.execute(query).first()
        return None if row is None else _course(row)


def _given() -> Any:
    return and_(course_person.c.project_id == member.c.project_id, course_person.c.person_id == member.c.person_id)


def _has_role() -> Any:
    return or_(member.c.role.in_([role.value for role in LEADS]), course_person.c.role.is_not(None))


def _role(row: Any) -> CourseRole:
    given = None if row.given is None else CourseRole(row.given)
    role = course_role(ProjectRole(row.role), given)
    assert role is not None  # the query leaves out who is nothing
    return role


def _terms(one: Course | CourseTerms) -> dict[str, object]:
    return {
        "title": one.title,
        "starts_us": to_us(one.starts_at),
        "ends_us": to_us(one.ends_at),
        "zone": one.zone,
        "gpu_ms_each": one.gpu_ms_each,
        "tokens_each": one.tokens_each,
    }


def _course(row: Row[Any]) -> Course:
    return Course(
        project_id=ProjectId(row.project_id),
        slug=row.slug,
        title=row.title,
        starts_at=from_us(row.starts_us),
        ends_at=from_us(row.ends_us),
        zone=row.zone,
        gpu_ms_each=row.gpu_ms_each,
        tokens_each=row.tokens_each,
        created_at=from_us(row.created_us),
        retired_at=from_us_or_none(row.retired_us),
    )


def _person(row: Row[Any]) -> CoursePerson:
    role = _role(row)
    since_us = row.since_us if row.given_us is None or role is CourseRole.INSTRUCTOR else row.given_us
    name = row.display_name if row.display_name is not None else row.login
    return CoursePerson(PersonId(row.person_id), row.hub_name, name, role, from_us(since_us))


def _invitation(row: Row[Any]) -> Invitation:
    return Invitation(
        code_hash=row.code_hash,
        project_id=ProjectId(row.project_id),
        role=CourseRole(row.role),
        made_by=PersonId(row.made_by),
        made_at=from_us(row.made_us),
        expires_at=from_us(row.expires_us),
        used=row.used,
    )
