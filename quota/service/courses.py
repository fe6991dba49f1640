"""Who is what in which course, and whether it runs: what everything else about courses stands on. Reads only.

Invariants: a person's role in one course says nothing about another; who left the project is nothing; whether a course is over
follows from the server's clock alone. `quota.service.teach` changes courses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from quota.domain.course import STAFF, Course, CoursePerson, CoursePhase, CourseRole, refusal_of
from quota.domain.errors import Forbidden, Refused, Unknown
from quota.domain.ids import PersonId, ProjectId
from quota.service.callers import Caller, Power
from quota.service.ports import Transaction
from quota.service.services import Services


@dataclass(frozen=True, slots=True)
class CourseView:
    """A course as one reader may see it; `role` is None for an admin who is not in it. `people` is empty for students."""

    course: Course
    role: CourseRole | None
    people: Sequence[CoursePerson]

    @property
    def is_staff(self) -> bool:
        return self.role in STAFF


async def course_of(services: Services, slug: str) -> Course:
    """The course of this name. Raises Unknown('course')."""
    return await services.store.read(lambda tx: named(tx, slug))


async def role_in(services: Services, course: Course, person_id: PersonId) -> CourseRole | None:
    """What a person is in a course; None for everybody else."""
    return await services.store.read(lambda tx: tx.courses.role(course.project_id, person_id))


async def people_of(services: Services, course: Course) -> Sequence[CoursePerson]:
    """Everybody in a course, instructors first."""
    return await services.store.read(lambda tx: tx.courses.people(course.project_id))


async def courses_of(services: Services, person_id: PersonId) -> Sequence[tuple[Course, CourseRole]]:
    """The courses in which a person is something, over or not, by name."""
    return await services.store.read(lambda tx: tx.courses.of_person(person_id))


def is_over(course: Course, now: datetime) -> bool:
    """Whether its end has come, by date or because it was retired."""
    return course.phase_at(now) is CoursePhase.OVER


def closed_course(tx: Transaction, project_id: ProjectId, person_id: PersonId, at: datetime) -> Refused | None:
    """Why a project's being a course lets this person spend nothing on it now; None where it does, or is none."""
    course = tx.courses.of_project(project_id)
    return None if course is None else refusal_of(course, tx.courses.role(project_id, person_id), at)


def named(tx: Transaction, slug: str) -> Course:
    """As `course_of`, inside a transaction."""
    course = tx.courses.of_slug(slug)
    if course is None:
        raise Unknown("course", slug=slug)
    return course


def seen_by(tx: Transaction, caller: Caller, slug: str) -> tuple[Course, CourseRole | None]:
    """A course and the caller's role in it; who is nothing there, and no admin, does not learn that it exists.

    Raises Unknown('course').
    """
    course = named(tx, slug)
    role = tx.courses.role(course.project_id, caller.id)
    if role is None and not caller.may(Power.ADMIN):
        raise Unknown("course", slug=slug)
    return course, role


def taught_by(tx: Transaction, caller: Caller, slug: str) -> Course:
    """A course whose instructor the caller is. Raises Unknown('course'), Forbidden."""
    course, role = seen_by(tx, caller, slug)
    if role is not CourseRole.INSTRUCTOR:
        raise Forbidden("only a course's instructors change it")
    return course


async def view(services: Services, caller: Caller, slug: str) -> CourseView:
    """A course for somebody in it: its people for instructors, graders and admins. Raises Unknown('course')."""

    def work(tx: Transaction) -> CourseView:
        course, role = seen_by(tx, caller, slug)
        sees_all = role in STAFF or caller.may(Power.ADMIN)
        return CourseView(course, role, tx.courses.people(course.project_id) if sees_all else ())

    return await services.store.read(work)
