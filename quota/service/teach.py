"""What instructors do with a course: make it of a project, change it, fill it, end it early; and what students do: join.

Rules, each with a test: PI and co-PI make a course of their project; its leads change it; a student is a member of the project with the
course's share as their limits, set in the same transaction; a list is taken line by line, what cannot be is named with its number and
nothing else is lost by it; a link is known by its hash only, ends with its course, and makes nobody less than they were.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from quota.domain.course import GIVEN, Course, CoursePhase, CourseRole, CourseTerms, wrong_with
from quota.domain.errors import Forbidden, Invalid, Unknown, WrongState
from quota.domain.ids import PersonId, ProjectId
from quota.domain.limits import member_limit
from quota.domain.project import Person, ProjectRole
from quota.domain.units import AMOUNT_MAX, Unit
from quota.service.callers import Caller
from quota.service.course_ports import Invitation
from quota.service.courses import taught_by
from quota.service.ports import Transaction
from quota.service.project_roles import member_role
from quota.service.services import Services

INVITATION_LIFE: Final = timedelta(days=30)
LIST_LINES_MAX: Final = 2_000
_CODE_BYTES: Final = 24
_APPOINTERS: Final = frozenset({ProjectRole.PI, ProjectRole.CO_PI})
_SPLIT: Final = re.compile(r"[,;\t]")
_HEADS: Final = frozenset({"user", "user name", "username", "user_name", "hub_name", "name", "用户名"})


@dataclass(frozen=True, slots=True)
class WrongLine:
    """A line of a list that was not taken; `reason` is a message code."""

    number: int
    text: str
    reason: str


@dataclass(slots=True)
class ListTaken:
    """What became of a list: user names by what was done, and the lines to correct, in their order."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    wrong: list[WrongLine] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a link offers whoever opens it."""

    course: Course
    role: CourseRole
    own: CourseRole | None  # what the reader is there already


async def create(services: Services, caller: Caller, project_id: ProjectId, slug: str, terms: CourseTerms) -> Course:
    """Make a project a course. Raises Unknown('project'), Forbidden, Invalid, IdConflict for a name that is taken."""
    _check(slug, terms)
    at = services.clock.now()
    if terms.ends_at <= at:
        raise Invalid([("ends_at", "in_the_past")])

    def work(tx: Transaction) -> Course:
        if member_role(tx, caller, project_id) not in _APPOINTERS:
            raise Forbidden("only PI and co-PI make a course of a project")
        known = tx.courses.of_project(project_id)
        if known is not None and known == _course(project_id, slug, terms, known.created_at):
            return known
        course = _course(project_id, slug, terms, at)
        if known is None and tx.courses.of_slug(slug) is not None:
            raise Invalid([("slug", "slug_taken")])
        tx.courses.add(course)
        _audit(tx, caller, "course_made", course, {"slug": slug, "ends_at": terms.ends_at.isoformat()}, at)
        return course

    return await services.store.write(work)


async def change(services: Services, caller: Caller, slug: str, terms: CourseTerms) -> Course:
    """Change title, dates, zone and shares. A new share moves the limits of those students who had the old one.

    Raises Unknown('course'), Forbidden, Invalid, WrongState where somebody ended it.
    """
    _check(slug, terms)
    at = services.clock.now()

    def work(tx: Transaction) -> Course:
        course = taught_by(tx, caller, slug)
        if course.retired_at is not None:
            raise WrongState("the course was ended", slug=slug)
        tx.courses.change(course.project_id, terms)
        changed = tx.courses.of_project(course.project_id)
        assert changed is not None
        _move_shares(tx, course, changed)
        _audit(tx, caller, "course_changed", course, {"ends_at": terms.ends_at.isoformat()}, at)
        return changed

    return await services.store.write(work)


