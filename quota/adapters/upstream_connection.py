"""One connection to a model server and the answer that comes over it (HTTP/1.1, parsed by httptools).

Invariants: a connection carries one request at a time and is kept only where its answer was read to the end and the server wants to
go on; what is no HTTP, too large a head, or a compressed body ends it. The reader's pace holds the server back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final, cast

import httptools

from quota.service.upstreams import Interrupted, TimedOut, TooLarge

_HEAD_BYTES_MAX: Final = 32 * 1024
_BUFFER_BYTES_MAX: Final = 256 * 1024


class HttpAnswer:
    """An answer on its way. Made by `Connection.ask`; `begun` returns once its head is here."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def content_type(self) -> str:
        return _media_type(self.headers.get(b"content-type", b""))

    @property
    def retry_after(self) -> str | None:
        raw = self.headers.get(b"retry-after")
        return None if raw is None else raw.decode("latin-1")

    async def begun(self) -> None:
        """Wait for the head. Raises Interrupted, TimedOut."""
        while not self.status:
            if self._error is not None:
                raise self._error
            # Written out here and in `next_piece`: a method would be a coroutine more a request.
            self._waiter = self._connection.loop.create_future()
            await self._waiter

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises TooLarge, Interrupted, TimedOut."""
        pieces, size = [], 0
        while True:
            piece = await self.next_piece()
            size += len(piece)
            if size > limit_bytes:
                raise TooLarge(f"more than {limit_bytes} bytes")
            pieces.append(piece)
            if self.complete and not self._pieces:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def next_piece(self) -> bytes:
        """What has come since the last piece; empty at the end. Raises Interrupted, TimedOut."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.complete:
                return b""
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        pieces, self._pieces = self._pieces, []
        if self._size_bytes > _BUFFER_BYTES_MAX:
            self._connection.go_on()
        self._size_bytes = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """End the exchange: the connection is kept after a whole body and cut otherwise, so that the server stops working."""
        if not self._closed:
            self._closed = True
            self._connection.done_with(self)

    # -- from the connection ----------------------------------------------------------------------------------------------------

    def head_came(self, status: int) -> None:
        self.status = status
        self.wake()

    def body_came(self, piece: bytes) -> None:
        """Take a piece; `told` follows once all that came with it is here."""
        self._pieces.append(piece)
        self._size_bytes += len(piece)

    def told(self) -> bool:
        """Wake the reader where something is there for it; whether it lags behind."""
        if self._pieces:
            self.wake()
        return self._size_bytes > _BUFFER_BYTES_MAX

    def ended(self) -> None:
        self.complete = True
        self.wake()

    def failed(self, error: Exception) -> None:
        if not self.complete and self._error is None:
            self._error = error
            self.wake()

    def wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _size_bytes(headers: dict[bytes, bytes]) -> int:
    return sum(len(name) + len(value) for name, value in headers.items())


@lru_cache(maxsize=64)
def _media_type(content_type: bytes) -> str:
    """Without parameters; servers have a few that they send over and over."""
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


class Connection(asyncio.Protocol):
    """A protocol of asyncio; also the parser's listener."""

    def __init__(self, place: object, release: Callable[[Connection], None], registered: set[Connection]) -> None:
        self.place = place
        self.loop = asyncio.get_running_loop()  # asking for it is a system call before Python 3.12
        self.idle_since_s = 0.0
        self._release = release
        self._registered = registered
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)  # a kept connection's is at the beginning of an answer again
        self._answer: HttpAnswer | None = None
        self._head_bytes = 0
        self._ends_with_connection = False
        self._keeps = False
        self._idle_deadline_s: float | None = None
        self._heard_s = 0.0
        self._watch: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self._answer is None

    def ask(self, request: bytes, idle_deadline_s: float | None) -> HttpAnswer:
        """Send a request; its answer, of which nothing is here yet."""
        assert self._transport is not None
        answer = self._answer = HttpAnswer(self)
        self._head_bytes = 0
        self._ends_with_connection = True  # until the head says where the body ends
        self._keeps = False
        self._transport.write(request)
        self._idle_deadline_s = idle_deadline_s
        if idle_deadline_s is not None:
            self._heard_s = time.monotonic()
            self._watch = self.loop.call_later(idle_deadline_s, self._look)
        return answer

    def done_with(self, answer: HttpAnswer) -> None:
        """The reader is done: keep the connection where the answer was read to its end, cut it otherwise."""
        if self._answer is not answer:
            return
        self._answer = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if answer.complete and self._keeps:
            self.idle_since_s = time.monotonic()
            self._release(self)
        else:
            self.cut()

    def cut(self) -> None:
        """Close without waiting for what is left to send."""
        if self._transport is not None:
            self._transport.abort()

    def go_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _look(self) -> None:
        """End a silence that is too long; the timer is set anew only when it fires, not with every piece."""
        self._watch = None
        answer, deadline_s = self._answer, self._idle_deadline_s
        if answer is None or answer.complete or deadline_s is None:
            return
        left_s = self._heard_s + deadline_s - time.monotonic()
        if left_s > 0:
            self._watch = self.loop.call_later(left_s, self._look)
            return
        answer.failed(TimedOut("silent for too long"))
        self.cut()

    # -- asyncio.Protocol -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self._registered.add(self)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or answer.complete:
            self.cut()  # nothing was asked
            return
        if not answer.status:
            self._head_bytes += len(data)
        if self._idle_deadline_s is not None:
            self._heard_s = time.monotonic()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            answer.failed(Interrupted(type(error).__name__))
            self.cut()
            return
        if not answer.status and self._head_bytes > _HEAD_BYTES_MAX:
            self._broken(answer, "a head without an end")
        elif answer.told() and self._transport is not None:
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._registered.discard(self)
        self._transport = None
        answer = self._answer
        if answer is None or answer.complete:
            return
        if answer.status and self._ends_with_connection and error is None:
            answer.ended()
        else:
            answer.failed(Interrupted("the connection was closed"))

    # -- the parser's listener --------------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is not None:
            self._answer.headers[name.lower()] = value
            self._head_bytes += 4

    def on_headers_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is None:
            return
        status = parser.get_status_code()
        if 100 <= status < 200:
            answer.headers.clear()
            return
        headers = answer.headers
        # The first counts what else came, and is at hand.
        if self._head_bytes > _HEAD_BYTES_MAX and _size_bytes(headers) > _HEAD_BYTES_MAX:
            self._broken(answer, "too large a head")
        elif headers.get(b"content-encoding", b"identity") != b"identity":
            self._broken(answer, "a compressed body that was not asked for")
        else:
            chunked = b"chunked" in headers.get(b"transfer-encoding", b"").lower()
            self._ends_with_connection = not chunked and b"content-length" not in headers
            self._keeps = parser.should_keep_alive() and not self._ends_with_connection
            answer.head_came(status)

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._answer.body_came(body)

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is not None and answer.status:
            answer.ended()

    def _broken(self, answer: HttpAnswer, why: str) -> None:
        answer.failed(Interrupted(why))
        self.cut()
