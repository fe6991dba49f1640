"""Routes for people: their projects, members, applications and sessions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from quota.api import views
from quota.api.bodies import (
    LIMIT_DEFAULT,
    ApplicationBody,
    DecisionBody,
    ExtensionBody,
    Limit,
    MemberBody,
    MemberLimitsBody,
    PathHubName,
    PathId,
    SeqCursor,
    limit_of,
)
from quota.api.errors import language_for, refused_response, translate_for
from quota.api.principals import Decider, PartsDep, Reader, Writer
from quota.domain.application import Decision
from quota.domain.errors import Refused
from quota.domain.ids import ApplicationId, HoldId, ProjectId
from quota.domain.project import ProjectRole
from quota.service import extend, idle, limiting, members, report, review, sessions
from quota.service.callers import Power

router = APIRouter(tags=["people"])


@router.get("/me")
async def get_me(parts: PartsDep, caller: Reader) -> views.Json:
    """Who the caller is, and what they may."""
    cards = await report.projects(parts.services, caller)
    return {
        "person_id": caller.id,
        "hub_name": caller.person.hub_name,
        "display_name": caller.person.display_name,
        "language": caller.person.language,
        "powers": sorted(power.value for power in caller.powers),
        "roles": {card.project.id: card.role.value for card in cards if card.role is not None},
    }


@router.get("/projects")
async def get_projects(parts: PartsDep, caller: Reader) -> views.Json:
    """The caller's projects."""
    return {"projects": [views.project_row(card) for card in await report.projects(parts.services, caller)]}


@router.get("/projects/{project_id}")
async def get_project(parts: PartsDep, caller: Reader, project_id: PathId) -> views.Json:
    """One project, for those in it."""
    found = await report.project(parts.services, caller, ProjectId(project_id))
    at = parts.services.clock.now()
    return {
        "project": views.project_row(found.card),
        "role": found.card.role.value if found.card.role is not None else None,
        "balances": [views.balance(one) for one in found.card.balances],
        "allocations": [views.allocation_row(one, at) for one in found.card.allocations],
        "members": [views.member(one) for one in found.members],
    }


@router.get("/projects/{project_id}/statement")
async def get_statement(
    request: Request,
    parts: PartsDep,
    caller: Reader,
    project_id: PathId,
    after: SeqCursor = None,
    limit: Limit = LIMIT_DEFAULT,
) -> views.Json:
    """The project's statement, newest first; `after` is the `next` of the page before."""
    before = int(after) if after is not None else None
    page = await report.statement(
        parts.services,
        caller,
        ProjectId(project_id),
        before=before,
        limit=limit_of(limit),
        language=language_for(request),
    )
    lines = views.rows(page.lines, translate_for(request))
    return {"lines": lines, "next": str(page.next) if page.next is not None else None}


@router.put("/projects/{project_id}/members/{hub_name}", status_code=201)
async def put_member(
    response: Response, parts: PartsDep, caller: Writer, project_id: PathId, hub_name: PathHubName, body: MemberBody
) -> views.Json:
    """Add a person to a project or change their role."""
    change = await members.put_member(parts.services, caller, ProjectId(project_id), hub_name, ProjectRole(body.role))
    response.status_code = 201 if change.added else 200
    return {"hub_name": hub_name, "display_name": change.person.display_name, "role": change.role.value}


@router.put("/projects/{project_id}/members/{hub_name}/limits")
async def put_member_limits(
    parts: PartsDep, caller: Writer, project_id: PathId, hub_name: PathHubName, body: MemberLimitsBody
) -> views.Json:
    """Set what one member may use of the project, in all and a day; null takes a limit back."""
    caps = body.caps()
    await limiting.set_member_limits(parts.services, caller, ProjectId(project_id), hub_name, caps)
    return {
        "gpu_ms": caps.gpu_ms, "gpu_ms_a_day": caps.gpu_ms_a_day, "tokens": caps.tokens, "tokens_a_day": caps.tokens_a_day,
    }  # fmt: skip


@router.delete("/projects/{project_id}/members/{hub_name}")
async def delete_member(parts: PartsDep, caller: Writer, project_id: PathId, hub_name: PathHubName) -> views.Json:
    """Take a person out of a project; `removed` is false where they were not in it."""
    removed = await members.remove_member(parts.services, caller, ProjectId(project_id), hub_name)
    return {"removed": removed}


@router.put("/applications/{application_id}", status_code=201)
async def put_application(
    response: Response, parts: PartsDep, caller: Writer, application_id: PathId, body: ApplicationBody
) -> views.Json:
    """Submit an application under the caller's id."""
    submitted = await review.submit(parts.services, caller, ApplicationId(application_id), body.ask())
    response.status_code = 200 if submitted.replayed else 201
    return views.application(submitted.application)


@router.get("/applications")
async def get_applications(parts: PartsDep, caller: Reader) -> views.Json:
    """The caller's applications; everybody's for those who decide."""
    may_decide = caller.may(Power.DECIDE)
    found = await (review.all_applications if may_decide else review.own_applications)(parts.services, caller)
    return {"applications": [views.application(one) for one in found]}


@router.get("/applications/{application_id}")
async def get_application(parts: PartsDep, caller: Reader, application_id: PathId) -> views.Json:
    """One application."""
    return views.application(await review.application(parts.services, caller, ApplicationId(application_id)))


@router.post("/applications/{application_id}/decision")
async def post_decision(parts: PartsDep, caller: Decider, application_id: PathId, body: DecisionBody) -> views.Json:
    """Approve with amounts, or reject with a message."""
    decision = Decision(body.decision)
    request = review.DecideRequest(ApplicationId(application_id), decision, body.gpu_ms(), body.tokens, body.message)
    return views.application(await review.decide(parts.services, caller, request))


@router.get("/sessions")
async def get_sessions(parts: PartsDep, caller: Reader) -> views.Json:
    """The caller's sessions, running and last ended."""
    mine = await sessions.mine(parts.services, caller)
    known = await idle.idleness(parts.services, mine)
    return {"sessions": [views.session(one, idleness) for one, idleness in zip(mine, known, strict=True)]}


@router.post("/sessions/{hold_id}/stop", status_code=202)
async def post_stop(parts: PartsDep, caller: Writer, hold_id: PathId) -> views.Json:
    """Ask for a session to be stopped."""
    return views.session(await sessions.stop(parts.services, caller, HoldId(hold_id)))


@router.put("/sessions/{hold_id}/extensions/{extension_id}", status_code=201, response_model=None)
async def put_extension(
    request: Request, parts: PartsDep, caller: Writer, hold_id: PathId, extension_id: PathId, body: ExtensionBody
) -> views.Json | JSONResponse:
    """Move a running session's end later, under the caller's id: the same id again gets the first answer."""
    done = await extend.extend(parts.services, caller, HoldId(hold_id), extension_id, body.seconds)
    if isinstance(done, Refused):
        return refused_response(request, done)
    return {"extension_id": extension_id, "state": done.extension.state.value, "session": views.session(done.session)}