async def retire(services: Services, caller: Caller, slug: str) -> Course:
    """End a course before its date: nothing starts on it any more, links are worth nothing, grades stay. Repeating changes nothing."""
    at = services.clock.now()

    def work(tx: Transaction) -> Course:
        course = taught_by(tx, caller, slug)
        if course.phase_at(at) is not CoursePhase.OVER:
            tx.courses.retire(course.project_id, at)
            for role in GIVEN:
                tx.courses.withdraw(course.project_id, role)
            _audit(tx, caller, "course_ended", course, None, at)
        found = tx.courses.of_project(course.project_id)
        assert found is not None
        return found

    return await services.store.write(work)


async def take_list(services: Services, caller: Caller, slug: str, text: str) -> ListTaken:
    """Enrol the people of a pasted or CSV list: a user name a line, then optionally `student` or `grader`.

    Lines that cannot be taken are named in the answer and change nothing. Raises Unknown('course'), Forbidden, WrongState for a
    course that is over, Invalid for a list that is too long.
    """
    lines = text.splitlines()
    if len(lines) > LIST_LINES_MAX:
        raise Invalid([("people", "list_too_long")])
    at = services.clock.now()

    def work(tx: Transaction) -> ListTaken:
        course = _open(taught_by(tx, caller, slug), at)
        taken, seen = ListTaken(), set[str]()
        for number, line in enumerate(lines, start=1):
            cells = [cell.strip().strip('"') for cell in _SPLIT.split(line.lstrip("\ufeff"))]
            name = cells[0].lower()
            if not name or name.startswith("#") or (not seen and not taken.wrong and name in _HEADS):
                continue
            reason = _take(tx, course, cells, seen, taken, at)
            if reason:
                taken.wrong.append(WrongLine(number, line.strip()[:200], reason))
            seen.add(name)
        if taken.added or taken.changed:
            _audit(tx, caller, "course_list", course, {"added": len(taken.added), "changed": len(taken.changed)}, at)
        return taken

    return await services.store.write(work)


def _take(tx: Transaction, course: Course, cells: Sequence[str], seen: set[str], taken: ListTaken, at: datetime) -> str:
    """Enrol one line's person, or say why not."""
    name, asked = cells[0].lower(), (cells[1].lower() if len(cells) > 1 else "") or CourseRole.STUDENT.value
    role = next((one for one in GIVEN if one.value == asked), None)
    if name in seen:
        return "listed_twice"
    person = tx.people.by_hub_name(name)
    if person is None:
        return "nobody"
    if role is None:
        return "no_course_role"
    own = tx.courses.role(course.project_id, person.id)
    if own is CourseRole.INSTRUCTOR:
        return "is_instructor"
    list_of = taken.unchanged if own is role else taken.added if own is None else taken.changed
    if own is not role:
        enrol(tx, course, person.id, role, at)
    list_of.append(person.hub_name)
    return ""


def enrol(tx: Transaction, course: Course, person_id: PersonId, role: CourseRole, at: datetime) -> None:
    """Make somebody who is no lead a member with a role; a student gets the course's share as their limits."""
    tx.projects.put_member(course.project_id, person_id, ProjectRole.MEMBER, at)
    tx.courses.put_person(course.project_id, person_id, role, at)
    for unit, share in _shares(course):
        if role is CourseRole.STUDENT and share is not None:
            tx.limits.put(member_limit(course.project_id, person_id, unit, share))


async def invite(services: Services, caller: Caller, slug: str, role: CourseRole) -> str:
    """A code that makes whoever uses it a student or grader; replaces the one before it. Raises Unknown('course'), Forbidden, WrongState."""
    if role not in GIVEN:
        raise Invalid([("role", "no_course_role")])
    code, at = secrets.token_urlsafe(_CODE_BYTES), services.clock.now()

    def work(tx: Transaction) -> None:
        course = _open(taught_by(tx, caller, slug), at)
        ends_at = min(at + INVITATION_LIFE, course.ends_at)
        tx.courses.invite(Invitation(_print(code), course.project_id, role, caller.id, at, ends_at))
        _audit(tx, caller, "course_invitation", course, {"role": role.value}, at)

    await services.store.write(work)
    return code


