"""Routes for holds beside a session's own: holds of requests for services that serve tokens, and many holds in one request.

Invariant: an entry of a batch is answered as the same hold sent alone would be, in the order sent; one that is refused, malformed or
unlucky hurts no other.
"""

from __future__ import annotations

import asyncio
import json

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from quota.api import views
from quota.api.bodies import (
    BatchedRequestHold,
    HoldsBody,
    JournalledBody,
    PathId,
    RequestHoldBody,
    SessionHoldBody,
    UsedBody,
    read_hold,
)
from quota.api.errors import as_response, refused_response, translate_for
from quota.api.principals import FenceDep, Parts, PartsDep, hub_only
from quota.domain.errors import QuotaError, Refused
from quota.domain.fence import Fence
from quota.domain.ids import HoldId, ProjectId
from quota.service.admit import SessionHoldRequest, place_session_hold
from quota.service.admit_request import RequestHoldOrder
from quota.service.rescue import count_journalled

router = APIRouter(prefix="/internal", dependencies=[Depends(hub_only)], tags=["hub"])


@router.put("/request-holds/{hold_id}", status_code=201, response_model=None)
async def put_request_hold(
    request: Request, response: Response, parts: PartsDep, hold_id: PathId, body: RequestHoldBody
) -> views.Json | JSONResponse:
    """Set tokens aside under the caller's id; a replay gets the first answer. `hold_door` answers it on a shorter way."""
    placed = await parts.request_holds.place(request_order(HoldId(hold_id), body))
    if isinstance(placed, Refused):
        return refused_response(request, placed)
    response.status_code = 200 if placed.replayed else 201
    return views.request_hold(placed)


@router.post("/request-holds/{hold_id}/settle")
async def post_settle(parts: PartsDep, hold_id: PathId, body: UsedBody) -> views.Json:
    """Charge what was used and close the hold."""
    return views.request_hold(await parts.request_holds.settle(HoldId(hold_id), body.tokens, estimated=body.estimated))


@router.put("/rescues/{hold_id}", status_code=201, response_model=None)
async def put_rescue(
    request: Request, response: Response, parts: PartsDep, fence: FenceDep, hold_id: PathId, body: JournalledBody
) -> views.Json | JSONResponse:
    """Count a rescue session that started while this service could not be asked; a replay gets the first answer."""
    order = session_order(HoldId(hold_id), body)
    placed = await count_journalled(parts.services, order, body.started_at, fence)
    if isinstance(placed, Refused):
        return refused_response(request, placed)
    response.status_code = 200 if placed.replayed else 201
    return views.session_hold(placed, translate_for(request))


@router.post("/holds:batch")
async def post_holds(request: Request, parts: PartsDep, fence: FenceDep, body: HoldsBody) -> views.Json:
    """Place several holds; each has its own answer."""
    answers = await asyncio.gather(*(_answer(request, parts, fence, entry) for entry in body.holds))
    return {"holds": answers}


def session_order(hold_id: HoldId, body: SessionHoldBody) -> SessionHoldRequest:
    """The use case's request."""
    return SessionHoldRequest(
        hold_id=hold_id,
        actor=body.actor,
        project_id=ProjectId(body.project_id),
        profile=body.profile,
        application=body.application,
        runtime_s=body.runtime_s,
        server_name=body.server_name,
    )


def request_order(hold_id: HoldId, body: RequestHoldBody) -> RequestHoldOrder:
    """The use case's order."""
    return RequestHoldOrder(hold_id, body.actor, ProjectId(body.project_id), body.model, body.tokens, body.lease_s)


async def _answer(request: Request, parts: Parts, fence: Fence | None, entry: dict[str, object]) -> views.Json:
    """`{"hold_id", "status", "hold"}`, or `"error"` in place of the hold."""
    named = {"hold_id": entry.get("hold_id")}
    try:
        status, hold = await _place(request, parts, fence, entry)
    except ValidationError as error:
        refused = await as_response(request, RequestValidationError(error.errors()))
    except QuotaError as error:
        refused = await as_response(request, error)
    else:
        if not isinstance(hold, Refused):
            return {**named, "status": status, "hold": hold}
        refused = refused_response(request, hold)
    return {**named, "status": refused.status_code, **json.loads(bytes(refused.body))}


async def _place(
    request: Request, parts: Parts, fence: Fence | None, entry: dict[str, object]
) -> tuple[int, views.Json | Refused]:
    body = read_hold(entry)
    if isinstance(body, BatchedRequestHold):
        one = await parts.request_holds.place(request_order(HoldId(body.hold_id), body))
        if isinstance(one, Refused):
            return 0, one
        return (200 if one.replayed else 201), views.request_hold(one)
    placed = await place_session_hold(parts.services, session_order(HoldId(body.hold_id), body), fence)
    if isinstance(placed, Refused):
        return 0, placed
    return (200 if placed.replayed else 201), views.session_hold(placed, translate_for(request))
