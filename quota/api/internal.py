"""Routes for the hub: people, payers, quotes, holds, hints, reconcile, and the relay of the Quotas tab.

The hub proves itself with its credential and names people by hub user name; the use cases decide.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse

from quota.api import views
from quota.api.bodies import (
    LIMIT_DEFAULT,
    AdjustmentBody,
    EndedBody,
    EpochBody,
    Limit,
    PathHubName,
    PathId,
    PersonBody,
    QuoteBody,
    RefundBody,
    ReversalBody,
    SearchText,
    SessionHoldBody,
    SlugCursor,
    VouchedBody,
    limit_of,
)
from quota.api.errors import language_for, refusal_body, refused_response, translate_for
from quota.api.principals import FenceDep, PartsDep, acting_admin, acting_person, hub_only
from quota.domain.errors import Refused
from quota.domain.ids import AdjustmentId, AllocationId, HoldId, ProjectId, RefundId
from quota.locales import DEFAULT, preferred
from quota.service import identities, report
from quota.service.adjust import AdjustRequest, adjust
from quota.service.admit import SessionHoldRequest, place_session_hold
from quota.service.correct import RefundRequest, ReversalRequest, refund, reverse
from quota.service.hub_epoch import check_epoch, take_epoch
from quota.service.ports import Adjusted
from quota.service.quote import QuoteRequest, quote_session
from quota.service.reconcile import reconcile

router = APIRouter(prefix="/internal", dependencies=[Depends(hub_only)], tags=["hub"])
Actor = Annotated[str, Header(alias="X-Commons-Actor", pattern=r"^[^\s/\x00-\x1f\x7f]{1,255}$")]
_HISTORY = 100


@router.post("/hub-epoch")
async def post_epoch(parts: PartsDep, body: EpochBody) -> views.Json:
    """Take the hub's next epoch: whoever took one before is not listened to any more."""
    return {"epoch": await take_epoch(parts.services, body.holder)}


@router.get("/hub-epoch")
async def get_epoch(parts: PartsDep, fence: FenceDep) -> views.Json:
    """Whether the epoch that is shown is in force; 409 `stale_epoch` where it is not."""
    return {"epoch": await check_epoch(parts.services, fence)}


@router.put("/people/{hub_name}")
async def put_person(parts: PartsDep, hub_name: PathHubName, body: PersonBody) -> views.Json:
    """Register a person under a hub user name; the same (issuer, subject) keeps its person."""
    services = parts.services
    at = services.clock.now()
    language = _language(body)
    person = await services.store.write(
        lambda tx: tx.people.register(
            issuer=body.issuer,
            subject=body.subject,
            hub_name=hub_name,
            display_name=body.display_name,
            email=body.email,
            language=language,
            at=at,
        )
    )
    return views.person(person)


@router.post("/people")
async def post_person(parts: PartsDep, body: VouchedBody) -> views.Json:
    """Recognise (issuer, subject): the person and their hub user name, given at first sight."""
    vouched = identities.Vouched(
        issuer=body.issuer,
        subject=body.subject,
        preferred=body.preferred,
        display_name=body.display_name,
        email=body.email,
        language=_language(body),
    )
    return views.person(await identities.recognise(parts.services, vouched))


@router.post("/people/{hub_name}/gone", status_code=202)
async def post_gone(parts: PartsDep, hub_name: PathHubName) -> views.Json:
    """The sign-in provider does not vouch for this user any more."""
    return views.person(await identities.gone(parts.services, hub_name))


@router.get("/people/{hub_name}/payers")
async def get_payers(request: Request, parts: PartsDep, hub_name: PathHubName) -> views.Json:
    """The projects that could pay for a start of this person."""
    translate = translate_for(request)
    found = await report.payers(parts.services, hub_name)
    return {"payers": [views.payer(view, refusal_body(view.refusal, translate)) for view in found]}


@router.post("/quotes")
async def post_quote(request: Request, parts: PartsDep, body: QuoteBody) -> views.Json:
    """What a start would cost and whether it may, without a hold."""
    translate = translate_for(request)
    actor = await acting_person(parts.services, body.actor)
    quoted = await quote_session(
        parts.services, QuoteRequest(actor, ProjectId(body.project_id), body.profile, body.runtime_s)
    )
    return {"quote": views.quote(quoted, translate), "refusal": refusal_body(quoted.refusal, translate)}


