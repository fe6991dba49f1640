"""Routes about language models: a project's keys to the gateway, what was used, what each tier served."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from quota.api import views
from quota.api.bodies import Days, KeyBody, PathId, PathKeyId
from quota.api.errors import refused_response
from quota.api.principals import PartsDep, Reader, Writer
from quota.domain.errors import Invalid, Refused
from quota.domain.gateway_key import GatewayKey
from quota.domain.ids import ProjectId
from quota.service import model_usage, personal_keys

router = APIRouter(tags=["people"])
_DAYS = "30"


@router.get("/projects/{project_id}/usage")
async def get_usage(parts: PartsDep, caller: Reader, project_id: PathId, days: Days = _DAYS) -> views.Json:
    """What the project's models were used for, by day, member and model."""
    use = await model_usage.of_project(parts.services, caller, ProjectId(project_id), days=_days(days))
    rows = [
        {
            "day": row.day.isoformat(),
            "person_id": row.person_id,
            "who": row.who,
            "model": row.model,
            "requests": row.requests,
            "prompt_tokens": row.prompt,
            "cached_tokens": row.cached,
            "output_tokens": row.output,
            "reasoning_tokens": row.reasoning,
            "charged_tokens": row.charged,
            "estimated_requests": row.estimated,
        }
        for row in use.rows
    ]
    return {"rows": rows, "first": use.first.isoformat(), "last": use.last.isoformat(), "only_own": use.only_own}


@router.get("/tiers")
async def get_tiers(parts: PartsDep, caller: Reader, days: Days = _DAYS) -> views.Json:
    """What each tier served, for those who award or administer."""
    found = await model_usage.tiers(parts.services, caller, days=_days(days))
    return {
        "tiers": [
            {
                "hardware": one.use.hardware,
                "cloud": one.use.cloud,
                "provider": one.use.provider,
                "model": one.use.model,
                "application": one.use.application,
                "requests": one.use.requests,
                "prompt_tokens": one.use.prompt,
                "output_tokens": one.use.output,
                "charged_tokens": one.use.charged,
                "busy_ms": one.use.busy_ms,
                "gpu_ms": one.gpu_ms,
                "tokens_per_gpu_hour": one.tokens_per_gpu_hour,
            }
            for one in found
        ]
    }


@router.put("/projects/{project_id}/keys/{key_id}", status_code=201, response_model=None)
async def put_key(
    request: Request,
    response: Response,
    parts: PartsDep,
    caller: Writer,
    project_id: PathId,
    key_id: PathKeyId,
    body: KeyBody,
) -> views.Json | JSONResponse:
    """Make a key for oneself; the key itself is in this answer and nowhere else."""
    made = await personal_keys.make_key(parts.services, caller, ProjectId(project_id), body.order(key_id))
    if isinstance(made, Refused):
        return refused_response(request, made)
    response.status_code = 200 if made.text is None else 201
    response.headers["Cache-Control"] = "no-store"
    return {"key": _key(made.key, live=True), "text": made.text}


@router.get("/projects/{project_id}/keys")
async def get_keys(parts: PartsDep, caller: Reader, project_id: PathId) -> views.Json:
    """The keys that the caller may see."""
    found = await personal_keys.keys(parts.services, caller, ProjectId(project_id))
    return {"keys": [_key(view.key, live=view.live) for view in found]}


@router.post("/projects/{project_id}/keys/{key_id}/revoke")
async def post_revoke(parts: PartsDep, caller: Writer, project_id: PathId, key_id: PathKeyId) -> views.Json:
    """End a key for good."""
    return _key(await personal_keys.revoke_key(parts.services, caller, ProjectId(project_id), key_id), live=False)


def _key(key: GatewayKey, *, live: bool) -> views.Json:
    return {
        "key_id": key.id,
        "name": key.name,
        "shown": key.shown,
        "person_id": key.person_id,
        "models": None if key.models is None else list(key.models),
        "tokens_max": key.tokens_max,
        "tokens_used": key.charged if key.tokens_max is not None else None,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "made_at": views.instant(key.made_at),
        "expires_at": views.instant(key.expires_at),
        "revoked_at": views.instant(key.revoked_at),
        "live": live,
    }


def _days(text: str) -> int:
    if not 1 <= int(text) <= model_usage.DAYS_MAX:
        raise Invalid([("days", "out_of_range")])
    return int(text)
