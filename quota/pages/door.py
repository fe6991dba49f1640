"""The pages' session cookie as a way into the REST API: the `cookie_door` of quota.api.principals.

Reading needs the cookie. An unsafe request needs the session's form token in `X-Commons-Token`, too, and a same-origin
`Sec-Fetch-Site` or `Origin`, as the pages' own forms do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request

from quota.domain.errors import Forbidden
from quota.pages.desk import PageSettings, SignIn
from quota.pages.guard import check_same_origin
from quota.pages.session import CookieSeal
from quota.pages.visit import signed_in
from quota.service.callers import Caller
from quota.service.services import Services

TOKEN_HEADER: Final = "x-commons-token"  # noqa: S105  a header's name
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def cookie_door(
    services: Services, sign_in: SignIn, settings: PageSettings
) -> Callable[[Request, bool], Awaitable[Caller | None]]:
    """A function from a request (and whether to ask the hub anew) to the caller; None without a session."""
    seal = CookieSeal(settings.cookie_key, settings.cookie_prefix)

    async def door(request: Request, fresh: bool) -> Caller | None:
        unsafe = request.method not in _SAFE
        if unsafe:
            check_same_origin(request)
        known = await signed_in(services, sign_in, seal, request, fresh=fresh or unsafe)
        if known is None:
            return None
        session, caller = known
        if unsafe and not session.form_token_is(request.headers.get(TOKEN_HEADER, "")):
            raise Forbidden(code="cross_site")
        return caller

    return door
