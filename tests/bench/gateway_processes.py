"""The processes that `bench gateway` measures: a stub model server as light as Python allows, and the gateway on a real ledger.

`python -m tests.bench.gateway_processes stub PORT`, `… bare PORT UPSTREAM_ROOT`, `… gateway|postgresql|instant|embedded PORT
UPSTREAM_URL FOLDER DATABASE_URL`; the gateway prints its key; `instant` has a ledger that writes nothing, `embedded` sits behind the
quota service's server. A process that its parent leaves behind ends with it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any, cast

import aiohttp
import uvicorn
import uvloop

from quota.adapters.clock import SystemClock
from quota.adapters.spool_file import SpoolFile
from quota.adapters.upstreams import HttpUpstreams
from quota.api.front import Front
from quota.gateway.app import Gateway, Site, build_gateway
from quota.gateway.journal import Journal
from quota.gateway.models import Limits, Models
from quota.gateway.settings import GatewayTable
from quota.gateway.wire import WireServer
from quota.gateway_main import tune_interpreter
from quota.main import Server, server_config
from quota.service.keys import session_key
from quota.service.spooled_ledger import SpooledLedger
from quota.store.database import open_database
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.unit_of_work import SqlStore
from tests.bench.gateway_peers import Kind
from tests.bench.instant_ledger import InstantLedger
from tests.integration.gateway_service import ROOT, SECRET, found_project, open_session, stub_model

CHUNKS = 100
PACE_S = 0.01
TOKENS = 10**12
_USAGE = {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}


def _plain() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "word " * 20}, "finish_reason": "stop"}
    body = json.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "stub", "choices": [choice], "usage": _USAGE}
    )
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def _event(chunk: object) -> bytes:
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def _streamed() -> list[bytes]:
    """A head, a hundred pieces of a hundred bytes, the report and the end, each to be written by itself."""
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "stub"}
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    delta = {"index": 0, "delta": {"content": " word"}, "finish_reason": None}
    pieces = [_event({**frame, "choices": [delta]}) for _ in range(CHUNKS)]
    done = b"data: [DONE]\n\n"
    ends = [_event({**frame, "choices": [], "usage": _USAGE}), b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done)]
    return [head, *pieces, *ends]


class StubProtocol(asyncio.Protocol):
    """Answers each request at once; streamed where its body says so."""

    PLAIN = _plain()
    STREAMED = _streamed()

    def __init__(self) -> None:
        self._waiting = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while (end := self._waiting.find(b"\r\n\r\n")) >= 0:
            head = self._waiting[:end].lower()
            size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            if len(self._waiting) < end + 4 + size:
                return
            body = self._waiting[end + 4 : end + 4 + size]
            self._waiting = self._waiting[end + 4 + size :]
            assert self._transport is not None
            if b'"user":"paced"' in body:
                self._pace(list(self.STREAMED))
            elif b'"stream":true' in body:
                for piece in self.STREAMED:
                    self._transport.write(piece)
            else:
                self._transport.write(self.PLAIN)

    def _pace(self, pieces: list[bytes]) -> None:
        """A piece every ten milliseconds, as a fast model writes."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(pieces.pop(0))
        if pieces:
            asyncio.get_running_loop().call_later(PACE_S, self._pace, pieces)


async def bare(port: int, root: str) -> None:
    """The least that passes a request on: no key, no accounting."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        headers = {"content-type": "application/json"}
        async with session.post(root + scope["path"], data=b"".join(pieces), headers=headers) as answer:
            shown = [(b"content-type", answer.headers["Content-Type"].encode())]
            if "Content-Length" in answer.headers:
                shown.append((b"content-length", answer.headers["Content-Length"].encode()))
            await send({"type": "http.response.start", "status": answer.status, "headers": shown})
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        config = uvicorn.Config(app, host="127.0.0.1", port=port, lifespan="off", access_log=False, log_config=None)
        await uvicorn.Server(config).serve()


async def stub(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(StubProtocol, "127.0.0.1", port)
    await server.serve_forever()


async def gateway(port: int, upstream: str, folder: Path, kind: Kind, url: str) -> None:
    database = open_database(url)
    migrate(database)
    limits = Limits(context_tokens=4096, default_output_tokens=512, template_tokens=64, message_tokens=8)
    async with LedgerStore(database) as ledger, HttpUpstreams({"127.0.0.1"}) as upstreams:
        store = SqlStore(database)
        person, project = await store.write(lambda tx: found_project(tx, TOKENS))
        session = await open_session(ledger, person, project)
        kept = SpooledLedger(InstantLedger(ledger) if kind is Kind.INSTANT else ledger, SpoolFile(folder / "spool"))
        site = Site(
            ledger=kept, store=store, clock=SystemClock(), session_key_secret=SECRET,
            models=Models([stub_model(upstream, limits=limits)]), upstreams=upstreams, table=GatewayTable(),
            shared=kind is Kind.POSTGRESQL, journal=Journal(folder / "gateway"),
        )  # fmt: skip
        app = build_gateway(site)
        print(session_key(SECRET, session), flush=True)
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await (_embedded if kind is Kind.EMBEDDED else _on_wire)(app, port, stopped)
        await app.close(1)


async def _on_wire(app: Gateway, port: int, stopped: asyncio.Event) -> None:
    server = WireServer(app.handle, ROOT)
    await server.open("127.0.0.1", port)
    await stopped.wait()
    server.close()


async def _embedded(app: Gateway, port: int, stopped: asyncio.Event) -> None:
    server = Server(server_config(Front({ROOT: app}), port))
    serving = asyncio.create_task(server.serve())
    await stopped.wait()
    server.stop()
    await serving


if __name__ == "__main__":
    if sys.argv[1] == "stub":
        uvloop.run(stub(int(sys.argv[2])))
    elif sys.argv[1] == "bare":
        uvloop.run(bare(int(sys.argv[2]), sys.argv[3]))
    else:
        tune_interpreter()  # as the real process does
        uvloop.run(gateway(int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), Kind(sys.argv[1]), sys.argv[5]))