@router.put("/holds/{hold_id}", status_code=201, response_model=None)
async def put_hold(
    request: Request, response: Response, parts: PartsDep, fence: FenceDep, hold_id: PathId, body: SessionHoldBody
) -> views.Json | JSONResponse:
    """Place a session's hold under the caller's id; a replay gets the first answer."""
    order = SessionHoldRequest(
        hold_id=HoldId(hold_id),
        actor=body.actor,
        project_id=ProjectId(body.project_id),
        profile=body.profile,
        application=body.application,
        runtime_s=body.runtime_s,
        server_name=body.server_name,
    )
    placed = await place_session_hold(parts.services, order, fence)
    if isinstance(placed, Refused):
        return refused_response(request, placed)
    response.status_code = 200 if placed.replayed else 201
    return views.session_hold(placed, translate_for(request))


@router.post("/holds/{hold_id}/ended", status_code=202)
async def post_ended(parts: PartsDep, fence: FenceDep, hold_id: PathId, body: EndedBody) -> views.Json:
    """Take a hint that a session ended or never started; evidence decides."""
    await check_epoch(parts.services, fence)
    state = await parts.meter.ended(HoldId(hold_id), body.reason)
    return {"state": state.value}


@router.post("/reconcile")
async def post_reconcile(parts: PartsDep) -> views.Json:
    """One pass of hub and evidence against the open holds, now."""
    done = await reconcile(parts.services, parts.meter)
    return {
        "open_session_holds": done.open_session_holds,
        "settled": done.settled,
        "released": done.released,
        "unknown": done.unknown,
    }


@router.get("/admin/projects")
async def get_projects(
    parts: PartsDep,
    actor: Actor,
    search: SearchText = "",
    after: SlugCursor = None,
    limit: Limit = LIMIT_DEFAULT,
) -> views.Json:
    """Projects by title, slug or PI."""
    admin = await acting_admin(parts.services, actor)
    page = await report.search(parts.services, admin, search, after=after, limit=limit_of(limit))
    return {"projects": [views.project_row(card) for card in page.cards], "next": page.next}


@router.get("/admin/projects/{project_id}")
async def get_project(request: Request, parts: PartsDep, actor: Actor, project_id: PathId) -> views.Json:
    """One project with its allocations and its latest statement lines."""
    services = parts.services
    admin = await acting_admin(services, actor)
    found = await report.project(services, admin, ProjectId(project_id))
    page = await report.statement(
        services, admin, ProjectId(project_id), before=None, limit=_HISTORY, language=language_for(request)
    )
    at = services.clock.now()
    return {
        "project": views.project_row(found.card),
        "allocations": [views.allocation_row(one, at) for one in found.card.allocations],
        "history": views.rows(page.lines, translate_for(request)),
    }


@router.put("/admin/adjustments/{adjustment_id}", status_code=201, response_model=None)
async def put_adjustment(
    request: Request, response: Response, parts: PartsDep, adjustment_id: PathId, body: AdjustmentBody
) -> views.Json | JSONResponse:
    """Change an award by ± with a reason."""
    admin = await acting_admin(parts.services, body.actor)
    order = AdjustRequest(AdjustmentId(adjustment_id), AllocationId(body.allocation_id), body.delta, body.reason)
    return _corrected(request, response, await adjust(parts.services, admin, order), adjustment_id=adjustment_id)


@router.put("/admin/reversals/{reversal_id}", status_code=201, response_model=None)
async def put_reversal(
    request: Request, response: Response, parts: PartsDep, reversal_id: PathId, body: ReversalBody
) -> views.Json | JSONResponse:
    """Take an adjustment back whole, with a reason."""
    admin = await acting_admin(parts.services, body.actor)
    order = ReversalRequest(AdjustmentId(reversal_id), AdjustmentId(body.adjustment_id), body.reason)
    return _corrected(request, response, await reverse(parts.services, admin, order), reversal_id=reversal_id)


@router.put("/admin/refunds/{refund_id}", status_code=201, response_model=None)
async def put_refund(
    request: Request, response: Response, parts: PartsDep, refund_id: PathId, body: RefundBody
) -> views.Json | JSONResponse:
    """Give back what a hold was charged, whole or in part, with a reason."""
    admin = await acting_admin(parts.services, body.actor)
    order = RefundRequest(RefundId(refund_id), HoldId(body.hold_id), body.amount, body.reason)
    return _corrected(request, response, await refund(parts.services, admin, order), refund_id=refund_id)


def _corrected(
    request: Request, response: Response, done: Adjusted | Refused, **named: str
) -> views.Json | JSONResponse:
    if isinstance(done, Refused):
        return refused_response(request, done)
    response.status_code = 200 if done.replayed else 201
    return {**named, "before": views.balance(done.before), "after": views.balance(done.after)}


def _language(body: PersonBody) -> str:
    return preferred((body.language or "").replace("_", "-")) or DEFAULT
