"""Clients that say nothing, half of something, or take nothing: a real gateway process whose patience is seconds, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from quota.domain.hold import HoldKind
from quota.store.database import open_database, url_for
from quota.store.ledger import LedgerStore
from tests.integration.gateway_service import ROOT
from tests.integration.test_gateway_killed import Killed, gateway_process
from tests.integration.upstream_stub import Asked, Stub, event, piece, report, stub_server, well_behaved
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
HEAD_S, IDLE_S, BODY_S = 3.0, 3.0, 1  # a busy machine stands still for a second now and then
BUSY_S = 1.2 * (HEAD_S + IDLE_S)
LATE_S = 20.0  # of a busy machine
MANY = 800
BODY = json.dumps({"model": "stub", "messages": [{"role": "user", "content": "hello"}]}).encode()
STREAM = BODY[:-1] + b',"stream":true}'


@dataclass
class Line:
    """A connection, in raw bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    key: str
    opened_s: float  # the moment before it was opened: the gateway's patience begins later

    def request(self, body: bytes) -> bytes:
        head = f"POST {ROOT}/v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self) -> int:
        """One whole request on this connection; its status."""
        self.writer.write(self.request(BODY))
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            await self.reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
        return int(head.split(b" ")[1])

    async def rest(self, within_s: float = PATIENCE_S) -> bytes:
        """All that comes until the gateway closes."""
        async with asyncio.timeout(within_s):
            return await self.reader.read()

    async def dribble(self, data: bytes) -> None:
        """A byte now and then, for as long as somebody takes them."""
        for position in range(len(data)):
            self.writer.write(data[position : position + 1])
            await asyncio.sleep(0.1)


@dataclass
class Site:
    gateway: Killed
    stub: Stub
    folder: Path

    async def connect(self) -> Line:
        opened_s = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        return Line(reader, writer, self.gateway.key, opened_s)

    async def open_holds(self) -> int:
        database = open_database(url_for(self.folder))
        async with LedgerStore(database) as ledger:
            found = len(await ledger.open_holds(HoldKind.REQUEST))
        database.close()
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("silent")
    limits = ("--head-s", str(HEAD_S), "--idle-s", str(IDLE_S), "--body-s", str(BODY_S))
    async with stub_server() as stub, gateway_process(folder, stub.url, *limits) as process:
        yield Site(process, stub, folder)


@pytest_asyncio.fixture(loop_scope="module")
async def site(gateway: Site) -> AsyncIterator[Site]:
    yield gateway
    gateway.stub.script = well_behaved


@pytest_asyncio.fixture(loop_scope="module")
async def line(site: Site) -> AsyncIterator[Line]:
    one = await site.connect()
    yield one
    one.writer.close()


def in_time(began_s: float, limit_s: float) -> None:
    assert limit_s - 0.1 <= time.monotonic() - began_s <= limit_s + LATE_S


async def test_a_connection_on_which_nothing_comes_is_closed(line: Line) -> None:
    assert await line.rest() == b""
    in_time(line.opened_s, HEAD_S)


@pytest.mark.parametrize("dribbling", [False, True], ids=["and then nothing", "byte by byte"])
async def test_half_a_head_is_told_and_closed(line: Line, dribbling: bool) -> None:
    line.writer.write(line.request(BODY).partition(b"Host")[0])
    more = asyncio.create_task(line.dribble(b"X-Slow: " + b"y" * 500 if dribbling else b""))
    assert (await line.rest()).startswith(b"HTTP/1.1 408 ")
    in_time(line.opened_s, HEAD_S)
    more.cancel()
    await asyncio.gather(more, return_exceptions=True)


@pytest.mark.parametrize("dribbling", [False, True], ids=["and then nothing", "byte by byte"])
async def test_half_a_body_is_told_closed_and_costs_nothing(site: Site, line: Line, dribbling: bool) -> None:
    began_s, asked = time.monotonic(), len(site.stub.requests)
    large = json.dumps({"model": "stub", "prompt": "x" * 1000}).encode()
    line.writer.write(line.request(large)[:-900])
    more = asyncio.create_task(line.dribble(b"x" * 800 if dribbling else b""))
    answer = await line.rest()
    in_time(began_s, BODY_S)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive in time" in answer
    more.cancel()
    await asyncio.gather(more, return_exceptions=True)
    assert len(site.stub.requests) == asked
    assert await site.open_holds() == 0


