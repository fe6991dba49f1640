"""Coming and going: the way back from the hub's sign-in, signing out, and the choice of language."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from quota import locales
from quota.pages.desk import Desk
from quota.pages.guard import check_same_origin, own_path, read_form
from quota.pages.session import new_session
from quota.pages.visit import LANGUAGE_COOKIE, Fields, Visit, desk_of, respond

_YEAR_S = 365 * 86_400
_LONGEST = 512


async def callback(request: Request) -> Response:
    """The hub's answer: set the session cookie and go where the person wanted to, or say that it did not work."""
    desk = desk_of(request)
    code, state = request.query_params.get("code", ""), request.query_params.get("state", "")
    name = desk.seal.state_cookie(state)
    kept = desk.seal.open_state(request.cookies.get(name))
    end = None
    if code and state and kept is not None and max(len(code), len(state)) <= _LONGEST:
        end = await desk.sign_in.finish_login(code=code, state=state, cookie_state=kept)
    if end is None:
        return respond(desk, request, "sign_in_failed.html", 400)
    response = RedirectResponse(own_path(end.next_url, desk.settings.prefix), 303)
    _forget(desk, response, name)
    response.set_cookie(
        desk.seal.session_cookie,
        desk.seal.seal_session(new_session(end.token)),
        path=desk.settings.cookie_path,
        secure=desk.settings.secure,
        httponly=True,
        samesite="lax",
    )
    return response


async def sign_out(visit: Visit, fields: Fields) -> Response:
    """Forget the session here and end it at the hub, else the next page would sign the person in again."""
    response = RedirectResponse(f"{visit.desk.settings.hub}logout", 303)
    _forget(visit.desk, response, visit.desk.seal.session_cookie)
    return response


def _forget(desk: Desk, response: Response, name: str) -> None:
    """Take a cookie away; the browser looks at its attributes as when it was set."""
    settings = desk.settings
    response.delete_cookie(name, path=settings.cookie_path, secure=settings.secure, httponly=True, samesite="lax")


async def choose_language(request: Request) -> Response:
    """Keep the reader's choice in a cookie; works signed out, too, so that error pages can be read."""
    desk = desk_of(request)
    check_same_origin(request)
    fields = await read_form(request)
    response = RedirectResponse(_back(desk, fields.get("next")), 303)
    chosen = fields.get("language", "")
    if chosen in locales.LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE,
            chosen,
            max_age=_YEAR_S,
            path=desk.settings.base,
            secure=desk.settings.secure,
            httponly=True,
            samesite="lax",
        )
    return response


def _back(desk: Desk, wanted: str | None) -> str:
    """A page of ours or of the hub, which offers the same choice; else home."""
    to_hub = own_path(wanted, desk.settings.hub)
    return to_hub if to_hub != desk.settings.hub else own_path(wanted, desk.settings.prefix)
