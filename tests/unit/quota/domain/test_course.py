"""Courses: names that are names everywhere, dates in a zone, roles that follow from the membership."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from quota.domain.course import (
    Course,
    CoursePhase,
    CourseRole,
    CourseTerms,
    course_role,
    from_zone,
    in_zone,
    is_slug,
    is_zone,
    wrong_with,
)
from quota.domain.ids import ProjectId
from quota.domain.project import ProjectRole

START = datetime(2026, 9, 1, 7, tzinfo=UTC)
COURSE = Course(
    ProjectId("project-1"), "ml-101", "Machine learning", START, START + timedelta(days=90), "Europe/Berlin", None, None, START
)  # fmt: skip
TERMS = CourseTerms("Machine learning", START, START + timedelta(days=90), "Europe/Berlin")


@pytest.mark.parametrize("slug", ["ml", "ml-101", "a1-b2-c3", "x" * 40])
def test_a_course_name_is_a_name_everywhere(slug: str) -> None:
    assert is_slug(slug)


@pytest.mark.parametrize(
    "slug",
    ["", "a", "1ml", "Ml", "ml_101", "-ml", "ml-", "ml--1", "ml 1", "ml/1", "../ml", "ml.", "mł", "ml\n", "x" * 41, "quota"],
)  # fmt: skip
def test_what_is_no_name_somewhere_is_none(slug: str) -> None:
    assert not is_slug(slug)


def test_a_course_runs_from_its_start_until_its_end_and_not_at_it() -> None:
    moments = (START - timedelta(microseconds=1), START, COURSE.ends_at - timedelta(microseconds=1), COURSE.ends_at)
    phases = [COURSE.phase_at(at) for at in moments]
    assert phases == [CoursePhase.SCHEDULED, CoursePhase.RUNNING, CoursePhase.RUNNING, CoursePhase.OVER]


def test_a_retired_course_is_over_whatever_its_dates_say() -> None:
    retired = replace(COURSE, retired_at=START + timedelta(days=1))
    assert retired.phase_at(START) is CoursePhase.OVER
    assert retired.over_at == START + timedelta(days=1)


def test_leads_are_instructors_and_others_what_they_were_given() -> None:
    assert course_role(ProjectRole.PI, None) is CourseRole.INSTRUCTOR
    assert course_role(ProjectRole.MANAGER, CourseRole.STUDENT) is CourseRole.INSTRUCTOR
    assert course_role(ProjectRole.MEMBER, CourseRole.STUDENT) is CourseRole.STUDENT
    assert course_role(ProjectRole.MEMBER, None) is None


def test_who_left_the_project_is_nothing_in_its_course() -> None:
    assert course_role(None, CourseRole.GRADER) is None


def test_a_zone_has_a_place() -> None:
    assert is_zone("Asia/Shanghai")
    assert is_zone("UTC")
    assert not any(is_zone(name) for name in ("EST", "Mars/Base", "", "../etc/passwd", "Europe/"))


def test_a_date_is_read_and_shown_in_the_course_zone() -> None:
    at = from_zone("2026-09-01T09:00", "Europe/Berlin")
    assert at == START
    assert in_zone(START, "Asia/Shanghai").strftime("%H:%M") == "15:00"


def test_an_hour_that_the_clocks_skip_is_no_instant_and_a_doubled_one_is_the_first() -> None:
    assert from_zone("2026-03-29T02:30", "Europe/Berlin") is None
    assert from_zone("2026-10-25 02:30", "Europe/Berlin") == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "2026-09-01", "20260901T0900", "2026-09-31T09:00", "2026-09-01T09:00Z", "٢026-09-01T09:00"]
)
def test_another_form_is_no_date(text: str) -> None:
    assert from_zone(text, "Europe/Berlin") is None


def test_every_wrong_field_is_named() -> None:
    wrong = CourseTerms("x", START, START, "EST", -1, -1)
    assert [name for name, _ in wrong_with("Ml", wrong)] == [
        "slug", "title", "zone", "ends_at", "gpu_hours_each", "tokens_each"
    ]  # fmt: skip
    assert wrong_with("ml", TERMS) == []
