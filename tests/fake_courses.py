"""The store's fake for courses: same promises, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from quota.domain.course import Course, CoursePerson, CourseRole, CourseTerms, course_role
from quota.domain.errors import IdConflict, Unknown
from quota.domain.ids import PersonId, ProjectId
from quota.domain.project import Person, ProjectRole
from quota.service.course_ports import Invitation

Roles = dict[tuple[ProjectId, PersonId], tuple[ProjectRole, datetime]]
_ORDER = tuple(CourseRole)


@dataclass
class CourseBooks:
    courses: dict[ProjectId, Course] = field(default_factory=dict)
    given: dict[tuple[ProjectId, PersonId], tuple[CourseRole, datetime]] = field(default_factory=dict)
    invitations: dict[str, Invitation] = field(default_factory=dict)


@dataclass
class FakeCourses:
    """`roles` and `people` are those of the store's other repositories."""

    books: CourseBooks
    roles: Roles
    known: dict[PersonId, Person]

    def add(self, course: Course) -> None:
        if course.project_id in self.books.courses or self.of_slug(course.slug) is not None:
            raise IdConflict("a course already")
        self.books.courses[course.project_id] = course

    def change(self, project_id: ProjectId, terms: CourseTerms) -> None:
        if project_id not in self.books.courses:
            raise Unknown("course", project_id=project_id)
        values = {name: getattr(terms, name) for name in terms.__slots__}
        self.books.courses[project_id] = replace(self.books.courses[project_id], **values)

    def retire(self, project_id: ProjectId, at: datetime) -> None:
        if self.books.courses[project_id].retired_at is None:
            self.books.courses[project_id] = replace(self.books.courses[project_id], retired_at=at)

    def of_project(self, project_id: ProjectId) -> Course | None:
        return self.books.courses.get(project_id)

    def of_slug(self, slug: str) -> Course | None:
        return next((one for one in self.books.courses.values() if one.slug == slug), None)

    def of_person(self, person_id: PersonId) -> Sequence[tuple[Course, CourseRole]]:
        found = [(one, self.role(one.project_id, person_id)) for one in self.all()]
        return [(course, role) for course, role in found if role is not None]

    def all(self) -> Sequence[Course]:
        return sorted(self.books.courses.values(), key=lambda one: one.slug)

    def role(self, project_id: ProjectId, person_id: PersonId) -> CourseRole | None:
        if project_id not in self.books.courses:
            return None
        given = self.books.given.get((project_id, person_id), (None, None))[0]
        return course_role(self.roles.get((project_id, person_id), (None, None))[0], given)

    def people(self, project_id: ProjectId) -> Sequence[CoursePerson]:
        found = []
        for (project, person_id), (_, since) in self.roles.items():
            role = self.role(project_id, person_id) if project == project_id else None
            if role is not None:
                one = self.known[person_id]
                found.append(CoursePerson(person_id, one.hub_name, one.display_name, role, since))
        return sorted(found, key=lambda one: (_ORDER.index(one.role), one.hub_name))

    def put_person(self, project_id: ProjectId, person_id: PersonId, role: CourseRole, at: datetime) -> None:
        self.books.given[(project_id, person_id)] = (role, at)

    def invite(self, invitation: Invitation) -> None:
        self.withdraw(invitation.project_id, invitation.role)
        self.books.invitations[invitation.code_hash] = invitation

    def invitation(self, code_hash: str) -> Invitation | None:
        return self.books.invitations.get(code_hash)

    def invitations(self, project_id: ProjectId) -> Sequence[Invitation]:
        return [one for one in self.books.invitations.values() if one.project_id == project_id]

    def count_use(self, code_hash: str) -> None:
        one = self.books.invitations[code_hash]
        self.books.invitations[code_hash] = replace(one, used=one.used + 1)

    def withdraw(self, project_id: ProjectId, role: CourseRole) -> bool:
        gone = [key for key, one in self.books.invitations.items() if (one.project_id, one.role) == (project_id, role)]
        for key in gone:
            del self.books.invitations[key]
        return bool(gone)
