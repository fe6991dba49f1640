"""Errors as pages in the same layout: what happened, why, what next. Never a stack trace, never a false zero."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from quota.domain.errors import (
    Forbidden,
    IdConflict,
    Invalid,
    QuotaError,
    Unavailable,
    Unknown,
    WrongState,
)
from quota.pages.visit import Visit, desk_of, respond, signed_in
from quota.service.callers import IdentityPending

_LOG = logging.getLogger(__name__)
_STATUS: Final[tuple[tuple[type[QuotaError], int], ...]] = (
    (Unknown, 404),
    (Forbidden, 403),
    (Invalid, 400),
    (IdConflict, 409),
    (WrongState, 409),
    (Unavailable, 503),
)
_PENDING_REFRESH_S: Final = 3


async def quota_error(request: Request, error: Exception) -> Response:
    """An error of the service, with its own words."""
    if not isinstance(error, QuotaError):
        raise error
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status is None:
        return await unexpected(request, error)
    headers: dict[str, str] = {}
    refresh_s = None
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, IdentityPending) and request.method == "GET":
        refresh_s = _PENDING_REFRESH_S
        headers["Refresh"] = str(refresh_s)
    return await _page(request, status, error.code, error.params, headers, refresh_s=refresh_s)


async def http_error(request: Request, error: Exception) -> Response:
    """404 and 405 of the router."""
    if not isinstance(error, HTTPException):
        raise error
    codes = {404: "unknown_page", 405: "wrong_method"}
    headers = dict(error.headers or {})
    return await _page(request, error.status_code, codes.get(error.status_code, "invalid_request"), {}, headers)


async def too_large(request: Request, error: Exception) -> Response:
    return await _page(request, 413, "too_large", {"limit_bytes": "100,000"}, {"Connection": "close"})


async def unexpected(request: Request, error: Exception) -> Response:
    """Anything else: logged with an id that the page shows."""
    incident = secrets.token_hex(4)
    _LOG.error("incident %s at %s %s", incident, request.method, request.url.path, exc_info=error)
    return await _page(request, 500, "internal", {"incident": incident}, {})


async def _page(
    request: Request,
    status: int,
    code: str,
    params: Mapping[str, object],
    headers: Mapping[str, str],
    *,
    refresh_s: int | None = None,
) -> Response:
    context = await _reader(request)
    context |= {"status": status, "code": code, "params": params, "refresh_s": refresh_s}
    response = respond(desk_of(request), request, "error.html", status, context)
    response.headers.update(headers)
    return response


async def _reader(request: Request) -> dict[str, object]:
    """What the layout shows of the reader, also where nobody asked yet who they are (an unknown address).

    Where that cannot be said just now the navigation stays for whoever has a session of ours, without a name.
    """
    visit = getattr(request.state, "visit", None)
    if isinstance(visit, Visit):
        return visit.personal
    desk = desk_of(request)
    session = desk.seal.open_session(request.cookies.get(desk.seal.session_cookie))
    if session is None:
        return {}
    try:
        known = await signed_in(desk.services, desk.sign_in, desk.seal, request, fresh=False)
    except QuotaError:
        return {"has_session": True}
    return Visit(request, desk, *known).personal if known is not None else {}
