"""Giving back what a session or a model request was charged: a form for administrators, led to from the project's statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from quota.domain.errors import Invalid, Refused
from quota.domain.hold import Hold
from quota.domain.ids import HoldId, RefundId, is_id, new_id
from quota.domain.units import Unit
from quota.pages.figures import plain_number
from quota.pages.forms import Read, gpu_ms, tokens
from quota.pages.visit import Fields, Visit
from quota.service import correct

_READ: Final = {Unit.GPU_MS: gpu_ms, Unit.TOKENS: tokens}


async def show(visit: Visit) -> Response:
    """The form, filled with all that was charged. Its id makes a second press of the button the same refund."""
    hold = await correct.refundable(visit.desk.services, visit.caller, _hold_id(visit))
    return _page(visit, hold, {"amount": plain_number(hold.charged, hold.unit), "reason": "", "refund_id": new_id()})


async def give(visit: Visit, fields: Fields) -> Response:
    """Give it back, or give the form back with what is wrong."""
    services = visit.desk.services
    hold = await correct.refundable(services, visit.caller, _hold_id(visit))
    refund_id, read = fields.get("refund_id", ""), Read(fields)
    if not is_id(refund_id):
        raise Invalid([("refund_id", "malformed")])
    amount = read.take("amount", _READ[hold.unit], 0, "not_a_number")
    request = correct.RefundRequest(RefundId(refund_id), hold.id, amount, read.text("reason"))
    refused = None
    try:
        if not read.errors:
            answer = await correct.refund(services, visit.caller, request)
            refused = answer if isinstance(answer, Refused) else None
    except Invalid as invalid:
        for name, reason in invalid.fields:
            read.blame(name, reason)
    if read.errors or refused is not None:
        # A refusal is kept under its id: another amount is another refund.
        values = {**fields, "refund_id": refund_id if refused is None else new_id()}
        return _page(visit, hold, values, read.errors, refused)
    return visit.to(f"projects/{hold.project_id}", said="refunded")


def _page(
    visit: Visit,
    hold: Hold,
    values: Mapping[str, str],
    errors: Mapping[str, str] | None = None,
    refused: Refused | None = None,
) -> Response:
    status = 400 if errors else 409 if refused is not None else 200
    filled = {"amount": "", "reason": "", **values}
    return visit.render("refund.html", status, hold=hold, values=filled, errors=errors or {}, refused=refused)


def _hold_id(visit: Visit) -> HoldId:
    return HoldId(str(visit.request.path_params["hold_id"]))
