"""Routes about idle sessions: what the hub's culler saw, and an owner who keeps one alive."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from quota.api import views
from quota.api.bodies import ActivityBody, KeepAliveBody, PathId
from quota.api.principals import PartsDep, Writer, hub_only
from quota.domain.ids import HoldId
from quota.service import idle

router = APIRouter()


@router.post("/internal/activity", dependencies=[Depends(hub_only)], tags=["hub"])
async def post_activity(parts: PartsDep, body: ActivityBody) -> views.Json:
    """Take what a look at a notebook's kernels showed; `stop`: it is idle for good and has to be stopped now."""
    activity = idle.Activity(body.hub_name, body.server_name, body.busy, body.active_at)
    verdict = await idle.seen(parts.services, activity)
    if verdict is None:
        return {"stop": False, "stops_at": None}
    return {"stop": verdict.stop, "stops_at": views.instant(verdict.stops_at)}


@router.post("/sessions/{hold_id}/keep-alive", tags=["people"])
async def post_keep_alive(parts: PartsDep, caller: Writer, hold_id: PathId, body: KeepAliveBody) -> views.Json:
    """Keep a running session that is idle, as long as its profile allows at most."""
    until = await idle.keep_alive(parts.services, caller, HoldId(hold_id), body.seconds)
    return {"hold_id": hold_id, "kept_until": views.instant(until)}
