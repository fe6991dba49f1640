"""What people do with a running session: extend it, keep it alive, stop it (asked first). What it cost is settled from evidence."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from quota.domain.errors import Invalid
from quota.domain.ids import HoldId, is_id
from quota.domain.session import OVER
from quota.pages.running import session_view
from quota.pages.visit import Fields, Visit
from quota.service import extend as extensions
from quota.service import idle, sessions

KEEP_ALIVE_S: Final = 2 * 3600


async def confirm_stop(visit: Visit) -> Response:
    """Ask before a session is stopped."""
    services = visit.desk.services
    session = await sessions.stoppable(services, visit.caller, _hold_id(visit))
    if session.state in OVER:
        return visit.to("", said="session_over")
    view = session_view(visit, session, None, services.clock.now())
    return visit.render("stop_session.html", view=view, own=session.person_id == visit.caller.id)


async def stop(visit: Visit, fields: Fields) -> Response:
    """Stop it; one that is over stays as it is."""
    session = await sessions.stop(visit.desk.services, visit.caller, _hold_id(visit), fields.get("reason", ""))
    return visit.to("", said="session_over" if session.state in OVER else "stopping")


async def extend(visit: Visit, fields: Fields) -> Response:
    """Move the end later by what the button said; the notice that comes of it, or the refusal, shows on the home page."""
    seconds = fields.get("seconds", "")
    extension_id = fields.get("extension_id", "")
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) < 9 and is_id(extension_id)):
        raise Invalid([("seconds", "malformed")])
    await extensions.extend(visit.desk.services, visit.caller, _hold_id(visit), extension_id, int(seconds))
    return visit.to("now" if visit.htmx else "")


async def keep_alive(visit: Visit, fields: Fields) -> Response:
    """Keep an idle session as long as its profile allows."""
    await idle.keep_alive(visit.desk.services, visit.caller, _hold_id(visit), KEEP_ALIVE_S)
    return visit.to("now" if visit.htmx else "")


def _hold_id(visit: Visit) -> HoldId:
    return HoldId(str(visit.request.path_params["hold_id"]))
