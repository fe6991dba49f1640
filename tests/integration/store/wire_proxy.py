"""A TCP proxy that reads PostgreSQL's frontend protocol (version 3) and cuts a connection at the COMMIT of a ledger batch.

Each message after the start-up is a type byte, a length and a body; a statement comes as Query ('Q'), or as Parse ('P') with a name
under which Bind ('B') runs it. A batch is a transaction that adds a link to the ledger's chain: other COMMITs pass.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

_LINK: Final = b"INSERT INTO ledger_link"
_SSL_REQUEST: Final = 80877103
_GSS_REQUEST: Final = 80877104
_COMMITTED: Final = b"C\x00\x00\x00\x0bCOMMIT\x00"
_ANSWER_WITHIN_S: Final = 120


class Cut(StrEnum):
    REPLY = "reply"  # COMMIT is forwarded and answered; the answer is dropped with the connection
    SENT = "sent"  # COMMIT is forwarded and the connection dropped at once: it may or may not count
    COMMIT = "commit"  # COMMIT is dropped with the connection: it does not count


@dataclass
class Cutter:
    """Cuts every `every`-th batch's COMMIT, in the ways of `ways` by turns."""

    every: int
    ways: tuple[Cut, ...]
    batches: int = 0
    cuts: dict[Cut, int] = field(default_factory=dict)

    def next(self) -> Cut | None:
        """What to do with this batch's COMMIT."""
        self.batches += 1
        if self.batches % self.every:
            return None
        way = self.ways[sum(self.cuts.values()) % len(self.ways)]
        self.cuts[way] = self.cuts.get(way, 0) + 1
        return way


class WireProxy:
    """Listens on a free port of 127.0.0.1 and forwards to the server's; an asynchronous context manager."""

    def __init__(self, server_port: int, cutter: Cutter) -> None:
        self._server_port = server_port
        self._cutter = cutter
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> WireProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        back = asyncio.ensure_future(_backwards(server_reader, writer))

        async def answered() -> None:
            """Let the server say that it committed, and the client not hear it."""
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            said = b""
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                while _COMMITTED not in said:
                    data = await server_reader.read(65536)
                    assert data, "the server hung up instead of committing"
                    said += data

        try:
            await _Forwards(reader, server_writer, self._cutter, answered).run()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # either end hung up
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            for one in (server_writer, writer):
                one.close()
                with suppress(ConnectionError):
                    await one.wait_closed()


async def _backwards(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


class _Forwards:
    """One connection's way from client to server."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        cutter: Cutter,
        answered: Callable[[], Awaitable[None]],
    ) -> None:
        self._reader = reader
        self._server = server
        self._cutter = cutter
        self._answered = answered
        self._linking: set[bytes] = set()  # names of prepared statements that add a link
        self._committing: set[bytes] = set()  # and of those that commit
        self._linked = False

    async def run(self) -> None:
        """Until the client hangs up or the connection is cut."""
        await self._start_up()
        while True:  # ends by IncompleteReadError, or with a cut
            kind, body = await self._message()
            if self._commits(kind, body) and self._linked:
                self._linked = False
                way = self._cutter.next()
                if way is not None:
                    await self._cut(way, kind, body)
                    return
            await self._forward(kind, body)

    async def _start_up(self) -> None:
        while True:  # ends with the start-up message proper
            (length,) = struct.unpack("!I", await self._reader.readexactly(4))
            body = await self._reader.readexactly(length - 4)
            self._server.write(struct.pack("!I", length) + body)
            await self._server.drain()
            if struct.unpack_from("!I", body)[0] not in (_SSL_REQUEST, _GSS_REQUEST):
                return

    async def _message(self) -> tuple[bytes, bytes]:
        head = await self._reader.readexactly(5)
        return head[:1], await self._reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)

    async def _forward(self, kind: bytes, body: bytes) -> None:
        self._server.write(kind + struct.pack("!I", len(body) + 4) + body)
        await self._server.drain()

    def _commits(self, kind: bytes, body: bytes) -> bool:
        """Whether this message commits; on the way, what it says about links is remembered."""
        if kind == b"Q":
            self._linked = self._linked or _LINK in body
            return body.rstrip(b"\0; ").upper() == b"COMMIT"
        if kind == b"P":
            name, _, rest = body.partition(b"\0")
            query = rest.partition(b"\0")[0]
            for names, found in ((self._linking, _LINK in query), (self._committing, query.upper() == b"COMMIT")):
                (names.add if found else names.discard)(name)
        if kind == b"B":
            name = body.split(b"\0", 2)[1]
            self._linked = self._linked or name in self._linking
            return name in self._committing
        return False

    async def _cut(self, way: Cut, kind: bytes, body: bytes) -> None:
        if way is Cut.COMMIT:
            return
        answered = asyncio.ensure_future(self._answered()) if way is Cut.REPLY else None
        await self._forward(kind, body)
        while kind not in (b"Q", b"S"):  # the rest of an extended query, up to its Sync
            kind, body = await self._message()
            await self._forward(kind, body)
        if answered is not None:
            await answered
