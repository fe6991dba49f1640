"""Routes by which a course's formgrader has a submission's run paid for: before it starts, and when it is over.

Who it is comes from the token, as in the exchange; only those who grade in the course may (quota.service.gradings).
"""

from __future__ import annotations

from fastapi import APIRouter, BackgroundTasks, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from quota.api import views
from quota.api.bodies import Body, PathId
from quota.api.errors import refused_response
from quota.api.exchange_routes import Slug
from quota.api.principals import Exchanger, PartsDep
from quota.domain.errors import Refused
from quota.domain.exchange import NAME_PATTERN
from quota.domain.grading import GradingTerms
from quota.domain.hold import Hold
from quota.domain.ids import HoldId
from quota.service import gradings
from quota.service.gradings import GradingOrder

router = APIRouter(prefix="/exchange/courses/{course}/gradings", tags=["people"])


class GradingBody(Body):
    assignment: str = Field(pattern=NAME_PATTERN)
    student: str = Field(min_length=1, max_length=200)


@router.put("/{grading_id}", status_code=201, response_model=None)
async def put_grading(
    request: Request,
    response: Response,
    parts: PartsDep,
    caller: Exchanger,
    course: Slug,
    grading_id: PathId,
    body: GradingBody,
) -> views.Json | JSONResponse:
    """Have a run's longest time set aside; a replay gets the first answer."""
    order = GradingOrder(HoldId(grading_id), course, body.assignment, body.student)
    placed = await gradings.place(parts.services, caller, order)
    if isinstance(placed, Refused):
        return refused_response(request, placed)
    response.status_code = 200 if placed.replayed else 201
    return _grading(placed)


@router.post("/{grading_id}/ended")
async def post_ended(
    parts: PartsDep, caller: Exchanger, course: Slug, grading_id: PathId, later: BackgroundTasks
) -> views.Json:
    """Say that a run is over; what its backend shows is charged, and what executed it is removed after the answer."""
    hold = await gradings.ended(parts.services, caller, course, HoldId(grading_id))
    later.add_task(gradings.clear, parts.services, hold)
    return _grading(hold)


def _grading(hold: Hold) -> views.Json:
    terms = GradingTerms.from_details(hold.details)
    return {
        "grading_id": hold.id,
        "state": hold.state.value,
        "backend": terms.backend,
        "runtime_s": terms.runtime_s,
        "held_gpu_ms": hold.amount,
        "charged_gpu_ms": hold.charged,
    }
