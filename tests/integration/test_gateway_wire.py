"""The gateway's own HTTP server: what clients and strangers may send it, byte by byte."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from quota.gateway.models import Models
from quota.gateway.wire import HEAD_BYTES_MAX
from tests.integration.gateway_service import ROOT, Running, running_gateway, stub_model
from tests.integration.upstream_stub import Asked, stub_server, well_behaved
from tests.waiting import PATIENCE_S

BODY = json.dumps({"model": "stub", "messages": [{"role": "user", "content": "hello"}]}).encode()


@dataclass
class Line:
    """A connection, in raw bytes."""

    gateway: Running
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def head(self, *lines: str, version: str = "1.1", path: str = "/chat/completions") -> bytes:
        head = [f"POST {ROOT}/v1{path} HTTP/{version}", "Host: x", f"Authorization: Bearer {self.gateway.key}", *lines]
        return ("\r\n".join(head) + "\r\n\r\n").encode()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> int:
        """Read one whole answer; its status."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")
            await self.reader.readexactly(length)
        return int(head.split(b" ")[1])

    async def closed(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read() == b""


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    async with stub_server() as stub, running_gateway(tmp_path, Models([stub_model(stub.url)])) as gateway:
        port = int(gateway.url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield Line(gateway, reader, writer)
        writer.close()


async def test_requests_of_one_connection_are_answered_in_order(line: Line) -> None:
    good = line.head(f"Content-Length: {len(BODY)}") + BODY
    bad = line.head("Content-Length: 2") + b"[]"
    await line.send(good + bad + good + bad)
    assert [await line.status() for _ in range(4)] == [200, 400, 200, 400]
    assert (await line.gateway.tokens()).charged == 36


async def test_an_answer_does_not_wait_for_its_settlement(tmp_path: Path) -> None:
    """Somebody else writes to the database for as long as they like, from the moment at which the model is asked."""
    async with stub_server() as stub, running_gateway(tmp_path, Models([stub_model(stub.url)])) as gateway:
        blocker = sqlite3.connect(tmp_path / "quota" / "quota.sqlite", isolation_level=None)

        async def blocked(asked: Asked) -> None:
            blocker.execute("BEGIN IMMEDIATE")
            await well_behaved(asked)

        stub.script = blocked
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.split(":")[2].split("/")[0]))
        line = Line(gateway, reader, writer)
        await line.send(line.head(f"Content-Length: {len(BODY)}") + BODY)
        assert await line.status() == 200
        row = blocker.execute("SELECT sum(charged), sum(held) FROM account WHERE unit = 'tokens'").fetchone()
        assert row[0] == 0
        assert row[1] > 0
        blocker.execute("ROLLBACK")
        blocker.close()
        writer.close()
        balance = await gateway.tokens()
        assert (balance.charged, balance.held) == (18, 0)


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_a_request_may_come_in_pieces(line: Line, size: int) -> None:
    data = line.head(f"Content-Length: {len(BODY)}") + BODY
    for start in range(0, len(data), size):
        await line.send(data[start : start + size])
    assert await line.status() == 200


async def test_a_chunked_body_is_read(line: Line) -> None:
    await line.send(line.head("Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
    assert await line.status() == 200


async def test_who_waits_for_continue_gets_it(line: Line) -> None:
    await line.send(line.head(f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
    async with asyncio.timeout(PATIENCE_S):
        assert await line.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await line.send(BODY)
    assert await line.status() == 200


async def test_an_old_client_gets_its_answer_and_the_end(line: Line) -> None:
    await line.send(line.head(f"Content-Length: {len(BODY)}", version="1.0") + BODY)
    assert await line.status() == 200
    assert await line.closed()


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", b"X" * 100],
    ids=["TLS", "half a line", "a version that is none", "a method that is none"],
)
async def test_what_is_no_http_is_refused_and_closed(line: Line, data: bytes) -> None:
    await line.send(data + b"\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        assert (await line.reader.read()).startswith(b"HTTP/1.1 4")


async def test_a_head_without_an_end_is_cut(line: Line) -> None:
    await line.send(line.head()[:-2] + b"X-Long: " + b"x" * (HEAD_BYTES_MAX + 1))
    async with asyncio.timeout(PATIENCE_S):
        assert (await line.reader.read()).startswith(b"HTTP/1.1 431")


async def test_head_gets_a_head_and_no_body(line: Line) -> None:
    """A body would be taken for the beginning of the next answer."""
    await line.send(line.head().replace(b"POST ", b"HEAD ", 1) + line.head(f"Content-Length: {len(BODY)}") + BODY)
    async with asyncio.timeout(PATIENCE_S):
        assert (await line.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
    assert await line.status() == 200


@pytest.mark.parametrize("asgi", [False, True], ids=["its own server", "the quota service's"])
async def test_who_offers_http_2_is_answered_in_http_1(tmp_path: Path, asgi: bool) -> None:
    """As Java's own client does with everything over plain HTTP; bodies whole and in chunks, in pieces, one request after the other."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA")
    async with stub_server() as stub, running_gateway(tmp_path, Models([stub_model(stub.url)]), asgi=asgi) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.split(":")[2].split("/")[0]))
        line = Line(gateway, reader, writer)
        whole = line.head(*offer, f"Content-Length: {len(BODY)}") + BODY
        chunks = line.head(*offer, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
        for data in (whole, chunks, whole):
            for piece in (data[:40], data[40:-20], data[-20:]):
                await line.send(piece)
                await asyncio.sleep(0.01)
            assert await line.status() == 200
        await line.send(line.head(*offer) + whole)  # the first has no body
        assert [await line.status(), await line.status()] == [400, 200]
        assert [asked.body["messages"] for asked in stub.requests] == 4 * [json.loads(BODY)["messages"]]
        await line.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        head = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert not head or head.startswith(b"HTTP/1.1 4")
        writer.close()


async def test_nobody_is_connected_to_anything(line: Line) -> None:
    await line.send(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
    assert await line.status() == 400
    assert await line.closed()


async def test_what_stands_behind_a_body_says_nothing(line: Line) -> None:
    chunks = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
    await line.send(line.head("Transfer-Encoding: chunked") + chunks + b"Idempotency-Key: \xff\r\n\r\n")
    assert await line.status() == 200


@pytest.mark.parametrize("trailer", [b"X: " + b"y" * 1000, b"X: y\r\n" * 100], ids=["one", "many"])
async def test_trailers_without_an_end_are_cut(line: Line, trailer: bytes) -> None:
    await line.send(line.head("Transfer-Encoding: chunked") + b"2\r\n[]\r\n0\r\n")
    sent_bytes = 0
    with suppress(ConnectionError):
        while not line.reader.at_eof() and sent_bytes < 2**22:
            await line.send(trailer)
            sent_bytes += len(trailer)
            await asyncio.sleep(0)
    assert sent_bytes < 2**22
    assert (await line.gateway.tokens()).held == 0


async def test_two_lengths_are_no_way_to_smuggle_a_request(line: Line) -> None:
    await line.send(line.head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        assert (await line.reader.read()).startswith(b"HTTP/1.1 400")


async def test_a_body_that_is_too_large_is_refused_without_being_read(line: Line) -> None:
    await line.send(line.head(f"Content-Length: {2**30}"))
    assert await line.status() == 413
    assert await line.closed()


async def test_a_stranger_is_refused_before_the_body(line: Line) -> None:
    await line.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    assert await line.status() == 401
    assert await line.closed()
