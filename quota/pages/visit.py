"""One request of one person: who they are, their language, and how to answer.

`page` wraps a handler for GET (signs in first), `form` one for unsafe methods (same origin, form token, a fresh look at the hub).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from quota import locales
from quota.domain.errors import Forbidden
from quota.pages.desk import Desk, SignIn
from quota.pages.guard import check_same_origin, nonce_of, own_path, read_form
from quota.pages.session import STATE_S, BrowserSession, CookieSeal
from quota.service.callers import ACCESS_SCOPE, Caller, Power, caller_of, powers_of
from quota.service.services import Services

LANGUAGE_COOKIE: Final = "commons-language"
_ACCESS: Final = frozenset({ACCESS_SCOPE, "access:services"})

Fields = dict[str, str]


@dataclass(frozen=True, slots=True)
class Visit:
    """A signed-in request."""

    request: Request
    desk: Desk
    session: BrowserSession
    caller: Caller

    @property
    def language(self) -> str:
        return language_of(self.request)

    @property
    def htmx(self) -> bool:
        return is_htmx(self.request)

    @property
    def personal(self) -> dict[str, object]:
        """What the layout shows of the reader."""
        return {
            "caller": self.caller,
            "form_token": self.session.form_token,
            "may_decide": self.caller.may(Power.DECIDE),
            "may_administer": self.caller.may(Power.ADMIN),
        }

    def gettext(self, text: str) -> str:
        return locales.translations(self.language).gettext(text)

    def render(self, template: str, status: int = 200, /, **context: object) -> Response:
        """The page `template` in the reader's language."""
        return respond(self.desk, self.request, template, status, {**self.personal, **context})

    def to(self, path: str, **query: str) -> Response:
        """On to another page of ours (303); `path` is relative to the prefix."""
        target = self.desk.settings.prefix + path
        return RedirectResponse(f"{target}?{urlencode(query)}" if query else target, 303)


Handler = Callable[[Visit], Awaitable[Response]]
FormHandler = Callable[[Visit, Fields], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def page(handler: Handler) -> Endpoint:
    """A GET endpoint for people who are signed in; others are sent to the hub and come back."""

    async def endpoint(request: Request) -> Response:
        visit = await _visit(request, fresh=False)
        if visit is None:
            return send_to_sign_in(request)
        if not visit.caller.person.greeted and not request.url.path.endswith("/profile"):
            return visit.to("profile", next=str(request.url.path))
        return await handler(visit)

    return endpoint


def form(handler: FormHandler) -> Endpoint:
    """An endpoint that changes something: same origin, signed in by a token that the hub knows now, with the form's token."""

    async def endpoint(request: Request) -> Response:
        check_same_origin(request)
        fields = await read_form(request)
        visit = await _visit(request, fresh=True)
        if visit is None:
            return send_to_sign_in(request)
        if not visit.session.form_token_is(fields.pop("form_token", "")):
            raise Forbidden(code="cross_site")
        return await handler(visit, fields)

    return endpoint


async def _visit(request: Request, *, fresh: bool) -> Visit | None:
    desk = desk_of(request)
    known = await signed_in(desk.services, desk.sign_in, desk.seal, request, fresh=fresh)
    if known is None:
        return None
    visit = Visit(request, desk, *known)
    request.state.visit = visit  # an error page later in this request still knows the reader
    return visit


async def signed_in(
    services: Services, sign_in: SignIn, seal: CookieSeal, request: Request, *, fresh: bool
) -> tuple[BrowserSession, Caller] | None:
    """Whose session cookie the request carries; None without one that the hub stands behind.

    Raises Forbidden for people without access to this service, IdentityPending, Unavailable.
    """
    session = seal.open_session(request.cookies.get(seal.session_cookie))
    if session is None:
        return None
    identity = await sign_in.introspect(session.hub_token, fresh=fresh)
    if identity is None:
        return None
    if not _ACCESS & identity.scopes:
        raise Forbidden("no access to this service")
    return session, await caller_of(services, identity.hub_name, powers_of(identity.scopes))


def send_to_sign_in(request: Request) -> Response:
    """To the hub's sign-in and back; a form's sender comes back to the form's page, since a GET must change nothing."""
    desk = desk_of(request)
    if is_htmx(request):
        return Response(status_code=401, headers={"HX-Refresh": "true"})
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    next_url = own_path(wanted, desk.settings.prefix) if request.method == "GET" else desk.settings.prefix
    start = desk.sign_in.start_login(next_url)
    response = RedirectResponse(start.redirect_url, 303)
    response.set_cookie(
        desk.seal.state_cookie(start.state),
        desk.seal.seal_state(start.state),
        max_age=STATE_S,
        path=desk.settings.cookie_path,
        secure=desk.settings.secure,
        httponly=True,
        samesite="lax",
    )
    return response


def respond(
    desk: Desk, request: Request, template: str, status: int = 200, context: dict[str, object] | None = None
) -> Response:
    """Render for anyone; without `caller` in the context the page has no personal parts."""
    path = request.url.path + (f"?{request.url.query}" if request.url.query and request.method == "GET" else "")
    shared: dict[str, object] = {
        "nonce": nonce_of(request),
        "here": own_path(path, desk.settings.prefix),
        "now": desk.services.clock.now(),
        "caller": None,
        "has_session": False,
        "form_token": "",
        "may_decide": False,
        "may_administer": False,
        "refresh_s": None,
    }
    html = desk.templates.render(language_of(request), template, {**shared, **(context or {})})
    headers = {"Vary": "Cookie, Accept-Language, HX-Request"}
    return HTMLResponse(html, status, headers)


def desk_of(request: Request) -> Desk:
    desk = request.app.state.desk
    if not isinstance(desk, Desk):
        raise TypeError("the pages were built without a desk")
    return desk


def is_htmx(request: Request) -> bool:
    return request.headers.get("hx-request") == "true"


def language_of(request: Request) -> str:
    """The reader's choice, else what their browser prefers, else English."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen in locales.LANGUAGES:
        return chosen
    return locales.preferred(request.headers.get("accept-language")) or locales.DEFAULT
