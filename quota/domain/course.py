"""Courses: a project that teaches, with two dates in a named zone, a share for each student, and who is what in it.

Invariants: a slug is one word for the project, for nbgrader (`course_id`), for hub groups, for a hub service and for a folder, so it is
a name in all five; starts_at < ends_at, both aware; a lead of the project is an instructor, everybody else has the role that the
course gave them. Source: nbgrader 0.9.6, "Multiple classes" (groups `formgrade-COURSE`, `nbgrader-COURSE`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from quota.domain.errors import RefusalCode, Refused
from quota.domain.ids import PersonId, ProjectId
from quota.domain.project import LEADS, ProjectRole
from quota.domain.units import AMOUNT_MAX

SLUG_LONGEST: Final = 40
_LOCAL: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}\Z", re.ASCII)
_SLUG: Final = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*\Z")
# What the hub calls its own services and routes: a course's formgrader lies at /services/<slug>.
_TAKEN: Final = frozenset({"quota", "launcher", "gateway", "idle-culler", "exchange", "formgrader", "hub", "user"})


class CourseRole(StrEnum):
    INSTRUCTOR = "instructor"  # the project's leads; never stored
    GRADER = "grader"
    STUDENT = "student"


STAFF: Final = frozenset({CourseRole.INSTRUCTOR, CourseRole.GRADER})
"""Who grades, and may prepare before the course starts."""
GIVEN: Final = frozenset({CourseRole.GRADER, CourseRole.STUDENT})
"""Roles that a course gives to members; leads are instructors by their role in the project."""


class CoursePhase(StrEnum):
    SCHEDULED = "scheduled"
    RUNNING = "running"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Course:
    """A project's course attributes. `gpu_ms_each` and `tokens_each` are every student's share; None: no limit of their own."""

    project_id: ProjectId
    slug: str
    title: str
    starts_at: datetime
    ends_at: datetime  # half-open: over at this instant
    zone: str  # IANA name, the zone that dates and deadlines are shown in
    gpu_ms_each: int | None
    tokens_each: int | None
    created_at: datetime
    retired_at: datetime | None = None  # since when somebody ended it early; its dates count otherwise

    def phase_at(self, at: datetime) -> CoursePhase:
        """What follows from the dates and from an early end."""
        if self.retired_at is not None or at >= self.ends_at:
            return CoursePhase.OVER
        return CoursePhase.SCHEDULED if at < self.starts_at else CoursePhase.RUNNING

    @property
    def over_at(self) -> datetime:
        """When it was or will be over."""
        return self.ends_at if self.retired_at is None else min(self.retired_at, self.ends_at)


@dataclass(frozen=True, slots=True)
class CoursePerson:
    """Somebody in a course."""

    person_id: PersonId
    hub_name: str
    display_name: str
    role: CourseRole
    since: datetime


@dataclass(frozen=True, slots=True)
class CourseTerms:
    """What a person asks for when a course is made or changed."""

    title: str
    starts_at: datetime
    ends_at: datetime
    zone: str
    gpu_ms_each: int | None = None
    tokens_each: int | None = None


def course_role(project_role: ProjectRole | None, given: CourseRole | None) -> CourseRole | None:
    """Who is what: nobody outside the project is anything, leads are instructors, others what they were given."""
    if project_role is None:
        return None
    return CourseRole.INSTRUCTOR if project_role in LEADS else given


def refusal_of(
    course: Course, role: CourseRole | None, at: datetime, grace: timedelta = timedelta(0)
) -> Refused | None:
    """Why nothing may start on a course at `at`: it is over (longer than `grace` ago), or has not begun and this is no teacher."""
    phase = course.phase_at(at)
    if phase is CoursePhase.OVER and at >= course.over_at + grace:
        return Refused(RefusalCode.COURSE_OVER, {"course": course.title, "when": shown(course.over_at, course.zone)})
    if phase is CoursePhase.SCHEDULED and role not in STAFF:
        return Refused(
            RefusalCode.COURSE_NOT_STARTED, {"course": course.title, "when": shown(course.starts_at, course.zone)}
        )
    return None


def is_slug(text: str) -> bool:
    """Whether `text` may name a course: 2 to 40 of a-z, 0-9 and single hyphens, beginning with a letter, and no word of the hub's."""
    return 2 <= len(text) <= SLUG_LONGEST and _SLUG.match(text) is not None and text not in _TAKEN


def is_zone(name: str) -> bool:
    """Whether `name` is a zone of the IANA database with a place or `UTC`; abbreviations such as EST are no zones here."""
    return name == "UTC" or ("/" in name and name in available_timezones())


def in_zone(at: datetime, zone: str) -> datetime:
    """An instant as a clock in `zone` shows it."""
    return at.astimezone(ZoneInfo(zone))


def shown(at: datetime, zone: str) -> str:
    """An instant as people of the course read it: '2026-09-01 09:00 (Europe/Berlin)'."""
    return f"{in_zone(at, zone):%Y-%m-%d %H:%M} ({zone})"


def from_zone(text: str, zone: str) -> datetime | None:
    """The instant at which a clock in `zone` shows `text`, such as 2026-09-01T09:00 (the earlier of two).

    None for a text of another form, and where no clock ever shows it (a skipped hour).
    """
    if _LOCAL.match(text) is None:
        return None
    try:
        at = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if in_zone(at, zone).isoformat().startswith(text.replace(" ", "T")) else None


def wrong_with(slug: str, terms: CourseTerms) -> Sequence[tuple[str, str]]:
    """Which fields cannot be used, and why, as message codes; empty where all can."""
    wrong: list[tuple[str, str]] = []
    if not is_slug(slug):
        wrong.append(("slug", "course_slug"))
    if not 3 <= len(terms.title.strip()) <= 200:
        wrong.append(("title", "length_3_200"))
    if not is_zone(terms.zone):
        wrong.append(("zone", "not_a_zone"))
    if terms.ends_at <= terms.starts_at:
        wrong.append(("ends_at", "ends_before_start"))
    for name, share in (("gpu_hours_each", terms.gpu_ms_each), ("tokens_each", terms.tokens_each)):
        if share is not None and not 0 <= share <= AMOUNT_MAX:
            wrong.append((name, "out_of_range"))
    return wrong


def group_names(slug: str) -> tuple[str, str]:
    """The hub groups of a course: who grades, and who takes part."""
    return f"formgrade-{slug}", f"nbgrader-{slug}"
