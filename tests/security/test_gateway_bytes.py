"""Random bytes against the gateway's own server: pipelined requests of every kind, cut, doubled, inverted and dropped anywhere.

Whatever comes, nothing is logged as an error, no hold stays open and the books agree. 200 connections by default, 3,000 with --full.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from quota.gateway.models import Models
from tests.integration.gateway_service import ROOT, Running, running_gateway, stub_model
from tests.integration.upstream_stub import stub_server
from tests.waiting import PATIENCE_S, eventually

CONNECTIONS = 3000 if os.environ.get("COMMONS_FULL") == "1" else 200
AT_ONCE = 20
BODY = json.dumps({"model": "stub", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}).encode()


def request(dice: random.Random, key: str) -> bytes:
    """A request that is right in itself."""
    body = BODY[:-1] + b',"stream":true}' if dice.random() < 0.3 else BODY
    version = "1.0" if dice.random() < 0.1 else "1.1"
    head = f"POST {ROOT}/v1/chat/completions HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {key}\r\n".encode()
    sized = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    kind = dice.randrange(12)
    if kind == 0:
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    if kind == 1:
        return head.replace(b"POST", b"GET", 1).replace(b"/chat/completions", b"/models", 1) + b"\r\n"
    if kind == 2:
        return head.replace(b"POST", b"HEAD", 1) + b"\r\n"
    return head + (b"Connection: Upgrade\r\nUpgrade: h2c\r\n" if kind == 3 else b"") + sized


def spoilt(dice: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(dice.choice([0, 0, 1, 1, 2, 5, 20])):
        at = dice.randrange(len(found))
        how = dice.randrange(4)
        if how == 0:
            found[at] = dice.randrange(256)
        elif how == 1 and len(found) > 100:
            del found[at : at + dice.randrange(1, 40)]
        elif how == 2:
            found[at:at] = dice.randbytes(dice.randrange(1, 20))
        else:
            found[at:at] = found[at : at + dice.randrange(1, 200)]
    return bytes(found)


async def connection(dice: random.Random, gateway: Running) -> None:
    """Send, in pieces, read for a while, and leave, sometimes in the middle."""
    data = spoilt(dice, b"".join(request(dice, gateway.key) for _ in range(dice.randrange(1, 12))))
    port = int(gateway.url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.create_task(reader.read())
    while data and not writer.transport.is_closing():
        size = dice.choice([1, 7, 100, 5000, 10**6])
        writer.write(data[:size])
        data = data[size:]
        if dice.random() < 0.05:
            await asyncio.sleep(0.001)
        if dice.random() < 0.01:
            writer.transport.abort()
    await asyncio.wait([reading], timeout=dice.choice([0.01, 1, 2]))
    writer.close()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.timeout(1200)
async def test_no_bytes_leave_a_hold_or_an_error_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dice, at_once = random.Random(20261130), asyncio.Semaphore(AT_ONCE)
    accidents: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: accidents.append(context))
    async with (
        stub_server() as stub,
        running_gateway(tmp_path, Models([stub_model(stub.url)]), tokens=10**8) as gateway,
    ):

        async def one(seed: int) -> None:
            async with at_once:
                with suppress(ConnectionError):
                    await connection(random.Random(seed), gateway)

        with caplog.at_level(logging.ERROR):
            await asyncio.gather(*(one(dice.getrandbits(32)) for _ in range(CONNECTIONS)))

            async def settled() -> bool:
                return not await gateway.open_holds()

            await eventually(settled, within_s=PATIENCE_S, what="every hold is closed")
        assert len(stub.requests) > CONNECTIONS / 4  # what was left whole did reach the model's server
        assert (await gateway.tokens()).charged > 0
        assert gateway.differences() == []
    assert caplog.records == []
    assert accidents == []
