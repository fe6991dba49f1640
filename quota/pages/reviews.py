"""The review queue and the decision, for holders of custom:quota:decide. Nobody decides on their own application."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from quota.domain.application import Application, ApplicationState, Decision
from quota.domain.errors import Forbidden, Invalid
from quota.domain.ids import ApplicationId
from quota.domain.units import Unit
from quota.pages.figures import plain_number
from quota.pages.forms import Read, gpu_ms, tokens
from quota.pages.said import said
from quota.pages.visit import Fields, Visit
from quota.service import review
from quota.service.callers import Power


async def queue(visit: Visit) -> Response:
    """What waits, longest first."""
    waiting = sorted(
        await review.review_queue(visit.desk.services, visit.caller), key=lambda one: (one.submitted_at, one.id)
    )
    at = visit.desk.services.clock.now()
    ages = {one.id: int((at - one.submitted_at).total_seconds()) for one in waiting}
    return visit.render("review.html", waiting=waiting, ages=ages, said=said(visit.request))


async def detail(visit: Visit) -> Response:
    """One application with the forms that decide it, filled with what was asked."""
    asked = await _asked(visit)
    values = {
        "gpu_hours": plain_number(asked.ask.gpu_ms, Unit.GPU_MS),
        "tokens": plain_number(asked.ask.tokens, Unit.TOKENS),
        "message": "",
        "decision": "",
    }
    return _page(visit, asked, values, {})


async def decide(visit: Visit, fields: Fields) -> Response:
    """Approve or reject, or give the form back with what is wrong."""
    visit.caller.must(Power.DECIDE)
    asked = await _asked(visit)
    read = Read(fields)
    try:
        decision = Decision(fields.get("decision", ""))
    except ValueError as error:
        raise Invalid([("decision", "malformed")]) from error
    approve = decision is Decision.APPROVE
    request = review.DecideRequest(
        application_id=asked.id,
        decision=decision,
        gpu_ms=read.take("gpu_hours", gpu_ms, 0, "not_a_number") if approve else 0,
        tokens=read.take("tokens", tokens, 0, "not_a_number") if approve else 0,
        message=read.text("message"),
    )
    try:
        review.check_decision(request, request.message)
        if not read.errors:
            await review.decide(visit.desk.services, visit.caller, request)
    except Invalid as invalid:
        for name, reason in invalid.fields:
            read.blame(name, reason)
    if read.errors:
        return _page(visit, asked, fields, read.errors, status=400)
    return visit.to("review", said="approved" if approve else "rejected")


async def _asked(visit: Visit) -> Application:
    if not visit.caller.may(Power.DECIDE):
        raise Forbidden("deciding needs its scope")
    application_id = ApplicationId(visit.request.path_params["application_id"])
    return await review.application(visit.desk.services, visit.caller, application_id)


def _page(
    visit: Visit, asked: Application, values: Mapping[str, str], errors: Mapping[str, str], *, status: int = 200
) -> Response:
    filled = {"gpu_hours": "", "tokens": "", "message": "", "decision": "", **values}
    return visit.render(
        "review_application.html",
        status,
        application=asked,
        own=asked.applicant == visit.caller.id,
        undecided=asked.state is ApplicationState.SUBMITTED,
        values=filled,
        errors=errors,
    )
