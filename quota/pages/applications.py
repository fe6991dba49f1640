"""Apply, and read what became of it.

The form's id is minted here and travels with it: sending the same form twice makes one application.
"""

from __future__ import annotations

from starlette.responses import Response

from quota.domain.errors import IdConflict, Invalid
from quota.domain.ids import ApplicationId, is_id, new_id
from quota.pages.forms import Read, new_ask_values, read_ask
from quota.pages.said import said
from quota.pages.visit import Fields, Visit
from quota.service import review


async def blank(visit: Visit) -> Response:
    """The empty form."""
    today = visit.desk.services.clock.now().date()
    return _form(visit, Read(new_ask_values(today)), new_id())


async def submit(visit: Visit, fields: Fields) -> Response:
    """Submit, or give the form back with its values and what is wrong with each."""
    read = Read(fields)
    ask = read_ask(read, visit.desk.services.clock.now().date())
    form_id = fields.get("application_id", "")
    if not is_id(form_id):
        form_id = new_id()
    wrong = read.errors
    try:
        review.check_ask(ask, visit.desk.services.programme)
        if not wrong:
            await review.submit(visit.desk.services, visit.caller, ApplicationId(form_id), ask)
    except Invalid as invalid:
        for name, reason in invalid.fields:
            read.blame(name, reason)
    except IdConflict:
        # Sent before, then changed by way of the Back button: the first stands, these values become a second one if wanted.
        return _form(visit, read, new_id(), status=409, sent_before=form_id)
    if wrong:
        return _form(visit, read, form_id, status=400)
    return visit.to(f"applications/{form_id}", said="submitted")


async def show(visit: Visit) -> Response:
    """One application with its state and the decision."""
    application_id = ApplicationId(visit.request.path_params["application_id"])
    found = await review.application(visit.desk.services, visit.caller, application_id)
    own = found.applicant == visit.caller.id
    return visit.render("application.html", application=found, own=own, said=said(visit.request))


def _form(visit: Visit, read: Read, form_id: str, *, status: int = 200, sent_before: str | None = None) -> Response:
    values = {**new_ask_values(visit.desk.services.clock.now().date()), **read.values}
    return visit.render(
        "apply.html",
        status,
        values=values,
        errors=read.errors,
        application_id=form_id,
        sent_before=sent_before,
    )
