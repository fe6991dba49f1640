"""One HTTP exchange: the body in, the answer out, and whether the client is still there.

Invariant: exactly one complete answer is sent, or none once the client has left. Two ways lead here: `AsgiExchange` where the gateway
shares a server with the pages, `quota.gateway.wire` where it has one of its own.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from quota.gateway import denials
from quota.gateway.deadlines import Deadline
from quota.gateway.denials import Denied, lines_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON_LINE: Final = b"content-type: application/json\r\n"
_EVENTS: Final = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
)


ANTHROPIC_PATH = "/v1/messages"


class ClientLeft(Exception):
    """The client closed the connection."""


class Exchange(ABC):
    """What the gateway knows of a request beside its body, and the ways to answer it."""

    waits_for_reader = False  # whether the end of an answer may have to wait until its client takes it

    def __init__(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        self.method = method
        self.path = path
        self.anthropic = path.startswith(ANTHROPIC_PATH)
        self.left = False
        self.stopping = False  # the gateway stops: what is not delivered by now will not be
        self.started = False
        self.over = False
        self.header = headers.get  # by its name in small letters
        self._relaying: Deadline | None = None

    @abstractmethod
    async def body(self, limit_bytes: int, deadline_s: int) -> bytes | Denied:
        """The request's body. Raises ClientLeft."""

    @abstractmethod
    async def start(self, status: int, lines: bytes, length: int | None) -> None:
        """Send the head of an answer, of whose headers `lines` are the first; without `length` its pieces follow."""

    @abstractmethod
    async def piece(self, data: bytes) -> None:
        """Send a piece of a streamed answer."""

    @abstractmethod
    async def end(self, data: bytes = b"") -> None:
        """Send the last bytes of an answer."""

    def client_left(self) -> None:
        """Cut the relay, if one runs."""
        if self.over or self.left:
            return
        self.left = True
        self.cut()

    def cut(self) -> None:
        """End the relay now, if one runs."""
        if self._relaying is not None:
            self._relaying.cut()

    def relaying(self, deadline: Deadline | None) -> None:
        """Name the deadline that ends when the client leaves; None when the relay is over."""
        self._relaying = deadline
        if self.left or self.stopping:
            self.cut()

    async def start_events(self, lines: bytes) -> None:
        self.started = True
        await self.start(200, _EVENTS + lines, None)

    async def answer(self, status: int, body: bytes, lines: bytes = b"") -> None:
        """Send a whole JSON answer."""
        self.started = True
        await self.start(status, JSON_LINE + lines, len(body))
        await self.end(body)

    async def deny(self, denied: Denied, lines: bytes = b"") -> None:
        await self.answer(denied.status, denied.body(anthropic=self.anthropic), lines_of(denied.headers) + lines)

    def unusable_body(self, limit_bytes: int) -> Denied | None:
        """Why the body cannot be taken, by what the head says."""
        if self.header(b"content-encoding") not in (None, b"identity"):
            return denials.bad_request("Send the body uncompressed.")
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced[:20]) > limit_bytes:
            return denials.too_large(limit_bytes)
        return None


class AsgiExchange(Exchange):
    """Over ASGI: `until_over` returns when the answer is complete or the client is gone, since the server says `http.disconnect` for
    both (ASGI HTTP 2.3)."""

    waits_for_reader = True

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        super().__init__(scope["method"], path, dict(scope["headers"]))
        self._receive = receive
        self._send = send

    async def body(self, limit_bytes: int, deadline_s: int) -> bytes | Denied:
        """The request's body. Raises ClientLeft."""
        unusable = self.unusable_body(limit_bytes)
        if unusable is not None:
            return unusable
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

    async def start(self, status: int, lines: bytes, length: int | None) -> None:
        if length is not None:
            lines += b"content-length: %d\r\n" % length
        headers = [tuple(line.split(b": ", 1)) for line in lines.split(b"\r\n")[:-1]]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        self.over = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
