"""A project's keys to the gateway: make one (shown once), see them, end one.

The key itself is in the answer to the form that made it and nowhere else: not in an address, not in a log, not in the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from quota.domain.errors import Invalid, Refused, Unknown
from quota.domain.gateway_key import new_key_id
from quota.domain.ids import ProjectId, is_id
from quota.pages.forms import Read, tokens
from quota.pages.said import said
from quota.pages.visit import Fields, Visit
from quota.service import personal_keys, report
from quota.service.personal_keys import KeyOrder, KeyView, MadeKey

DAYS: Final = (7, 30, 90, 180, 366)
_BLANK: Final = {"name": "", "days": "90", "tokens_max": "", "requests_per_minute": "", "tokens_per_minute": ""}


async def show(visit: Visit) -> Response:
    """The keys that the reader may see, and the form for a new one."""
    return await _page(visit)


async def make(visit: Visit, fields: Fields) -> Response:
    """Make a key and show it; a repeated form makes no second one."""
    read = Read(fields)
    order = _order(read, fields)
    made: MadeKey | Refused | None = None
    if not read.errors:
        try:
            made = await personal_keys.make_key(visit.desk.services, visit.caller, _project_id(visit), order)
        except Invalid as invalid:
            for name, reason in invalid.fields:
                read.blame(name, reason)
    if isinstance(made, MadeKey):
        return await _page(visit, made=made)
    return await _page(visit, status=400, errors=read.errors, values=fields, refused=made)


async def confirm_revocation(visit: Visit) -> Response:
    """Ask before a key is ended."""
    view = await report.project(visit.desk.services, visit.caller, _project_id(visit))
    return visit.render("revoke_key.html", card=view.card, one=await _one(visit))


async def revoke(visit: Visit, _: Fields) -> Response:
    """End a key."""
    project_id = _project_id(visit)
    await personal_keys.revoke_key(visit.desk.services, visit.caller, project_id, visit.request.path_params["key_id"])
    return visit.to(f"projects/{project_id}/keys", said="key_revoked")


async def _page(
    visit: Visit,
    *,
    status: int = 200,
    made: MadeKey | None = None,
    errors: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
    refused: Refused | None = None,
) -> Response:
    services, project_id = visit.desk.services, _project_id(visit)
    view = await report.project(services, visit.caller, project_id)
    keys = await personal_keys.keys(services, visit.caller, project_id)
    offered = services.models.offered(view.card.project.slug)
    shown = {**_BLANK, **(values or {})}
    return visit.render(
        "keys.html",
        status,
        card=view.card,
        keys=keys,
        models=offered,
        chosen={one.name for one in offered if f"model:{one.name}" in shown},
        made=made,
        errors=errors or {},
        values=shown,
        refused=refused,
        days=DAYS,
        new_id=new_key_id(),
        gateway=f"{visit.desk.settings.public_url}services/gateway",
        said=said(visit.request),
    )


def _order(read: Read, fields: Fields) -> KeyOrder:
    """What the form asks for; only good where `read.errors` stayed empty."""
    key_id = fields.get("key_id", "")
    chosen = tuple(name.removeprefix("model:") for name in fields if name.startswith("model:"))
    return KeyOrder(
        key_id=key_id if is_id(key_id) and len(key_id) == 32 else new_key_id(),
        name=" ".join(read.text("name").split()),
        days=read.take("days", int, 0, "out_of_range"),
        models=chosen or None,
        tokens_max=read.take("tokens_max", tokens, 0, "not_a_number") or None,
        requests_per_minute=read.take("requests_per_minute", tokens, 0, "not_a_number") or None,
        tokens_per_minute=read.take("tokens_per_minute", tokens, 0, "not_a_number") or None,
    )


async def _one(visit: Visit) -> KeyView:
    key_id = visit.request.path_params["key_id"]
    for view in await personal_keys.keys(visit.desk.services, visit.caller, _project_id(visit)):
        if view.key.id == key_id:
            return view
    raise Unknown("key", key_id=key_id)


def _project_id(visit: Visit) -> ProjectId:
    return ProjectId(str(visit.request.path_params["project_id"]))
