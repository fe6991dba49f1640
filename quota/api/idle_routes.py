"""Routes about the ends of sessions: what the idle culler saw, an owner who keeps one alive, why the last one ended."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from quota.api import views
from quota.api.bodies import ActivityBody, KeepAliveBody, PathHubName, PathId, ServerName
from quota.api.errors import translate_for
from quota.api.principals import PartsDep, Writer, hub_only
from quota.domain.endings import ending
from quota.domain.ids import HoldId
from quota.domain.messages import render
from quota.service import idle, sessions

router = APIRouter()


@router.post("/internal/activity", dependencies=[Depends(hub_only)], tags=["hub"])
async def post_activity(parts: PartsDep, body: ActivityBody) -> views.Json:
    """Take what a look at a notebook's kernels showed; `stop`: it is idle for good and has to be stopped now."""
    activity = idle.Activity(body.hub_name, body.server_name, body.busy, body.active_at)
    verdict = await idle.seen(parts.services, activity)
    if verdict is None:
        return {"stop": False, "stops_at": None}
    return {"stop": verdict.stop, "stops_at": views.instant(verdict.stops_at)}


@router.post("/internal/stopping", dependencies=[Depends(hub_only)], tags=["hub"])
async def post_stopping(parts: PartsDep) -> views.Json:
    """The portal is being shut down: what is stopped from now on was stopped for that reason."""
    return {"sessions": await sessions.portal_stops(parts.services)}


@router.get("/internal/people/{hub_name}/last-session", dependencies=[Depends(hub_only)], tags=["hub"])
async def get_last_session(
    request: Request, parts: PartsDep, hub_name: PathHubName, server_name: ServerName = ""
) -> views.Json:
    """Why the last session of this server ended, in words; null where it never ran, or runs."""
    found = await sessions.last_ended(parts.services, hub_name, server_name)
    if found is None:
        return {"ended": None}
    code, params = ending(found)
    words = render(code, params, translate_for(request))
    return {"ended": {"at": views.instant(found.ended_at), "message": words.message, "charged": found.charged}}


@router.post("/sessions/{hold_id}/keep-alive", tags=["people"])
async def post_keep_alive(parts: PartsDep, caller: Writer, hold_id: PathId, body: KeepAliveBody) -> views.Json:
    """Keep a running session that is idle, as long as its profile allows at most."""
    until = await idle.keep_alive(parts.services, caller, HoldId(hold_id), body.seconds)
    return {"hold_id": hold_id, "kept_until": views.instant(until)}
