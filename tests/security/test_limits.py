"""What one sender can take: sizes, depths, time, pending things and guesses; the others are served meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from quota.api.body_gate import LIMIT_BYTES, BodyGate
from quota.domain.errors import Invalid
from quota.pages import guard
from quota.service.callers import Power
from quota.service.personal_keys import LIVE_KEYS_MAX
from quota.service.review import UNDECIDED_MAX
from quota.store.refusals import RefusalWindow
from tests.integration.course_exchange import make_course
from tests.integration.quota_service import ROOT, Service, running_service
from tests.security.gateway_office import ASK, GatewayOffice, gateway_office
from tests.security.hostile_strings import FRAMINGS
from tests.waiting import PATIENCE_S

DATES = {"starts_on": "2026-03-02", "ends_on": "2026-12-31"}
HOLD = {"kind": "session", "actor": "pi", "profile": "gpu1", "application": "lab", "runtime_s": 43_200}
ASKED = {"title": "A title", "purpose": "To be tested.", "gpu_hours": "1", "tokens": 0, **DATES}


@pytest_asyncio.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(tmp_path, refusals=RefusalWindow(REFUSALS_A_MINUTE)) as made:
        await made.register("pi", "ada", "chair")
        yield made


@pytest_asyncio.fixture
async def office(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[GatewayOffice]:
    async with gateway_office(tmp_path, asgi=getattr(request, "param", "own server") == "uvicorn") as made:
        yield made


async def _put(service: Service, content: bytes) -> httpx.Response:
    headers = {"Authorization": f"token {service.token('pi')}", "Content-Type": "application/json"}
    return await service.client.put(f"{ROOT}/applications/limit-0001", content=content, headers=headers)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"title": "' + b"x" * LIMIT_BYTES + b'"}', 413),
        (b"[" * 100_000 + b"]" * 100_000, 400),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400),
        (b'{"title": ' + b'{"a":' * 21 + b"1" + b"}" * 22, 400),
        (b'{"gpu_hours": ' + b"9" * 100_000 + b"}", 400),
        (b'{"gpu_hours": 1e400}', 400),
        (b'{"gpu_hours": NaN}', 400),
        (b'{"title": "a", "title": "b"}', 400),
        (b"{" + b",".join(b'"k%d": 1' % number for number in range(50_000)) + b"}", 400),
    ],
    ids=["size", "lists in lists", "objects in objects", "one level too deep", "a long number", "1e400", "NaN", "a key twice", "50,000 keys"],
)  # fmt: skip
async def test_a_body_has_a_size_and_a_depth(service: Service, content: bytes, status: int) -> None:
    before = service.row_counts()
    async with asyncio.timeout(PATIENCE_S):
        answer = await _put(service, content)
    assert answer.status_code == status, answer.text[:300]
    assert len(answer.content) < 200_000
    assert service.row_counts() == before


@pytest.mark.parametrize(("levels", "code"), [(19, "invalid_request"), (20, "invalid_json")])
async def test_depth_is_counted_before_anybody_reads_the_body(service: Service, levels: int, code: str) -> None:
    """One level less is a body that makes no sense to the route; one more is none at all."""
    answer = await _put(service, b'{"title": ' + b'{"a":' * levels + b"1" + b"}" * (levels + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


async def test_a_body_that_comes_drop_by_drop_is_given_up() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("a body that never ended reached a route")

    async def drop() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "PUT", "path": "/x", "query_string": b"", "headers": [], "raw_path": b"/x"}
    async with asyncio.timeout(PATIENCE_S):
        await BodyGate(app, deadline_s=0.2)(scope, drop, keep)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "too_slow"


async def test_a_form_that_comes_drop_by_drop_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drop() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"", "more_body": True}

    monkeypatch.setattr(guard, "FORM_DEADLINE_S", 0.2)  # the number, not the code
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, drop)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Invalid):
            await guard.read_form(request)


async def test_one_person_fills_nobodys_list_of_applications(service: Service) -> None:
    pi, ada = service.token("pi"), service.token("ada")
    for number in range(UNDECIDED_MAX):
        made = await service.person(pi, "PUT", f"/applications/many-{number:04}", ASKED)
        assert made.status_code == 201, made.text
    before = service.row_counts()
    refused = await service.person(pi, "PUT", "/applications/many-9999", ASKED)
    assert (refused.status_code, refused.json()["error"]["params"]["fields"][0]["reason"]) == (400, "too_many_open")
    assert service.row_counts() == before
    assert (
        await service.person(pi, "PUT", "/applications/many-0000", ASKED)
    ).is_success  # sent again: the first answer
    assert (await service.person(ada, "PUT", "/applications/other-0001", ASKED)).status_code == 201
    await service.person(
        service.token("chair", Power.DECIDE),
        "POST",
        "/applications/many-0000/decision",
        {"decision": "reject", "message": "Not now"},
    )
    assert (await service.person(pi, "PUT", "/applications/many-9998", ASKED)).status_code == 201


PENDING = 10_000
REFUSALS_A_MINUTE = 60  # as quota.main has it
UPLOAD = {"course": "physics", "kind": "release", "assignment": "ps1", "size_bytes": 1024, "sha256": "0" * 64}


@dataclass(frozen=True)
class Heap:
    """What somebody heaps up: how it is sent, and how many are taken."""

    method: str
    path: str
    body: Mapping[str, object]
    taken: int


HEAPS = {
    "applications": Heap("PUT", "/applications/pending-{:05}", ASKED, UNDECIDED_MAX),
    "keys": Heap("PUT", "/projects/{project}/keys/{:032x}", {"name": "k", "days": 1}, LIVE_KEYS_MAX),
    "uploads": Heap("PUT", "/exchange/uploads/pending-{:05}", UPLOAD, 20),
    "starts": Heap("PUT", "/internal/holds/pending-{:05}", HOLD, 0),
}


@pytest.mark.full
@pytest.mark.parametrize("name", HEAPS)
async def test_ten_thousand_things_that_wait_are_a_few_and_cost_nobody_else(service: Service, name: str) -> None:
    """By one person; the tables stay small and another person is answered as before."""
    heap = HEAPS[name]
    project = await service.award("pi", gpu_hours="1", tokens=10)
    await make_course(service, project, ("bob",))
    pi, before, answers, began = service.token("pi"), service.row_counts(), Counter[int](), time.monotonic()
    for number in range(PENDING):
        path = heap.path.replace("{project}", project).format(number)
        if name == "starts":
            body = {**heap.body, "project_id": project, "server_name": f"s{number}"}
            answer = await service.hub(heap.method, path, body)
        else:
            answer = await service.person(pi, heap.method, path, heap.body)
        answers[answer.status_code] += 1
    grown = {table: count - before[table] for table, count in service.row_counts().items() if count != before[table]}
    assert (answers[201], sum(answers.values())) == (heap.taken, PENDING), answers
    assert max(answers) < 500, answers
    refused_rows = (
        2 * REFUSALS_A_MINUTE * (2 + int((time.monotonic() - began) / 60))
    )  # of each kept one its hold and its link
    assert sum(grown.values()) <= 4 * heap.taken + refused_rows, (grown, answers)
    assert (await service.person(service.token("ada"), "PUT", "/applications/beside-0001", ASKED)).status_code == 201
    assert service.verified() == []


async def test_one_person_has_so_many_keys_and_no_more(service: Service) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=10, name="application-0001")
    pi = service.token("pi")
    answers = [
        (
            await service.person(pi, "PUT", f"/projects/{project}/keys/{number:032x}", {"name": "k", "days": 1})
        ).status_code
        for number in range(LIVE_KEYS_MAX + 3)
    ]
    assert answers == [201] * LIVE_KEYS_MAX + [400] * 3


async def test_guessing_keys_finds_none_and_keeps_nobody_out(office: GatewayOffice) -> None:
    """300 guesses at once of every shape; whoever has a good key is answered meanwhile, and asked no model server for the others."""
    good = office.keys["session key"]
    shapes = (
        good[:-1] + "x",
        "ccp-" + "0" * 32 + "-" + "A" * 43,
        "token-guess",
        office.keys["personal key, own"][:-2] + "xx",
    )
    body = {**ASK, "model": "stub"}
    guesses = [
        office.send("POST", "/chat/completions", f"{shapes[n % 4]}{n if n % 4 == 2 else ''}", body) for n in range(300)
    ]
    asked = len(office.stub.requests)
    known, *refused = await asyncio.gather(office.send("POST", "/chat/completions", good, body), *guesses)
    assert known.status_code == 200
    assert {one.status_code for one in refused} == {401}
    assert len(office.stub.requests) == asked + 1


async def test_slow_clients_keep_nobody_waiting(office: GatewayOffice) -> None:
    """300 connections that send half a head, half a body or nothing; a good request is answered beside them."""
    port = int(office.gateway.url.split(":")[2].split("/")[0])
    head = f"POST /services/gateway/v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {office.keys['session key']}\r\n"
    starts = (b"", b"POST /serv", head.encode(), (head + "Content-Length: 100\r\n\r\n{").encode())
    lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
    for number, (_, writer) in enumerate(lines):
        writer.write(starts[number % 4])
    answer = await office.send("POST", "/chat/completions", office.keys["session key"], {**ASK, "model": "stub"})
    assert answer.status_code == 200
    for _, writer in lines:
        writer.close()


_SMUGGLED = "POST /services/gateway/v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("office", ["own server", "uvicorn"], indirect=True)
async def test_two_ways_to_read_a_length_smuggle_nothing(office: GatewayOffice) -> None:
    """Over raw sockets. What follows a doubtful body is never taken for a request with a key of its own."""
    port = int(office.gateway.url.split(":")[2].split("/")[0])
    key = office.keys["session key"]
    inner_body = json.dumps({**ASK, "model": "stub"})
    inner = f"{_SMUGGLED}Authorization: Bearer {key}\r\nContent-Length: {len(inner_body)}\r\n\r\n{inner_body}"
    for framing in FRAMINGS:
        outer = f"{_SMUGGLED}Authorization: Bearer no-such-key\r\n{framing}\r\n0\r\n\r\n{inner}"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(outer.encode("latin-1"))
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            answered = await reader.read()
        writer.close()
        assert b" 200 OK" not in answered, (framing, answered[:500])
        assert office.stub.requests == [], framing
