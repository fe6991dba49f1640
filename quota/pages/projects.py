"""A project: its balances, its members, its statement.

Members read their own lines and the totals, leads everybody's: `quota.service.report` decides, not the template.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from quota.domain.errors import Forbidden, Unknown
from quota.domain.ids import ProjectId
from quota.domain.project import LEADS, Member, ProjectRole
from quota.pages import limits
from quota.pages.cards import forecasts_of, standing_of, starts_free, units_of
from quota.pages.rows import page_of_rows
from quota.pages.said import SAID, said
from quota.pages.statement import before_of
from quota.pages.visit import Fields, Visit
from quota.service import members, report
from quota.service.report import ProjectView

_APPOINTED = (ProjectRole.MEMBER, ProjectRole.MANAGER, ProjectRole.CO_PI)
_APPOINTERS = frozenset({ProjectRole.PI, ProjectRole.CO_PI})


async def show(visit: Visit) -> Response:
    """The whole page; `?before=` turns the statement's pages."""
    return await _page(visit, said=said(visit.request))


async def put_member(visit: Visit, fields: Fields) -> Response:
    """Add a person by user name or change their role; a name that nobody has comes back with its message."""
    project_id = _project_id(visit)
    name = fields.get("hub_name", "").strip()
    role = _role(fields.get("role", ""))
    errors: dict[str, str] = {}
    change = None
    before = await report.project(visit.desk.services, visit.caller, project_id)
    if not name or role is None:
        errors = {"hub_name" if not name else "role": "required" if not name else "unknown"}
    else:
        try:
            change = await members.put_member(visit.desk.services, visit.caller, project_id, name, role)
        except Unknown as unknown:
            if unknown.what != "person":
                raise
            errors = {"hub_name": "nobody"}
    if change is None:
        values = {"hub_name": name, "role": fields.get("role", "")}
        return await _page(visit, status=400, errors=errors, values=values)
    had = next((m.role for m in before.members if m.person_id == change.person.id), None)
    code = "member_added" if change.added else "member_unchanged" if had is role else "role_changed"
    if visit.htmx:
        return await _page(visit, said=SAID[code])
    return visit.to(f"projects/{project_id}", said=code)


async def confirm_removal(visit: Visit) -> Response:
    """Ask before a member is removed."""
    view = await report.project(visit.desk.services, visit.caller, _project_id(visit))
    member = _member(visit, view)
    if not _may_remove(visit, view, member):
        raise Forbidden("may not remove this member")
    return visit.render("remove_member.html", card=view.card, member=member)


async def remove_member(visit: Visit, fields: Fields) -> Response:
    """Remove a member, or leave."""
    project_id, name = _project_id(visit), str(visit.request.path_params["hub_name"])
    removed = await members.remove_member(visit.desk.services, visit.caller, project_id, name)
    if removed and name == visit.caller.person.hub_name:
        return visit.to("", said="left")
    return visit.to(f"projects/{project_id}", said="member_removed" if removed else "not_a_member")


async def _page(
    visit: Visit,
    *,
    status: int = 200,
    said: str | None = None,
    errors: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
) -> Response:
    services, project_id = visit.desk.services, _project_id(visit)
    view = await report.project(services, visit.caller, project_id)
    shown: dict[str, object] = {
        "card": view.card,
        "members": view.members,
        "removable": {m.person_id for m in view.members if _may_remove(visit, view, m)},
        "offered_roles": offered_roles(view.card.role),
        "errors": errors or {},
        "values": {"hub_name": "", "role": ProjectRole.MEMBER.value, **(values or {})},
        "said": None if visit.htmx else said,
        "said_here": said if visit.htmx else None,  # in the part that htmx swaps
        "leads": view.card.role in LEADS,
    }
    shown["limits"] = await limits.shares_of(visit, project_id)
    shown["days"] = await limits.days_of(visit, project_id)
    if visit.htmx:
        return visit.render("_members.html", status, **shown)
    at = services.clock.now()
    before = before_of(visit.request.query_params.get("before"))
    statement = await page_of_rows(visit, project_id, before=before)
    forecasts = await forecasts_of(visit.desk.outlooks, [view.card], at)
    shown |= {"units": units_of(view.card, at, forecasts), "standing": standing_of(view.card, at)}
    course = await services.store.read(lambda tx: tx.courses.of_project(project_id))
    shown |= {"course": course, "may_teach": view.card.role in _APPOINTERS}
    shown |= {
        "starts_free": starts_free(view.card, at),
        "free_profile": services.catalogue.free_profile(),
        "rows": statement.rows,
        "next_before": statement.next,
        "first_page": before is None,
    }
    return visit.render("project.html", status, **shown)


def offered_roles(own: ProjectRole | None) -> tuple[ProjectRole, ...]:
    """The roles that someone with the role `own` may give."""
    if own in _APPOINTERS:
        return _APPOINTED
    return (ProjectRole.MEMBER,) if own in LEADS else ()


def _may_remove(visit: Visit, view: ProjectView, member: Member) -> bool:
    """Whether to offer it; quota.service.members has the last word."""
    if member.role is ProjectRole.PI:
        return False
    return member.person_id == visit.caller.id or member.role in offered_roles(view.card.role)


def _member(visit: Visit, view: ProjectView) -> Member:
    name = visit.request.path_params["hub_name"]
    for member in view.members:
        if member.hub_name == name:
            return member
    raise Unknown("person", hub_name=name)


def _role(text: str) -> ProjectRole | None:
    try:
        return ProjectRole(text)
    except ValueError:
        return None


def _project_id(visit: Visit) -> ProjectId:
    return ProjectId(str(visit.request.path_params["project_id"]))
