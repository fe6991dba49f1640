"""Through the real proxy, over raw sockets: heads that can be read in two ways, heads that never end, and many of them at once.

Whatever follows a doubtful body is never taken for a request of its own: by the proxy, the hub, the quota service or the gateway.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import pytest_asyncio

from tests.people import Person
from tests.portal import Portal
from tests.security.hostile_strings import FRAMINGS
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUOTA = "/services/quota/api/applications/"
BEHIND = {
    "hub": "POST /hub/api/users/pi/tokens",
    "quota service": f"PUT {QUOTA}doubtful-0001",
    "gateway": "POST /services/gateway/v1/chat/completions",
    "nothing": "POST /nothing/at/all",
}
# Node gives a head this long (server.headersTimeout) and looks for late ones every 30 s.
LATE_HEAD_S = 60 + 30
ANSWER_S = PATIENCE_S


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pi(portal: Portal) -> AsyncIterator[Person]:
    async with Person(portal, "pi") as person:
        yield person


def _application(pi: Person, name: str) -> bytes:
    """A good request with pi's own token that leaves a trace: an application of this name."""
    today = datetime.now(UTC).date()
    dates = {"starts_on": today.isoformat(), "ends_on": (today + timedelta(days=30)).isoformat()}
    body = json.dumps({"title": "Smuggled", "purpose": "To be seen.", "gpu_hours": "1", "tokens": 0, **dates})
    head = f"PUT {QUOTA}{name} HTTP/1.1\r\nHost: 127.0.0.1:{pi.portal.port}\r\nAuthorization: token {pi.token}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def _answers(port: int, content: bytes) -> bytes:
    """Everything that comes back until the other side closes; it has to, and soon."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(content)
        async with asyncio.timeout(ANSWER_S):
            return await reader.read()
    finally:
        writer.close()


async def _names(pi: Person) -> Sequence[str]:
    _, seen = await pi.api("GET", "/applications")
    return [one["application_id"] for one in seen["applications"]]


async def test_the_request_that_the_others_try_to_smuggle_in_is_a_good_one(pi: Person) -> None:
    """Without this the next test could not fail."""
    good = _application(pi, "by-itself-0001").replace(b"Content-Type", b"Connection: close\r\nContent-Type")
    assert (await _answers(pi.portal.port, good)).startswith(b"HTTP/1.1 201 ")
    assert "by-itself-0001" in await _names(pi)


@pytest.mark.parametrize("behind", BEHIND)
async def test_the_proxy_reads_no_doubtful_length_and_lets_nothing_behind_it_through(pi: Person, behind: str) -> None:
    answered = {}
    for number, framing in enumerate(FRAMINGS):
        head = f"{BEHIND[behind]} HTTP/1.1\r\nHost: 127.0.0.1:{pi.portal.port}\r\nContent-Type: text/plain\r\n"
        outer = f"{head}{framing}\r\n0\r\n\r\n".encode("latin-1")
        answered[framing] = await _answers(pi.portal.port, outer + _application(pi, f"smuggled-{number:04}"))
    assert {one.count(b"HTTP/1.1 ") for one in answered.values()} == {1}, answered
    assert {one[:12] for one in answered.values()} <= {b"HTTP/1.1 400", b"HTTP/1.1 417"}, answered
    assert not [name for name in await _names(pi) if name.startswith("smuggled")]


async def test_heads_that_are_not_finished_keep_nobody_waiting(pi: Person) -> None:
    """300 connections to the proxy with half a head, half a body or nothing; hub, quota service and gateway answer beside them."""
    whole = b"POST /hub/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n_"
    starts = (b"", b"GET /hub", b"GET /hub/login HTTP/1.1\r\nHost: x\r\nX-Y: ", whole)
    lines = [await asyncio.open_connection("127.0.0.1", pi.portal.port) for _ in range(300)]
    for number, (_, writer) in enumerate(lines):
        writer.write(starts[number % len(starts)])
    async with httpx.AsyncClient(base_url=pi.portal.url, trust_env=False, timeout=ANSWER_S) as client:
        for path, status in (
            ("hub/api/", 200),
            ("services/quota/api/health", 200),
            ("services/gateway/v1/models", 401),
        ):
            assert (await client.get(path)).status_code == status, path
    for _, writer in lines:
        writer.close()


@pytest.mark.full
async def test_a_head_that_never_ends_is_given_up(pi: Person) -> None:
    """A byte every second does not keep it alive; takes a minute and a half."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pi.portal.port)
    writer.write(b"GET /hub/login HTTP/1.1\r\nHost: x\r\nX-Slow: ")

    async def drip() -> None:
        while not writer.is_closing():
            writer.write(b"a")
            await asyncio.sleep(1)

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(LATE_HEAD_S + ANSWER_S):
            answered = await reader.read()
    finally:
        dripping.cancel()
        writer.close()
    assert answered.startswith(b"HTTP/1.1 408 "), answered
