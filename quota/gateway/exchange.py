"""One HTTP exchange over ASGI: the body in, the answer out, and whether the client is still there.

Invariant: exactly one complete answer is sent, or none once the client has left. `until_over` returns when the answer is complete
or the client is gone: the server says `http.disconnect` for both (ASGI HTTP 2.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from quota.gateway import denials
from quota.gateway.denials import Denied, Header

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON: Header = (b"content-type", b"application/json")
_EVENTS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


ANTHROPIC_PATH = "/v1/messages"


class ClientLeft(Exception):
    """The client closed the connection."""


class Exchange:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        self.anthropic = self.path.startswith(ANTHROPIC_PATH)
        self.left = False
        self.stopping = False  # the gateway stops: what is not delivered by now will not be
        self.started = False
        self.over = False
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send = send
        self._relaying: asyncio.Timeout | None = None

    def header(self, name: bytes) -> bytes | None:
        return self._headers.get(name)

    async def body(self, limit_bytes: int, deadline_s: int) -> bytes | Denied:
        """The request's body. Raises ClientLeft."""
        if self.header(b"content-encoding") not in (None, b"identity"):
            return denials.bad_request("Send the body uncompressed.")
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced[:20]) > limit_bytes:
            return denials.too_large(limit_bytes)
        pieces, size_bytes = [], 0
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        raise ClientLeft
                    piece = message.get("body", b"")
                    size_bytes += len(piece)
                    if size_bytes > limit_bytes:
                        return denials.too_large(limit_bytes)
                    pieces.append(piece)
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError:
            return denials.too_slow()

    async def until_over(self) -> None:
        """Wait until the answer is complete or the client is gone; then what relays is cut."""
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self.client_left()

    def client_left(self) -> None:
        """Cut the relay, if one runs: its timeout expires now."""
        if self.over or self.left:
            return
        self.left = True
        self.cut()

    def cut(self) -> None:
        """End the relay now, if one runs: its timeout expires."""
        if self._relaying is not None:
            self._relaying.reschedule(asyncio.get_running_loop().time())
            self._relaying = None  # once: an expiring timeout cannot be moved

    def relaying(self, scope: asyncio.Timeout | None) -> None:
        """Name the timeout that ends when the client leaves; None when the relay is over."""
        self._relaying = scope
        if self.left or self.stopping:
            self.cut()

    async def start_events(self, headers: Iterable[Header]) -> None:
        await self._start(200, [*_EVENTS, *headers])

    async def piece(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        self.over = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
        """Send a whole JSON answer."""
        await self._start(status, [_JSON, (b"content-length", b"%d" % len(body)), *headers])
        await self.end(body)

    async def deny(self, denied: Denied, headers: Iterable[Header] = ()) -> None:
        await self.answer(denied.status, denied.body(anthropic=self.anthropic), [*denied.headers, *headers])

    async def _start(self, status: int, headers: list[Header]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
