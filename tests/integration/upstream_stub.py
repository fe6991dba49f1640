"""A model server for tests that says what it is told to: a real HTTP server on 127.0.0.1, well-behaved or hostile.

A script writes the answer's bytes itself, so that anything can be said: usage that is missing, negative, late or split over pieces, an
answer that stops in the middle, a server that never answers. `Stub.requests` keeps what arrived.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


@dataclass
class Asked:
    """A request as it arrived; `hung_up` is set when the gateway closes the connection."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter = field(repr=False)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(
        self, content_type: str, *, status: str = "200 OK", extra: str = "", length: int | None = None
    ) -> None:
        """Start an answer; without a length it ends with the connection."""
        size = f"Content-Length: {length}\r\n" if length is not None else "Connection: close\r\n"
        await self.write(f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{size}{extra}\r\n".encode())

    async def json(self, body: object, *, status: str = "200 OK", extra: str = "") -> None:
        """A whole JSON answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.head("application/json", status=status, extra=extra, length=len(data))
        await self.write(data)

    async def events(self, *chunks: object, end: str = "data: [DONE]\n\n") -> None:
        """A whole streamed answer."""
        await self.head("text/event-stream")
        for chunk in chunks:
            await self.write(event(chunk))
        await self.write(end.encode())


Script = Callable[[Asked], Awaitable[None]]


def event(chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def piece(text: str, finish: str | None = None, **more: object) -> dict[str, object]:
    """A chunk of a streamed conversation."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def report(usage: object = USAGE) -> dict[str, object]:
    """The usage-only chunk."""
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage}


def whole(text: str = "one two three", usage: object = USAGE, **more: object) -> dict[str, object]:
    """A plain answer; without usage where it is None."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **more}
    return body if usage is None else {**body, "usage": usage}


async def well_behaved(asked: Asked) -> None:
    """Seven tokens, reported; streamed where that was asked for."""
    if not asked.body.get("stream"):
        await asked.json(whole())
        return
    await asked.events(*[piece(f"{number} ") for number in range(6)], piece("6", "stop"), report())


class Stub:
    """The running server; set `script` to change what it says."""

    def __init__(self) -> None:
        self.script: Script = well_behaved
        self.requests: list[Asked] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                continue
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"{}")
        asked = Asked(lines[0].split(" ")[1], headers, body, writer)
        self.requests.append(asked)
        watcher = asyncio.create_task(_watch(reader, asked))
        script = asyncio.create_task(_run(self.script, asked))
        try:
            await asyncio.wait({watcher, script}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hung_up = watcher.done()
            for task in (watcher, script):
                task.cancel()
            await asyncio.gather(watcher, script, return_exceptions=True)
        return False if hung_up else not asked.writer.is_closing() and "close" not in headers.get("connection", "")


async def _run(script: Script, asked: Asked) -> None:
    try:
        await script(asked)
    except ConnectionError:
        return
    # Without a length the answer ends with the connection.
    asked.writer.close()


async def _watch(reader: asyncio.StreamReader, asked: Asked) -> None:
    """The client sends nothing while it waits: whatever comes is its end."""
    await reader.read(1)
    asked.hung_up.set()


@asynccontextmanager
async def stub_server(script: Script = well_behaved, tls: ssl.SSLContext | None = None) -> AsyncIterator[Stub]:
    """A stub on a free port; over TLS where it gets a certificate."""
    stub = Stub()
    stub.script = script
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(stub.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    stub.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield stub
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
