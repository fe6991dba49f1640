"""A person's profile: what they are called, which language mails come in, which sign-ins are theirs.

Somebody who signs in from outside for the first time sees this page before any other. Two sign-ins become one person by a code
that is made in a session of the one and typed in a session of the other (quota.service.identities).
"""

from __future__ import annotations

from starlette.responses import Response

from quota import locales
from quota.domain.errors import Invalid, WrongState
from quota.pages.guard import own_path
from quota.pages.said import said
from quota.pages.visit import LANGUAGE_COOKIE, Fields, Visit
from quota.service import identities

_YEAR_S = 365 * 86_400


async def show(visit: Visit) -> Response:
    """The page, as a greeting where it was not seen before."""
    return await _page(visit, said=said(visit.request))


async def save(visit: Visit, fields: Fields) -> Response:
    """Keep name and language, and go on to where the person was going."""
    language = fields.get("language", "")
    name = fields.get("display_name", "")
    try:
        await identities.save_profile(
            visit.desk.services, visit.caller, name, language if language in locales.LANGUAGES else "en"
        )
    except Invalid as invalid:
        return await _page(visit, 400, errors=dict(invalid.fields), values={"display_name": name})
    settings = visit.desk.settings
    following = own_path(fields.get("next"), settings.prefix)
    response = (
        visit.to("profile", said="profile_saved")
        if visit.caller.person.greeted
        else visit.to(following.removeprefix(settings.prefix))
    )
    if language in locales.LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE,
            language,
            max_age=_YEAR_S,
            path=settings.base,
            secure=settings.secure,
            httponly=True,
            samesite="lax",
        )
    return response


async def make_code(visit: Visit, fields: Fields) -> Response:
    """Show a code for the other sign-in's session; it is shown once."""
    return await _page(visit, code=await identities.make_link_code(visit.desk.services, visit.caller))


async def link(visit: Visit, fields: Fields) -> Response:
    """Use a code that was made in the other sign-in's session."""
    typed = fields.get("code", "")
    try:
        await identities.link(visit.desk.services, visit.caller, typed)
    except Invalid as invalid:
        return await _page(visit, 400, errors=dict(invalid.fields), values={"code": typed})
    except WrongState:
        return await _page(visit, 409, errors={"code": "other_running"}, values={"code": typed})
    return visit.to("profile", said="linked")


async def _page(
    visit: Visit,
    status: int = 200,
    *,
    said: str | None = None,
    errors: dict[str, str] | None = None,
    values: dict[str, str] | None = None,
    code: str = "",
) -> Response:
    caller = visit.caller
    issuers = await visit.desk.services.store.read(lambda tx: tx.people.identities(caller.id))
    shown = {"display_name": caller.person.display_name, "code": "", **(values or {})}
    return visit.render(
        "profile.html",
        status,
        person=caller.person,
        issuers=issuers,
        said=said,
        errors=errors or {},
        values=shown,
        code=code,
        next=own_path(visit.request.query_params.get("next"), visit.desk.settings.prefix),
    )
