"""Courses for the hub and the command line: which there are and who is in them, made and changed in a person's name.

The hub proves itself with its credential, as on every internal route; `actor` names the person whose rights count.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from quota.api import views
from quota.api.bodies import Body, GpuHours, HubName, Id
from quota.api.errors import translate_for
from quota.api.principals import PartsDep, hub_only
from quota.domain.course import Course, CoursePerson, CourseRole, CourseTerms, from_zone, is_zone, shown
from quota.domain.errors import Invalid
from quota.domain.ids import ProjectId
from quota.domain.messages import field_text
from quota.domain.units import AMOUNT_MAX, gpu_hours_to_ms
from quota.service import course_export, courses, teach
from quota.service.callers import Caller, person_named
from quota.service.services import Services

router = APIRouter(prefix="/internal/courses", dependencies=[Depends(hub_only)], tags=["hub"])
Slug = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
_LOCAL = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}$"


class CourseBody(Body):
    """Dates are what a clock in `zone` shows, such as 2026-09-01T09:00."""

    actor: HubName
    project_id: Id
    title: str = Field(min_length=1, max_length=200)
    starts_at: str = Field(pattern=_LOCAL)
    ends_at: str = Field(pattern=_LOCAL)
    zone: str = Field(min_length=1, max_length=60)
    gpu_hours_each: GpuHours | None = None
    tokens_each: int | None = Field(None, ge=0, le=AMOUNT_MAX)

    def terms(self) -> CourseTerms:
        """Raises Invalid for what no model can say."""
        if not is_zone(self.zone):
            raise Invalid([("zone", "not_a_zone")])
        starts_at, ends_at = from_zone(self.starts_at, self.zone), from_zone(self.ends_at, self.zone)
        wrong = [(name, "not_a_date") for name, at in (("starts_at", starts_at), ("ends_at", ends_at)) if at is None]
        share: int | None = None
        try:
            share = None if self.gpu_hours_each is None else gpu_hours_to_ms(str(self.gpu_hours_each))
        except ValueError:
            wrong.append(("gpu_hours_each", "not_a_number"))
        if wrong or starts_at is None or ends_at is None:
            raise Invalid(wrong)
        return CourseTerms(self.title, starts_at, ends_at, self.zone, share, self.tokens_each)


class ActorBody(Body):
    actor: HubName


class ListBody(ActorBody):
    people: str = Field(max_length=100_000)


class InvitationBody(ActorBody):
    role: Literal["student", "grader"] = "student"


@router.get("")
async def get_courses(parts: PartsDep) -> views.Json:
    """Every course with the hub user names of its people by role, those that are over included: what the hub's groups follow."""
    now = parts.services.clock.now()
    found = await parts.services.store.read(
        lambda tx: [(one, tx.courses.people(one.project_id)) for one in tx.courses.all()]
    )
    return {"courses": [{**course_row(one, now), "people": by_role(people)} for one, people in found]}


@router.put("/{slug}", status_code=201)
async def put_course(parts: PartsDep, slug: Slug, body: CourseBody) -> views.Json:
    """Make a project a course, by its PI or a co-PI; the same again gets the first answer."""
    caller = await _acting(parts.services, body.actor)
    made = await teach.create(parts.services, caller, ProjectId(body.project_id), slug, body.terms())
    return course_row(made, parts.services.clock.now())


@router.get("/{slug}")
async def get_course(parts: PartsDep, slug: Slug) -> views.Json:
    """One course with its people."""
    course = await courses.course_of(parts.services, slug)
    people = await courses.people_of(parts.services, course)
    rows = [
        {"hub_name": one.hub_name, "display_name": one.display_name, "role": one.role.value, "since": views.instant(one.since)}
        for one in people
    ]  # fmt: skip
    return {**course_row(course, parts.services.clock.now()), "people": rows}


@router.post("/{slug}/people")
async def post_people(request: Request, parts: PartsDep, slug: Slug, body: ListBody) -> views.Json:
    """Enrol a list; lines that cannot be taken are in `wrong` with their number and why."""
    taken = await teach.take_list(parts.services, await _acting(parts.services, body.actor), slug, body.people)
    translate = translate_for(request)
    wrong = [
        {"line": one.number, "text": one.text, "reason": one.reason, "why": field_text(one.reason, translate)}
        for one in taken.wrong
    ]
    return {"added": taken.added, "changed": taken.changed, "unchanged": taken.unchanged, "wrong": wrong}


@router.post("/{slug}/invitations", status_code=201)
async def post_invitation(parts: PartsDep, slug: Slug, body: InvitationBody) -> views.Json:
    """A link's code, in this answer and nowhere else; it replaces the one before."""
    code = await teach.invite(parts.services, await _acting(parts.services, body.actor), slug, CourseRole(body.role))
    return {"path": f"join?code={code}", "role": body.role}


@router.post("/{slug}/retire")
async def post_retire(parts: PartsDep, slug: Slug, body: ActorBody) -> views.Json:
    """End a course before its date; grades stay."""
    ended = await teach.retire(parts.services, await _acting(parts.services, body.actor), slug)
    return course_row(ended, parts.services.clock.now())


@router.get("/{slug}/export")
async def get_export(parts: PartsDep, slug: Slug, actor: Annotated[HubName, Query()]) -> StreamingResponse:
    """Tables and bundles of a course as a tar, in an instructor's name."""
    made = await course_export.archive(parts.services, await _acting(parts.services, actor), slug)
    return StreamingResponse(made.chunks(), media_type="application/x-tar", headers={"Cache-Control": "no-store"})


def course_row(one: Course, now: datetime) -> views.Json:
    return {
        "slug": one.slug,
        "project_id": one.project_id,
        "title": one.title,
        "phase": one.phase_at(now).value,
        "starts_at": views.instant(one.starts_at),
        "ends_at": views.instant(one.ends_at),
        "zone": one.zone,
        "starts_shown": shown(one.starts_at, one.zone),
        "ends_shown": shown(one.ends_at, one.zone),
        "gpu_ms_each": one.gpu_ms_each,
        "tokens_each": one.tokens_each,
        "retired_at": views.instant(one.retired_at),
    }


def by_role(people: Sequence[CoursePerson]) -> dict[str, list[str]]:
    return {role.value: [one.hub_name for one in people if one.role is role] for role in CourseRole}


async def _acting(services: Services, hub_name: str) -> Caller:
    return Caller(await person_named(services, hub_name))
