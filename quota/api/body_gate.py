"""The gate before the API: size, content type and strict JSON, checked before a route sees a body. The parts of an upload pass it.

Invariant: behind the gate a body is empty or one JSON object in UTF-8 (RFC 8259) of at most 1 MiB, without repeated keys,
without NaN or infinities, without characters that a database cannot store; addresses carry no control characters either.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quota.api.errors import error_response, field_params, translate_for

LIMIT_BYTES: Final = 1024 * 1024
BODY_DEADLINE_S: Final = 30.0
_DEPTH_MAX: Final = 20
RAW_BODY: Final = re.compile(r"/exchange/uploads/[^/]+\Z")
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_CONTROL_BYTES: Final = re.compile(rb"[\x00-\x1f\x7f]")


class Rejected(Exception):
    """The request does not pass; `code` and `fields` say why."""

    def __init__(self, code: str, fields: list[tuple[str, str]] | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.fields = fields


class BodyGate:
    """ASGI middleware; what passes is handed on byte by byte as it came."""

    def __init__(self, app: ASGIApp, deadline_s: float = BODY_DEADLINE_S) -> None:
        self._app = app
        self._deadline_s = deadline_s

    async def _read(self, request: Request, receive: Receive) -> bytes:
        """The body; a client that sends it drop by drop holds a connection for `deadline_s` and no longer."""
        try:
            async with asyncio.timeout(self._deadline_s):
                return await _read(request, receive)
        except TimeoutError:
            raise Rejected("too_slow") from None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            check_address(scope)
            if scope["method"] == "PATCH" and RAW_BODY.search(scope["path"]):
                await self._app(scope, receive, send)  # bytes, which the route counts as they come
                return
            body = await self._read(request, receive)
            if body:
                _check_content_type(request.headers.get("content-type", ""))
                check_json(body)
        except Rejected as rejected:
            params: dict[str, object] = {"limit_bytes": LIMIT_BYTES} if rejected.code == "too_large" else {}
            if rejected.fields is not None:
                params = field_params(rejected.fields, translate_for(request))
            # Closing spares reading the rest of a body that nobody will look at.
            response = error_response(request, rejected.code, params, {"Connection": "close"})
            await response(scope, receive, send)
            return
        await self._app(scope, _again(body, receive), send)


def check_address(scope: Scope) -> None:
    """Raises Rejected for control characters or broken UTF-8 in path and query."""
    raw_path = scope.get("raw_path") or scope["path"].encode()
    for name, raw, code in (("path", raw_path, "unknown_route"), ("query", scope["query_string"], "invalid_request")):
        decoded = unquote_to_bytes(bytes(raw))
        try:
            decoded.decode("utf-8")
        except UnicodeDecodeError:
            raise Rejected(code, [(name, "not_utf8")] if code == "invalid_request" else None) from None
        if _CONTROL_BYTES.search(decoded):
            raise Rejected(code, [(name, "not_utf8")] if code == "invalid_request" else None)


def check_json(body: bytes) -> None:
    """Raises Rejected unless `body` is one strict JSON object."""
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError):  # not UTF-8, not JSON, an integer of thousands of digits, nested too deep
        raise Rejected("invalid_json") from None
    if not isinstance(value, dict):
        raise Rejected("invalid_request", [("body", "wrong_type")])
    _check_text(value, "", 0)


def _check_text(value: Any, path: str, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise Rejected("invalid_json")
    if isinstance(value, str):
        if _FORBIDDEN.search(value):
            raise Rejected("invalid_request", [(path or "body", "not_utf8")])
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_text(key, path, depth)
            _check_text(inner, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_text(inner, f"{path}.{number}", depth + 1)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _check_content_type(header: str) -> None:
    kind, _, rest = header.partition(";")
    charset = rest.strip().lower().replace('"', "")
    if kind.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise Rejected("invalid_json")


async def _read(request: Request, receive: Receive) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > LIMIT_BYTES:
        raise Rejected("too_large")
    chunks, size, more = [], 0, True
    while more:  # bounded by the limit
        message = await receive()
        if message["type"] != "http.request":
            raise Rejected("invalid_json")  # the client went away
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > LIMIT_BYTES:
            raise Rejected("too_large")
        more = message.get("more_body", False)
    return b"".join(chunks)


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body that was read, then what follows it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
