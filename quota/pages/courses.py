"""A course's pages: make one of a project, its page for who teaches and who takes part, its people, its end, and joining by a link.

Dates are written and shown as a clock in the course's own zone shows them. A link's code is in the answer to the form that made it and
nowhere else; opening a link asks first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from starlette.responses import Response

from quota.domain.course import Course, CourseRole, CourseTerms, from_zone, in_zone, is_slug, is_zone, shown
from quota.domain.errors import Forbidden, Invalid, WrongState
from quota.domain.ids import PersonId, ProjectId
from quota.domain.project import ProjectRole
from quota.domain.units import Unit
from quota.pages import course_work, limits
from quota.pages.figures import plain_number
from quota.pages.forms import Read, gpu_ms, tokens
from quota.pages.said import said
from quota.pages.visit import Fields, Visit
from quota.service import courses, report, teach
from quota.service.callers import Power
from quota.service.courses import CourseView
from quota.service.teach import ListTaken

ZONES: Final = (
    "UTC", "Africa/Cairo", "Africa/Nairobi", "America/Chicago", "America/Los_Angeles", "America/New_York", "America/Sao_Paulo",
    "Asia/Kolkata", "Asia/Shanghai", "Asia/Singapore", "Asia/Tokyo", "Australia/Sydney", "Europe/Berlin", "Europe/London",
    "Europe/Paris", "Europe/Zurich",
)  # fmt: skip
_SPAN: Final = timedelta(days=120)
_LOCAL: Final = "%Y-%m-%dT%H:%M"
_MAKERS: Final = frozenset({ProjectRole.PI, ProjectRole.CO_PI})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a form on the course's page led to, to be said on the page that answers it."""

    said: str | None = None
    taken: ListTaken | None = None
    left: str = ""  # lines that wait in the list's field to be corrected
    link: str = ""
    link_role: CourseRole | None = None


async def blank(visit: Visit) -> Response:
    """The form that makes a course of a project."""
    view = await report.project(visit.desk.services, visit.caller, _project_id(visit))
    known = await visit.desk.services.store.read(lambda tx: tx.courses.of_project(view.card.project.id))
    if known is not None:
        return visit.to(f"courses/{known.slug}")
    if view.card.role not in _MAKERS:
        raise Forbidden("only PI and co-PI make a course of a project")
    now = visit.desk.services.clock.now()
    slug = view.card.project.slug
    values = {
        "slug": slug if is_slug(slug) else "",
        "title": view.card.project.title,
        "zone": "UTC",
        "starts_at": now.strftime("%Y-%m-%dT00:00"),
        "ends_at": (now + _SPAN).strftime("%Y-%m-%dT00:00"),
        "gpu_hours_each": "",
        "tokens_each": "",
    }
    return visit.render("course_form.html", card=view.card, course=None, values=values, errors={}, zones=ZONES)


async def make(visit: Visit, fields: Fields) -> Response:
    """Make it; what cannot be comes back with its reason."""
    project_id = _project_id(visit)
    read = Read(fields)
    terms = _terms(read)
    slug = fields.get("slug", "").strip()
    if terms is not None:
        try:
            await teach.create(visit.desk.services, visit.caller, project_id, slug, terms)
            return visit.to(f"courses/{slug}", said="course_made")
        except Invalid as invalid:
            for name, reason in invalid.fields:
                read.blame(name, reason)
    view = await report.project(visit.desk.services, visit.caller, project_id)
    return visit.render(
        "course_form.html", 400, card=view.card, course=None, values=_given(fields), errors=read.errors, zones=ZONES
    )


async def settings(visit: Visit) -> Response:
    """The form that changes a course."""
    course = (await _taught(visit)).course
    values = {
        "slug": course.slug,
        "title": course.title,
        "zone": course.zone,
        "starts_at": in_zone(course.starts_at, course.zone).strftime(_LOCAL),
        "ends_at": in_zone(course.ends_at, course.zone).strftime(_LOCAL),
        "gpu_hours_each": "" if course.gpu_ms_each is None else plain_number(course.gpu_ms_each, Unit.GPU_MS),
        "tokens_each": "" if course.tokens_each is None else str(course.tokens_each),
    }
    return visit.render("course_form.html", card=None, course=course, values=values, errors={}, zones=ZONES)


async def change(visit: Visit, fields: Fields) -> Response:
    """Change it."""
    course = (await _taught(visit)).course
    read = Read(fields)
    terms = _terms(read)
    if terms is not None:
        try:
            await teach.change(visit.desk.services, visit.caller, course.slug, terms)
            return visit.to(f"courses/{course.slug}", said="course_changed")
        except Invalid as invalid:
            for name, reason in invalid.fields:
                read.blame(name, reason)
    values = {**_given(fields), "slug": course.slug}
    return visit.render(
        "course_form.html", 400, card=None, course=course, values=values, errors=read.errors, zones=ZONES
    )


async def show(visit: Visit) -> Response:
    """The course's page; students see themselves, who teaches sees everybody."""
    return await _page(visit, Outcome(said=said(visit.request)))


