"""What moves between those who teach and those who learn: releases, submissions with their receipts, feedback, grades.

Invariants: a submission is never changed and never removed, its row is its receipt; whether it is late follows from the server's
clock and the due date that stood when it arrived; a grade counts in thousandths of a point, so that sums are exact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from quota.domain.ids import PersonId, ProjectId

MIB: Final = 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,63}\Z")
NAME_PATTERN: Final = r"^[A-Za-z0-9](?:[A-Za-z0-9_.-]){0,63}$"
SHA256: Final = r"^[0-9a-f]{64}$"
POINTS_MILLI_MAX: Final = 10**9


class UploadKind(StrEnum):
    RELEASE = "release"
    SUBMISSION = "submission"
    FEEDBACK = "feedback"


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    """The numbers of portal.toml's `[exchange]`."""

    release_bytes: int = 200 * MIB
    submission_bytes: int = 100 * MIB
    feedback_bytes: int = 50 * MIB
    uploads_open: int = 20  # of one person at a time
    upload_s: int = 86_400  # how long an upload may take before it is forgotten

    def of(self, kind: UploadKind) -> int:
        """The most bytes of one bundle."""
        return {
            UploadKind.RELEASE: self.release_bytes,
            UploadKind.SUBMISSION: self.submission_bytes,
            UploadKind.FEEDBACK: self.feedback_bytes,
        }[kind]


@dataclass(frozen=True, slots=True)
class Stored:
    """A bundle that is safe on disk."""

    sha256: str
    size_bytes: int
    notebooks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dates:
    """When an assignment is due (later is late) and when it closes (later is refused); None: the course's end."""

    due_at: datetime | None = None
    closes_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """What students may fetch now: the newest release under this name."""

    project_id: ProjectId
    name: str
    release_id: str
    bundle: Stored
    released_at: datetime
    dates: Dates


@dataclass(frozen=True, slots=True)
class Release:
    """One of all the releases that there were under a name, counted from 1; dates and withdrawal are the name's, and of its newest one."""

    name: str
    number: int
    bundle: Stored
    released_at: datetime
    dates: Dates = Dates()
    withdrawn_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """What arrived, from whom, when: the receipt. `number` counts a person's submissions of one assignment from 1."""

    id: str
    project_id: ProjectId
    assignment: str
    person_id: PersonId
    hub_name: str
    number: int
    bundle: Stored
    received_at: datetime
    due_at: datetime | None
    feedback: Stored | None = None

    @property
    def late(self) -> bool:
        return self.due_at is not None and self.received_at > self.due_at


@dataclass(frozen=True, slots=True)
class UploadOrder:
    """What somebody is about to send; the same id with another order is a conflict."""

    id: str
    course: str
    kind: UploadKind
    assignment: str
    size_bytes: int
    sha256: str
    dates: Dates = Dates()
    submission_id: str = ""  # what feedback is about


@dataclass(frozen=True, slots=True)
class Grade:
    """What one person has for one assignment."""

    person_id: PersonId
    hub_name: str
    assignment: str
    score_milli: int
    max_milli: int
    late_penalty_milli: int
    graded_at: datetime


@dataclass(frozen=True, slots=True)
class GradeLine:
    """A grade as somebody who grades sends it."""

    student: str
    score_milli: int
    max_milli: int
    late_penalty_milli: int = 0


def is_name(text: str) -> bool:
    """Whether `text` may name an assignment: a folder's name on every system, without nbgrader's own separator `+`."""
    return _NAME.match(text) is not None and not text.endswith(".")


def wrong_dates(dates: Dates) -> Sequence[tuple[str, str]]:
    """Which dates cannot be, as fields of an error."""
    if dates.due_at is not None and dates.closes_at is not None and dates.closes_at < dates.due_at:
        return [("closes_at", "ends_before_start")]
    return []
