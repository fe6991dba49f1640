"""What the use cases of courses need of the store; `Transaction.courses` gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from quota.domain.course import Course, CoursePerson, CourseRole, CourseTerms
from quota.domain.ids import PersonId, ProjectId


@dataclass(frozen=True, slots=True)
class Invitation:
    """A link that makes whoever opens it a student or grader, until it ends."""

    code_hash: str
    project_id: ProjectId
    role: CourseRole
    made_by: PersonId
    made_at: datetime
    expires_at: datetime
    used: int = 0


class Courses(Protocol):
    def add(self, course: Course) -> None:
        """Make a project a course. Raises IdConflict where the project is one, or the slug is another's."""

    def change(self, project_id: ProjectId, terms: CourseTerms) -> None: ...
    def retire(self, project_id: ProjectId, at: datetime) -> None:
        """Note that it ended before its date; the first instant stands."""

    def of_project(self, project_id: ProjectId) -> Course | None: ...
    def of_slug(self, slug: str) -> Course | None: ...
    def of_person(self, person_id: PersonId) -> Sequence[tuple[Course, CourseRole]]:
        """The courses in which a person is something, by slug."""

    def all(self) -> Sequence[Course]:
        """Every course, by slug, those that are over included."""

    def role(self, project_id: ProjectId, person_id: PersonId) -> CourseRole | None:
        """By membership first: leads are instructors, who left is nothing."""

    def people(self, project_id: ProjectId) -> Sequence[CoursePerson]:
        """Everybody with a role, instructors first, then by user name."""

    def put_person(self, project_id: ProjectId, person_id: PersonId, role: CourseRole, at: datetime) -> None:
        """Store the role that a course gives a member."""

    def invite(self, invitation: Invitation) -> None:
        """Store an invitation; earlier ones of its course and role are worth nothing any more."""

    def invitation(self, code_hash: str) -> Invitation | None: ...
    def invitations(self, project_id: ProjectId) -> Sequence[Invitation]: ...
    def count_use(self, code_hash: str) -> None: ...
    def withdraw(self, project_id: ProjectId, role: CourseRole) -> bool:
        """Take back the invitation of a role; False where there was none."""
