"""A member's share: what the project's leads allow one person, in both units; each member reads their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from quota.domain.errors import Forbidden
from quota.domain.ids import PersonId, ProjectId
from quota.domain.project import LEADS, Member
from quota.domain.units import AMOUNT_MAX, Unit, gpu_hours_to_ms
from quota.pages.figures import plain_number
from quota.pages.visit import Fields, Visit
from quota.service import limiting, report
from quota.service.ports import LimitStanding

FIELDS: Final[Mapping[str, Unit]] = {
    "gpu_total": Unit.GPU_MS, "gpu_day": Unit.GPU_MS, "tokens_total": Unit.TOKENS, "tokens_day": Unit.TOKENS,
}  # fmt: skip
_A_DAY: Final = frozenset({"gpu_day", "tokens_day"})
Shares = Mapping[PersonId, Mapping[Unit, LimitStanding]]


async def shares_of(visit: Visit, project_id: ProjectId) -> Shares:
    """The shares that the reader may see, by member; members without any are left out."""
    found = await limiting.member_limits(visit.desk.services, visit.caller, project_id)
    return {person_id: shares for person_id, shares in found.items() if shares}


async def days_of(visit: Visit, project_id: ProjectId) -> Shares:
    """What the same members may use a day, and used today."""
    found = await limiting.member_days(visit.desk.services, visit.caller, project_id)
    return {person_id: shares for person_id, shares in found.items() if shares}


async def show(visit: Visit) -> Response:
    """The form, with what is set."""
    member = await _member(visit)
    known = await _known(visit, member)
    values = {name: plain_number(known[name], unit) if name in known else "" for name, unit in FIELDS.items()}
    return await _page(visit, member, values, {})


async def put(visit: Visit, fields: Fields) -> Response:
    """Set them; an empty field means no limit."""
    member = await _member(visit)
    read: dict[str, int | None] = {}
    errors: dict[str, str] = {}
    for name, unit in FIELDS.items():
        text = fields.get(name, "").strip()
        try:
            read[name] = _amount(text, unit) if text else None
        except ValueError as error:
            errors[name] = "out_of_range" if "range" in str(error) else "not_a_number"
    if errors:
        return await _page(visit, member, {name: fields.get(name, "") for name in FIELDS}, errors, 400)
    known = await _known(visit, member)
    for name, cap in read.items():
        if cap is not None or name in known:
            await limiting.set_member_limit(
                visit.desk.services,
                visit.caller,
                _project_id(visit),
                member.hub_name,
                FIELDS[name],
                cap,
                a_day=name in _A_DAY,
            )
    return visit.to(f"projects/{_project_id(visit)}", said="limits_set")


async def _known(visit: Visit, member: Member) -> dict[str, int]:
    """What is set for a member, by field."""
    shares = (await shares_of(visit, _project_id(visit))).get(member.person_id, {})
    days = (await days_of(visit, _project_id(visit))).get(member.person_id, {})
    found = {name: (days if name in _A_DAY else shares).get(unit) for name, unit in FIELDS.items()}
    return {name: one.cap for name, one in found.items() if one is not None}


def _amount(text: str, unit: Unit) -> int:
    if unit is Unit.GPU_MS:
        amount = gpu_hours_to_ms(text)
    elif text.isascii() and text.isdigit() and len(text) < 19:
        amount = int(text)
    else:
        raise ValueError("not a number")
    if not 0 <= amount <= AMOUNT_MAX:
        raise ValueError("out of range")
    return amount


async def _page(
    visit: Visit, member: Member, values: dict[str, str], errors: dict[str, str], status: int = 200
) -> Response:
    view = await report.project(visit.desk.services, visit.caller, _project_id(visit))
    return visit.render("member_limits.html", status, card=view.card, member=member, values=values, errors=errors)


async def _member(visit: Visit) -> Member:
    """The member that the address names, for those who may set limits. Raises Unknown, Forbidden."""
    name = str(visit.request.path_params["hub_name"])
    view = await report.project(visit.desk.services, visit.caller, _project_id(visit))
    if view.card.role not in LEADS:
        raise Forbidden("only PI, co-PI and managers set limits")
    found = next((one for one in view.members if one.hub_name == name), None)
    if found is None:
        raise Forbidden("no such member")
    return found


def _project_id(visit: Visit) -> ProjectId:
    return ProjectId(str(visit.request.path_params["project_id"]))
