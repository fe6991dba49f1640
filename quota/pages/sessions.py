"""Stop a session: ask first, then ask the hub. What it cost is settled from evidence, not from this click."""

from __future__ import annotations

from starlette.responses import Response

from quota.domain.ids import HoldId
from quota.domain.session import OVER
from quota.pages.running import session_view
from quota.pages.visit import Fields, Visit
from quota.service import sessions


async def confirm_stop(visit: Visit) -> Response:
    """Ask before a session is stopped."""
    services = visit.desk.services
    session = await sessions.stoppable(services, visit.caller, _hold_id(visit))
    if session.state in OVER:
        return visit.to("", said="session_over")
    return visit.render("stop_session.html", view=session_view(visit, session, None, services.clock.now()))


async def stop(visit: Visit, fields: Fields) -> Response:
    """Stop it; one that is over stays as it is."""
    session = await sessions.stop(visit.desk.services, visit.caller, _hold_id(visit))
    return visit.to("", said="session_over" if session.state in OVER else "stopping")


def _hold_id(visit: Visit) -> HoldId:
    return HoldId(str(visit.request.path_params["hold_id"]))
