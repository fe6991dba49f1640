"""The gateway's own HTTP/1.1 server: a protocol of asyncio over httptools, for gateways that are processes of their own.

Invariants: one request of a connection is worked on at a time, the others wait in order; a head is bounded in size and time, a body
in size; whoever closes the connection is gone, and what was relayed to them is cut and settled; so is whoever takes nothing of what is
sent to them. Answers go out in one write where they are whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, cast

import httptools

from quota.gateway import denials
from quota.gateway.denials import Denied
from quota.gateway.exchange import JSON_LINE, ClientLeft, Exchange

HEAD_BYTES_MAX: Final = 32 * 1024
_WAITING_MAX: Final = 8
_UNASKED_BYTES_MAX: Final = 2**20  # of a body that nobody has asked for yet
_STATUS: Final = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in HTTPStatus}
_CHUNKED: Final = b"transfer-encoding: chunked\r\n"
_METHODS: Final = {b"GET": "GET", b"POST": "POST"}
_PATHS_MAX: Final = 256
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_BAD: Final = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_FRAMED: Final = 3  # most bytes that may come for one of a body in chunks
_LONG_HEAD: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LATE: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

Handle = Callable[[Exchange], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may be silent, and how late that may be noticed."""

    head_s: float = 30.0  # until its first head is whole
    idle_s: float = 75.0  # between an answer and the next head; while answers wait for it to read
    sweep_s: float = 1.0


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all connections of a server have in common; the paths are those seen so far."""

    handle: Handle
    root: bytes
    patience: Patience
    paths: dict[bytes, str]
    registered: set[Connection]


class WireExchange(Exchange):
    """A request on a connection; its body is fed while it arrives."""

    def __init__(self, connection: Connection, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        super().__init__(method, path, headers)
        self.keep = True  # whether the connection goes on after the answer
        self.http_10 = False
        self.whole = False  # the body is here
        self._connection = connection
        self._pieces: list[bytes] = []
        self.size_bytes = 0
        self._limit_bytes: int | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._chunked = False
        self._head = b""

    async def body(self, limit_bytes: int, deadline_s: int) -> bytes | Denied:
        unusable = self.unusable_body(limit_bytes)
        if unusable is not None:
            return unusable
        self._limit_bytes = limit_bytes
        if not self.whole and self.size_bytes <= limit_bytes:
            self._connection.go_on()
            if self.header(b"expect") is not None:
                self._connection.write(_CONTINUE)
            self._arrived = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(deadline_s):
                    await self._arrived
            except TimeoutError:
                return denials.too_slow()
        if self.left:
            raise ClientLeft
        if self.size_bytes > limit_bytes:
            return denials.too_large(limit_bytes)
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def fed(self, piece: bytes) -> bool:
        """Take a piece of the body; False where there is too much already."""
        self.size_bytes += len(piece)
        limit = self._limit_bytes
        if limit is not None and self.size_bytes > limit:
            self._wake()
            return False
        self._pieces.append(piece)
        return self.size_bytes <= (limit if limit is not None else _UNASKED_BYTES_MAX)

    def completed(self) -> None:
        self.whole = True
        self._wake()

    def gone(self) -> None:
        """The client closed the connection."""
        self.client_left()
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def start(self, status: int, lines: bytes, length: int | None) -> None:
        head = self._head_of(status, lines, length)
        if length is None:
            self._connection.write(head)
        else:
            self._head = head  # goes out with the body

    async def answer(self, status: int, body: bytes, lines: bytes = b"") -> None:
        """Send a whole JSON answer, in one write."""
        self.started = self.over = True
        head = self._head_of(status, JSON_LINE + lines, len(body))
        self._connection.write(head + body if self.method != "HEAD" else head)
        self._connection.finished(self)

    def _head_of(self, status: int, lines: bytes, length: int | None) -> bytes:
        self.keep = self.keep and self.whole and not self.http_10
        end = b"\r\n" if self.keep else b"connection: close\r\n\r\n"
        if length is not None:
            return b"%b%bcontent-length: %d\r\n%b" % (_STATUS[status], lines, length, end)
        self._chunked = not self.http_10
        return b"%b%b%b%b" % (_STATUS[status], lines, _CHUNKED if self._chunked else b"", end)

    async def piece(self, data: bytes) -> None:
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        await self._connection.drained()

    async def end(self, data: bytes = b"") -> None:
        self.over = True
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        self._connection.write(self._head + data)
        self._connection.finished(self)


class Connection(asyncio.Protocol):
    """A protocol of asyncio; also the parser's listener."""

    def __init__(self, shared: _Shared) -> None:
        self._handle = shared.handle
        self._root = shared.root
        self._paths = shared.paths
        self._registered = shared.registered
        self._idle_s = shared.patience.idle_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._arriving: WireExchange | None = None
        self._working: WireExchange | None = None
        self._waiting: deque[WireExchange] = deque()
        self._task: asyncio.Task[None] | None = None
        self._paused: asyncio.Future[None] | None = None
        self._ends_s = self._loop.time() + shared.patience.head_s
        self._paused_s = 0.0

    # -- asyncio.Protocol -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self._registered.add(self)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(_BAD)
            return
        arriving = self._arriving
        if arriving is None:
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(_LONG_HEAD)
        elif self._head_bytes > HEAD_BYTES_MAX + _FRAMED * arriving.size_bytes:  # trailers without end
            self._refuse(b"")

    def _feed(self, data: bytes) -> None:
        """Parse. Raises HttpParserError.

        Clients that know HTTP/2 offer it with everything (Java's does), and the parser takes what follows for the other protocol's: the
        request begins again without the offer.
        """
        rest = data
        while True:
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offered:
                method, version = self._parser.get_method(), self._parser.get_http_version().encode()
                if method == b"CONNECT":
                    raise httptools.HttpParserError("no proxy") from None
                lines = [b"%b %b HTTP/%b\r\n" % (method, self._url, version)]
                lines += [b"%b: %b\r\n" % header for header in self._headers.items() if header[0] != b"upgrade"]
                self._parser = httptools.HttpRequestParser(self)
                rest = b"".join(lines) + b"\r\n" + rest[offered.args[0] :]

    def connection_lost(self, error: Exception | None) -> None:
        self._registered.discard(self)
        self._transport = None
        self.resume_writing()
        for exchange in (self._working, self._arriving, *self._waiting):
            if exchange is not None:
                exchange.gone()
        self._waiting.clear()

    def pause_writing(self) -> None:
        if self._paused is None:
            self._paused, self._paused_s = self._loop.create_future(), self._loop.time()

    def resume_writing(self) -> None:
        paused, self._paused = self._paused, None
        if paused is not None and not paused.done():
            paused.set_result(None)

    # -- the parser's listener --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._arriving is None:  # what comes behind a body says nothing here
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            return  # it begins again (`_feed`)
        method = parser.get_method()
        path = self._paths.get(self._url) or self._path()
        exchange = WireExchange(self, _METHODS.get(method) or method.decode(), path, self._headers)
        exchange.keep = parser.should_keep_alive()
        exchange.http_10 = parser.get_http_version() == "1.0"
        self._arriving = exchange
        self._head_bytes = 0
        if self._working is None:
            self._begin(exchange)
            return
        self._waiting.append(exchange)
        if len(self._waiting) >= _WAITING_MAX and self._transport is not None:
            self._transport.pause_reading()

    def on_body(self, body: bytes) -> None:
        arriving = self._arriving
        if arriving is not None and not arriving.fed(body) and self._transport is not None:
            self._transport.pause_reading()  # until the answer is out and the connection closed, or its turn has come

    def on_message_complete(self) -> None:
        arriving, self._arriving, self._head_bytes = self._arriving, None, 0
        if arriving is not None:
            arriving.completed()

    def _path(self) -> str:
        """The path that was asked for, below the gateway's root; those seen are remembered."""
        raw = self._url.partition(b"?")[0]
        path = (raw[len(self._root) :] if raw.startswith(self._root) else raw).decode("latin-1")
        if len(self._paths) < _PATHS_MAX:
            self._paths[self._url] = path
        return path

    # -- what exchanges use -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def drained(self) -> None:
        if self._paused is not None:
            await self._paused

    def go_on(self) -> None:
        """Take more of the body."""
        if self._transport is not None:
            self._transport.resume_reading()

    def finished(self, exchange: WireExchange) -> None:
        """An answer is complete: the next request, or the end of the connection."""
        if exchange is not self._working:
            return
        self._working = None
        if self._transport is None:
            return
        if not exchange.keep:
            self.close()
        elif self._waiting:
            self._transport.resume_reading()
            self._begin(self._waiting.popleft())
        else:
            self._ends_s = self._loop.time() + self._idle_s

    def close(self) -> None:
        """Send what is left and close."""
        if self._transport is not None and not self._transport.is_closing():
            self._ends_s = self._loop.time() + self._idle_s
            self._transport.close()

    def close_if_idle(self) -> None:
        if self._working is None:
            self.close()

    def close_if_late(self, now_s: float) -> None:
        """Close where nothing was asked for in time, and cut off who takes nothing of what is sent."""
        transport = self._transport
        if transport is None:
            return
        if self._paused is not None and now_s >= self._paused_s + self._idle_s:
            transport.abort()
        elif now_s >= self._ends_s:
            if transport.is_closing():  # what is left was not taken in time, either
                transport.abort()
            elif self._working is None and self._head_bytes:
                self._refuse(_LATE)
            else:
                self.close_if_idle()

    def _begin(self, exchange: WireExchange) -> None:
        self._working = exchange
        self._task = self._loop.create_task(self._handle(exchange))  # kept from being collected

    def _refuse(self, answer: bytes) -> None:
        if self._working is None:
            self.write(answer)
        self.close()


class WireServer:
    """Listens and serves; `close` lets what runs finish."""

    def __init__(self, handle: Handle, root: str, patience: Patience = Patience()) -> None:
        self._connections: set[Connection] = set()
        self._shared = _Shared(handle, root.encode(), patience, {}, self._connections)
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self._shared), host, port, backlog=4096)
        self._swept()
        return int(self._server.sockets[0].getsockname()[1])

    def _swept(self) -> None:
        """Close connections on which nothing was asked for in time: one timer for all, since setting one costs more than parsing a head."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in list(self._connections):
            connection.close_if_late(now_s)
        self._sweep = loop.call_later(self._shared.patience.sweep_s, self._swept)

    def stop_listening(self) -> None:
        """Take no more connections, and end those that wait for a request."""
        if self._sweep is not None:
            self._sweep.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close_if_idle()

    def close(self) -> None:
        """End every connection."""
        self.stop_listening()
        for connection in list(self._connections):
            connection.close()
