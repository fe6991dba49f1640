"""What is out, what came in, what came of it: reading and dating in a course's exchange. `quota.service.uploads` takes bytes in.

Invariants: the caller's role in this course decides, and nothing that a client says about who it is; who is nothing in a course does not
learn that it exists, and another student's submission looks like one that is not there; everything stays readable after the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from quota.domain.course import STAFF, Course, CoursePhase, CourseRole
from quota.domain.errors import Forbidden, Invalid, Unavailable, Unknown
from quota.domain.exchange import Assignment, Dates, Grade, GradeLine, Stored, Submission, wrong_dates
from quota.domain.ids import PersonId
from quota.service.callers import Caller
from quota.service.exchange_ports import Objects
from quota.service.ports import Transaction
from quota.service.services import Services


@dataclass(frozen=True, slots=True)
class Seat:
    """A course and what the caller is in it."""

    course: Course
    role: CourseRole

    @property
    def is_staff(self) -> bool:
        return self.role in STAFF


async def courses(services: Services, caller: Caller) -> Sequence[Seat]:
    """The courses in which the caller is something."""
    found = await services.store.read(lambda tx: tx.courses.of_person(caller.id))
    return [Seat(course, role) for course, role in found]


async def assignments(services: Services, caller: Caller, slug: str) -> tuple[Seat, Sequence[Assignment]]:
    """What is released in a course; students see it once the course runs. Raises Unknown('course')."""

    def work(tx: Transaction) -> tuple[Seat, Sequence[Assignment]]:
        seat = seat_of(tx, caller, slug)
        return seat, tx.exchange.assignments(seat.course.project_id) if _open(seat, services) else []

    return await services.store.read(work)


async def assignment_bundle(services: Services, caller: Caller, slug: str, name: str) -> Stored:
    """The bytes of what is released. Raises Unknown('course'), Unknown('assignment')."""

    def work(tx: Transaction) -> Stored:
        seat = seat_of(tx, caller, slug)
        found = tx.exchange.assignment(seat.course.project_id, name) if _open(seat, services) else None
        if found is None:
            raise Unknown("assignment")
        return found.bundle

    return await services.store.read(work)


async def set_dates(services: Services, caller: Caller, slug: str, name: str, dates: Dates) -> Assignment:
    """Say when an assignment is due and when it closes; submissions keep what stood when they arrived."""
    if wrong := wrong_dates(dates):
        raise Invalid(list(wrong))

    def work(tx: Transaction) -> Assignment:
        seat = staff_of(tx, caller, slug)
        found = tx.exchange.assignment(seat.course.project_id, name)
        if found is None:
            raise Unknown("assignment")
        tx.exchange.set_dates(seat.course.project_id, name, dates)
        return replace(found, dates=dates)

    return await services.store.write(work)


async def withdraw(services: Services, caller: Caller, slug: str, name: str) -> None:
    """Take an assignment back; what was submitted stays."""

    def work(tx: Transaction) -> None:
        seat = staff_of(tx, caller, slug)
        if not tx.exchange.withdraw(seat.course.project_id, name, services.clock.now()):
            raise Unknown("assignment")

    await services.store.write(work)


async def submissions(
    services: Services, caller: Caller, slug: str, assignment: str | None, *, newest_only: bool
) -> Sequence[Submission]:
    """Everybody's for those who grade, one's own for students."""

    def work(tx: Transaction) -> Sequence[Submission]:
        seat = seat_of(tx, caller, slug)
        whose = None if seat.is_staff else caller.id
        return tx.exchange.submissions(
            seat.course.project_id, assignment=assignment, person_id=whose, newest_only=newest_only
        )

    return await services.store.read(work)


async def names(services: Services, caller: Caller, slug: str) -> Mapping[str, str]:
    """What the people of a course are called, by user name, for those who grade; empty for students."""

    def work(tx: Transaction) -> Mapping[str, str]:
        seat = seat_of(tx, caller, slug)
        people = tx.courses.people(seat.course.project_id) if seat.is_staff else ()
        return {one.hub_name: one.display_name for one in people}

    return await services.store.read(work)


async def submission(services: Services, caller: Caller, slug: str, submission_id: str) -> Submission:
    """One's own, or any for those who grade in its course. Raises Unknown('course'), Unknown('submission')."""
    return await services.store.read(lambda tx: submission_in(tx, caller, slug, submission_id))