async def asks_in_time(line: Line) -> float | None:
    """Four requests in a time longer than a head may take and than idleness: when the last began. None where this side was late itself."""
    asked_s = time.monotonic()
    for _ in range(4):
        before_s, asked_s = asked_s, time.monotonic()
        try:
            assert await line.ask() == 200
        except (asyncio.IncompleteReadError, ConnectionError):
            assert time.monotonic() - before_s > IDLE_S, "a connection that asked in time was closed"
            return None
        await asyncio.sleep(IDLE_S * 0.4)
    return asked_s


async def test_an_idle_connection_is_closed_and_one_that_asks_in_time_is_not(site: Site) -> None:
    for _ in range(50):  # on a busy machine
        line = await site.connect()
        asked_s = await asks_in_time(line)
        if asked_s is not None:
            break
        line.writer.close()
    assert asked_s is not None, "this side was late again and again"
    assert await line.rest() == b""
    in_time(asked_s, IDLE_S)
    line.writer.close()


async def test_half_a_second_head_is_told_and_closed(line: Line) -> None:
    began_s = time.monotonic()
    assert await line.ask() == 200
    line.writer.write(line.request(BODY).partition(b"Host")[0])
    assert (await line.rest()).startswith(b"HTTP/1.1 408 ")
    in_time(began_s, IDLE_S)


@pytest.mark.parametrize("more", [b"", b"POST /half-a-head"], ids=["alone", "with half a head behind it"])
async def test_a_stream_that_is_busy_is_not_closed(site: Site, line: Line, more: bytes) -> None:
    async def slowly(asked: Asked) -> None:
        await asked.head("text/event-stream")
        for number in range(20):
            await asked.write(event(piece(f"w{number} ")))
            await asyncio.sleep(BUSY_S / 20)
        await asked.write(event(report()) + b"data: [DONE]\n\n")

    site.stub.script = slowly
    began_s = time.monotonic()
    line.writer.write(line.request(STREAM) + more)
    async with asyncio.timeout(PATIENCE_S):
        answer = await line.reader.readuntil(b"0\r\n\r\n")
    assert time.monotonic() - began_s > BUSY_S - 0.5
    assert answer.count(b'"content"') == 20
    assert b"[DONE]" in answer


async def test_a_plain_answer_that_takes_long_is_not_cut(site: Site, line: Line) -> None:
    async def late(asked: Asked) -> None:
        await asyncio.sleep(HEAD_S + IDLE_S + 0.5)
        await well_behaved(asked)

    site.stub.script = late
    assert await line.ask() == 200


async def test_many_silent_connections_starve_nobody(site: Site) -> None:
    silent = [await site.connect() for _ in range(MANY)]
    for one in silent[::2]:
        one.writer.write(b"POST /v1/half HTTP/1.1\r\n")
    took_s = []
    while any(not one.reader.at_eof() for one in silent):
        other, began_s = await site.connect(), time.monotonic()
        assert await other.ask() == 200
        took_s.append(time.monotonic() - began_s)
        other.writer.close()
        await asyncio.gather(*(_sip(one) for one in silent))
        assert len(took_s) < 1000
    assert max(took_s) < LATE_S
    for one in silent:
        one.writer.close()


async def _sip(one: Line) -> None:
    """Read what is there, so that an end is noticed."""
    try:
        async with asyncio.timeout(0.01):
            while await one.reader.read(1000):
                continue
    except TimeoutError:
        pass


async def test_who_takes_nothing_of_an_answer_is_cut_off_and_charged_for_what_was_made(site: Site, line: Line) -> None:
    """Else an idle socket keeps a model's server busy for as long as a request may take."""
    hung_up = asyncio.Event()

    async def endless(asked: Asked) -> None:
        await asked.head("text/event-stream")
        try:
            while True:
                await asked.write(event(piece("word " * 2000)))
        finally:
            hung_up.set()

    site.stub.script = endless
    line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's transports have it
    line.writer.write(line.request(STREAM))
    async with asyncio.timeout(PATIENCE_S):
        await hung_up.wait()

    async def settled() -> bool:
        return await site.open_holds() == 0

    await eventually(settled, within_s=PATIENCE_S, what="its hold is closed")
