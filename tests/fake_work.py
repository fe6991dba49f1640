"""A course's work in memory, as far as pages read it: what is released, what came in, grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quota.domain.exchange import Assignment, Grade, Release, Submission
from quota.domain.ids import PersonId, ProjectId


@dataclass
class FakeWork:
    released: list[Assignment] = field(default_factory=list)
    received: list[Submission] = field(default_factory=list)
    given: list[Grade] = field(default_factory=list)

    def assignments(self, project_id: ProjectId) -> Sequence[Assignment]:
        return [one for one in self.released if one.project_id == project_id]

    def releases(self, project_id: ProjectId) -> Sequence[Release]:
        return [Release(one.name, 1, one.bundle, one.released_at, one.dates) for one in self.assignments(project_id)]

    def submissions(
        self, project_id: ProjectId, *, assignment: str | None, person_id: PersonId | None, newest_only: bool
    ) -> Sequence[Submission]:
        theirs = [one for one in self.received if one.project_id == project_id and person_id in (None, one.person_id)]
        return [one for one in theirs if assignment in (None, one.assignment)]

    def submission(self, submission_id: str) -> Submission | None:
        return next((one for one in self.received if one.id == submission_id), None)

    def grades(self, project_id: ProjectId, person_id: PersonId | None) -> Sequence[Grade]:
        return [one for one in self.given if person_id in (None, one.person_id)]