async def feedback(services: Services, caller: Caller, slug: str, submission_id: str) -> Stored:
    """The newest feedback of a submission. Raises Unknown('feedback')."""
    found = await submission(services, caller, slug, submission_id)
    if found.feedback is None:
        raise Unknown("feedback")
    return found.feedback


async def put_grades(services: Services, caller: Caller, slug: str, name: str, lines: Sequence[GradeLine]) -> int:
    """Replace what the named students have for an assignment, by those who grade; how many.

    Raises Invalid for somebody who is not in the course and never submitted there.
    """
    at = services.clock.now()

    def work(tx: Transaction) -> int:
        seat = staff_of(tx, caller, slug)
        project_id = seat.course.project_id
        known: dict[str, PersonId] = {one.hub_name: one.person_id for one in tx.courses.people(project_id)}
        sent = tx.exchange.submissions(project_id, assignment=name, person_id=None, newest_only=True)
        known |= {one.hub_name: one.person_id for one in sent}
        strangers = [number for number, line in enumerate(lines) if line.student not in known]
        if strangers:
            raise Invalid([(f"grades.{strangers[0]}.student", "not_in_the_course")])
        grades = [_grade(line, known[line.student], name, at) for line in lines]
        tx.exchange.put_grades(project_id, grades, caller.id)
        return len(grades)

    return await services.store.write(work)


async def grades(services: Services, caller: Caller, slug: str) -> tuple[Seat, Sequence[Grade]]:
    """Everybody's for those who grade, one's own for students."""

    def work(tx: Transaction) -> tuple[Seat, Sequence[Grade]]:
        seat = seat_of(tx, caller, slug)
        return seat, tx.exchange.grades(seat.course.project_id, None if seat.is_staff else caller.id)

    return await services.store.read(work)


def seat_of(tx: Transaction, caller: Caller, slug: str) -> Seat:
    """Raises Unknown('course') for who is nothing in it, as for a course that is none."""
    course = tx.courses.of_slug(slug)
    role = None if course is None else tx.courses.role(course.project_id, caller.id)
    if course is None or role is None:
        raise Unknown("course")
    return Seat(course, role)


def staff_of(tx: Transaction, caller: Caller, slug: str) -> Seat:
    """Raises Forbidden for students."""
    seat = seat_of(tx, caller, slug)
    if not seat.is_staff:
        raise Forbidden("only instructors and graders")
    return seat


def submission_in(tx: Transaction, caller: Caller, slug: str, submission_id: str) -> Submission:
    """A submission of this course that the caller may see. Raises Unknown."""
    seat = seat_of(tx, caller, slug)
    found = tx.exchange.submission(submission_id)
    if found is None or found.project_id != seat.course.project_id:
        raise Unknown("submission")
    if not seat.is_staff and found.person_id != caller.id:
        raise Unknown("submission")
    return found


def objects_of(services: Services) -> Objects:
    """Raises Unavailable in a process that keeps no bundles."""
    if services.objects is None:
        raise Unavailable("this process keeps no bundles")
    return services.objects


def _open(seat: Seat, services: Services) -> bool:
    return seat.is_staff or seat.course.phase_at(services.clock.now()) is not CoursePhase.SCHEDULED


def _grade(line: GradeLine, person_id: PersonId, name: str, at: datetime) -> Grade:
    return Grade(person_id, line.student, name, line.score_milli, line.max_milli, line.late_penalty_milli, at)
