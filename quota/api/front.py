"""The process's front door: one ASGI application that hands each request to the part whose path it is, and logs it.

Invariant: the access log carries method, path, status and time; never a query string, a header or a body.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quota.api.errors import error_response

log = logging.getLogger("quota.access")


class Front:
    """Dispatches by path prefix, the longest first; a mounted part sees its prefix as `root_path` (ASGI)."""

    def __init__(self, mounts: Mapping[str, ASGIApp]) -> None:
        self._mounts = sorted(mounts.items(), key=lambda mount: -len(mount[0]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        path = scope["path"]
        for prefix, app in self._mounts:
            if path == prefix or path.startswith(f"{prefix}/"):
                await app({**scope, "root_path": prefix}, receive, send)
                return
        await error_response(Request(scope), "unknown_route", {})(scope, receive, send)


class AccessLog:
    """One line a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            took_ms = (time.monotonic() - began_s) * 1000
            path = ascii(scope["path"])[1:-1][:200]
            log.info("%s %s %s %.1f ms", scope["method"], path, status, took_ms)