async def add_people(visit: Visit, fields: Fields) -> Response:
    """Take a list; lines to correct come back in the field, each with its reason."""
    text = fields.get("people", "")
    taken = await teach.take_list(visit.desk.services, visit.caller, _slug(visit), text)
    left = "\n".join(one.text for one in taken.wrong)
    return await _page(visit, Outcome(taken=taken, left=left), 400 if taken.wrong else 200)


async def invite(visit: Visit, fields: Fields) -> Response:
    """Make a link and show it, or take it back."""
    role = CourseRole.GRADER if fields.get("role") == CourseRole.GRADER.value else CourseRole.STUDENT
    if fields.get("do") == "withdraw":
        await teach.withdraw(visit.desk.services, visit.caller, _slug(visit), role)
        return visit.to(f"courses/{_slug(visit)}", said="link_withdrawn")
    code = await teach.invite(visit.desk.services, visit.caller, _slug(visit), role)
    settings_ = visit.desk.settings
    link = f"{settings_.public_url}services/quota/join?code={code}"
    return await _page(visit, Outcome(link=link, link_role=role))


async def confirm_end(visit: Visit) -> Response:
    """Ask before a course is ended."""
    return visit.render("end_course.html", course=(await _taught(visit)).course)


async def end(visit: Visit, _: Fields) -> Response:
    """End it."""
    await teach.retire(visit.desk.services, visit.caller, _slug(visit))
    return visit.to(f"courses/{_slug(visit)}", said="course_ended")


async def offer(visit: Visit) -> Response:
    """What a link offers; joins nothing yet."""
    code = visit.request.query_params.get("code", "")
    found = await teach.offer(visit.desk.services, visit.caller, code)
    if found.own is not None and found.role is not CourseRole.GRADER:
        return visit.to(f"courses/{found.course.slug}")
    return visit.render("join.html", offer=found, code=code, starts=_starts(found.course))


async def join(visit: Visit, fields: Fields) -> Response:
    """Join by a link."""
    found = await teach.join(visit.desk.services, visit.caller, fields.get("code", ""))
    return visit.to(f"courses/{found.course.slug}", said="joined")


async def _page(visit: Visit, outcome: Outcome, status: int = 200) -> Response:
    services = visit.desk.services
    view = await courses.view(services, visit.caller, _slug(visit))
    course, at = view.course, services.clock.now()
    invitations = await services.store.read(
        lambda tx: tx.courses.invitations(course.project_id) if view.role is CourseRole.INSTRUCTOR else ()
    )
    return visit.render(
        "course.html",
        status,
        course=course,
        view=view,
        teaches=view.role is CourseRole.INSTRUCTOR,
        phase=course.phase_at(at).value,
        starts=_starts(course),
        ends=shown(course.over_at, course.zone),
        limits=await _shares(visit, view),
        invitations=[one for one in invitations if one.expires_at > at],
        outcome=outcome,
        formgrader=not visit.desk.settings.user_domains,
        work=await course_work.rows_of(visit, view),
    )


async def _shares(visit: Visit, view: CourseView) -> limits.Shares:
    """The shares to show: everybody's for instructors, else the reader's own."""
    if view.role is None and not visit.caller.may(Power.ADMIN):
        return {}
    found = await limits.shares_of(visit, view.course.project_id)
    own: PersonId = visit.caller.id
    return found if view.role is CourseRole.INSTRUCTOR else {own: found[own]} if own in found else {}


async def _taught(visit: Visit) -> CourseView:
    """The course, for its instructors while it can be changed. Raises Unknown('course'), Forbidden, WrongState."""
    view = await courses.view(visit.desk.services, visit.caller, _slug(visit))
    if view.role is not CourseRole.INSTRUCTOR:
        raise Forbidden("only a course's instructors change it")
    if view.course.retired_at is not None:
        raise WrongState("the course was ended")
    return view


def _terms(read: Read) -> CourseTerms | None:
    """What the form asks for; None where something is wrong, noted in `read`."""
    zone = read.text("zone")
    if not is_zone(zone):
        read.blame("zone", "not_a_zone")
        return None
    dates: dict[str, datetime] = {}
    for name in ("starts_at", "ends_at"):
        at = from_zone(read.values.get(name, "").strip(), zone)
        if at is None:
            read.blame(name, "no_such_time")
        else:
            dates[name] = at
    shares = [
        read.take(name, convert, None, "not_a_number") if read.values.get(name, "").strip() else None
        for name, convert in (("gpu_hours_each", gpu_ms), ("tokens_each", tokens))
    ]
    title = " ".join(read.text("title").split())
    return None if read.errors else CourseTerms(title, dates["starts_at"], dates["ends_at"], zone, *shares)


def _given(fields: Mapping[str, str]) -> dict[str, str]:
    names = ("slug", "title", "zone", "starts_at", "ends_at", "gpu_hours_each", "tokens_each")
    return {name: fields.get(name, "") for name in names}


def _starts(course: Course) -> str:
    return shown(course.starts_at, course.zone)


def _slug(visit: Visit) -> str:
    return str(visit.request.path_params["slug"])


def _project_id(visit: Visit) -> ProjectId:
    return ProjectId(str(visit.request.path_params["project_id"]))