async def withdraw(services: Services, caller: Caller, slug: str, role: CourseRole) -> bool:
    """Take the link of a role back; False where there was none."""
    at = services.clock.now()

    def work(tx: Transaction) -> bool:
        course = taught_by(tx, caller, slug)
        found = tx.courses.withdraw(course.project_id, role)
        if found:
            _audit(tx, caller, "course_invitation_withdrawn", course, {"role": role.value}, at)
        return found

    return await services.store.write(work)


async def offer(services: Services, caller: Caller, code: str) -> Offer:
    """What a code offers; reading it joins nothing. Raises Unknown('invitation')."""
    at = services.clock.now()
    return await services.store.read(lambda tx: _offered(tx, caller.person, code, at))


async def join(services: Services, caller: Caller, code: str) -> Offer:
    """Use a code: the caller is in the course afterwards, and what they were there already if that was more. Raises Unknown('invitation')."""
    at = services.clock.now()

    def work(tx: Transaction) -> Offer:
        found = _offered(tx, caller.person, code, at)
        if found.own is None or (found.own is CourseRole.STUDENT and found.role is CourseRole.GRADER):
            enrol(tx, found.course, caller.id, found.role, at)
            tx.courses.count_use(_print(code))
            _audit(tx, caller, "course_joined", found.course, {"role": found.role.value}, at)
            return found
        return Offer(found.course, found.own, found.own)

    return await services.store.write(work)


def _offered(tx: Transaction, person: Person, code: str, at: datetime) -> Offer:
    invitation = tx.courses.invitation(_print(code))
    if invitation is None or at >= invitation.expires_at:
        raise Unknown("invitation")
    course = tx.courses.of_project(invitation.project_id)
    if course is None or course.phase_at(at) is CoursePhase.OVER:
        raise Unknown("invitation")
    return Offer(course, invitation.role, tx.courses.role(course.project_id, person.id))


def _move_shares(tx: Transaction, before: Course, after: Course) -> None:
    """Students who had the old share, or none, get the new one; what an instructor set for one person stays."""
    for (unit, old), (_, new) in zip(_shares(before), _shares(after), strict=True):
        if old == new:
            continue
        for one in tx.courses.people(before.project_id):
            limit = member_limit(before.project_id, one.person_id, unit, AMOUNT_MAX if new is None else new)
            known = tx.limits.get(limit.id)
            cap = None if known is None or known.cap >= AMOUNT_MAX else known.cap
            if one.role is CourseRole.STUDENT and cap == old:
                tx.limits.put(limit)


def _shares(course: Course) -> tuple[tuple[Unit, int | None], tuple[Unit, int | None]]:
    return (Unit.GPU_MS, course.gpu_ms_each), (Unit.TOKENS, course.tokens_each)


def _course(project_id: ProjectId, slug: str, terms: CourseTerms, at: datetime) -> Course:
    return Course(
        project_id, slug, terms.title.strip(), terms.starts_at, terms.ends_at, terms.zone, terms.gpu_ms_each,
        terms.tokens_each, at,
    )  # fmt: skip


def _open(course: Course, at: datetime) -> Course:
    if course.phase_at(at) is CoursePhase.OVER:
        raise WrongState("the course is over", slug=course.slug)
    return course


def _check(slug: str, terms: CourseTerms) -> None:
    wrong = wrong_with(slug, terms)
    if wrong:
        raise Invalid(list(wrong))


def _audit(
    tx: Transaction, caller: Caller, action: str, course: Course, after: dict[str, object] | None, at: datetime
) -> None:
    tx.audit(actor=caller.id, action=action, subject=course.project_id, before=None, after=after, reason=None, at=at)


def _print(code: str) -> str:
    return sha256(f"course-invitation:{code}".encode()).hexdigest()
