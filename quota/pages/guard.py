"""What keeps the pages safe in a browser: response headers, the same-origin check, paths that `next` may name, bounded forms.

Invariant: no inline script or style ever runs (no 'unsafe-inline'; scripts need the response's nonce), what others wrote has no origin and no scripts,
nothing frames a page,
and no unsafe request is answered that another site sent.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quota.domain.errors import Forbidden, Invalid

FORM_BYTES_MAX: Final = 100_000
FORM_FIELDS_MAX: Final = 50
FORM_DEADLINE_S: Final = 30.0
FORM_TYPE: Final = "application/x-www-form-urlencoded"

_CSP: Final = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; font-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
FOREIGN: Final = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; frame-ancestors 'none'"
)
"""The policy of a page that others wrote: no script runs, and its origin is none, so that it reaches nothing of ours."""
_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class SafeHeaders:
    """ASGI wrapper outside everything else, so that the last-resort error page carries the headers, too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        nonce = secrets.token_urlsafe(16)
        scope["state"] = {**scope.get("state", {}), "nonce": nonce}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("Content-Security-Policy") != FOREIGN:
                    headers["Content-Security-Policy"] = _CSP.format(nonce=nonce)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers)


def nonce_of(request: Request) -> str:
    """The nonce that this response's scripts carry."""
    return str(request.state.nonce)


def check_same_origin(request: Request) -> None:
    """Raises Forbidden('cross_site') unless the browser says that the request comes from a page of this origin."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None and site != "same-origin":
        raise Forbidden(code="cross_site")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Forbidden(code="cross_site")
    if site is None and origin is None:
        raise Forbidden(code="cross_site")


def own_path(wanted: str | None, prefix: str) -> str:
    """`wanted` where it is a path below `prefix` and nothing cleverer; else `prefix`."""
    if not wanted or len(wanted) > 1000 or not wanted.isascii() or not wanted.isprintable():
        return prefix
    parts = urlsplit(wanted)
    path = unquote(parts.path)
    tricks = "\\" in wanted or "//" in path or "\\" in path or "/../" in f"{path}/" or "/./" in f"{path}/"
    if parts.scheme or parts.netloc or tricks or not path.startswith(prefix):
        return prefix
    return wanted


class TooLarge(Exception):
    """A form beyond FORM_BYTES_MAX."""


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, each name's last value, line ends as '\\n'. Raises Invalid and TooLarge."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_DEADLINE_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > FORM_BYTES_MAX:
                    raise TooLarge
    except TimeoutError:
        raise Invalid([("form", "malformed")]) from None
    if body and content_type != FORM_TYPE:
        raise Invalid([("form", "malformed")])
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FORM_FIELDS_MAX)
    except ValueError as error:  # UnicodeDecodeError among them
        raise Invalid([("form", "malformed")]) from error
    return {name: value.replace("\r\n", "\n").replace("\r", "\n") for name, value in pairs}
