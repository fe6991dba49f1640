"""Model servers that lie, break or stall: each with its stated outcome, over real HTTP and a real ledger.

`charged` is what the request costs; `estimated` marks a count of ours. After each the ledger proves itself and no hold is open.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from quota.adapters.upstream_connection import HttpAnswer
from quota.adapters.upstreams import HttpUpstreams
from quota.gateway.health import look
from quota.gateway.models import Models
from quota.service.upstreams import Target
from tests.integration.gateway_service import Running, running_gateway, stub_model
from tests.integration.upstream_stub import (
    USAGE,
    Asked,
    Script,
    Stub,
    event,
    piece,
    report,
    stub_server,
    well_behaved,
    whole,
)
from tests.waiting import PATIENCE_S

ASK = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}
CANARY = "canary-4711-prompt"


@dataclass
class World:
    gateway: Running
    stub: Stub
    http: aiohttp.ClientSession

    async def ask(
        self, *, stream: bool = False, path: str = "/chat/completions", **fields: object
    ) -> tuple[int, bytes]:
        """A request as a client without an SDK makes it; the body as far as it came."""
        headers = {"Authorization": f"Bearer {self.gateway.key}"}
        body = {**ASK, **({"stream": True} if stream else {}), **fields}
        async with self.http.post(self.gateway.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.read()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(stub_server())
        hasty, brief = stub_model(stub.url, name="hasty", total_s=1), stub_model(stub.url, name="brief", total_s=5)
        models = Models([stub_model(stub.url), hasty, brief])
        gateway = await stack.enter_async_context(running_gateway(tmp_path, models))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)))
        yield World(gateway, stub, http)


def plain(body: object) -> Script:
    return lambda asked: asked.json(body)


def streamed(*chunks: object, end: str = "data: [DONE]\n\n") -> Script:
    return lambda asked: asked.events(*chunks, end=end)


PIECES = [piece(f"{number} ") for number in range(6)] + [piece("6", "stop")]
PROMPT_ESTIMATE = range(40, 140)  # "hello" in its envelope, as we count it
ESTIMATED_3 = range(PROMPT_ESTIMATE.start + 3, PROMPT_ESTIMATE.stop + 7)  # … and a short answer

REPORTS: dict[str, tuple[object, int | range, bool]] = {
    "honest": (USAGE, 18, False),
    "explicit zero is zero": ({"prompt_tokens": 0, "completion_tokens": 0}, 0, False),
    "missing": (None, ESTIMATED_3, True),
    "empty": ({}, ESTIMATED_3, True),
    "output missing": ({"prompt_tokens": 5}, ESTIMATED_3, True),
    "negative": ({"prompt_tokens": 11, "completion_tokens": -1}, ESTIMATED_3, True),
    "beyond any model": ({"prompt_tokens": 11, "completion_tokens": 10**18}, ESTIMATED_3, True),
    "a fraction": ({"prompt_tokens": 11, "completion_tokens": 7.5}, ESTIMATED_3, True),
    "text": ({"prompt_tokens": "11", "completion_tokens": "7"}, ESTIMATED_3, True),
    "true": ({"prompt_tokens": True, "completion_tokens": True}, ESTIMATED_3, True),
    "a list": ([11, 7], ESTIMATED_3, True),
    "not a number": (float("nan"), ESTIMATED_3, True),
    "NaN inside": ({"prompt_tokens": float("nan"), "completion_tokens": 7}, ESTIMATED_3, True),
    "more than the hold": ({"prompt_tokens": 4000, "completion_tokens": 200}, 4200, False),
}


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_what_a_server_reports_is_charged_if_it_can_be_believed(world: World, name: str, stream: bool) -> None:
    usage, charged, estimated = REPORTS[name]
    ends = [] if usage is None else [report(usage)]
    world.stub.script = streamed(*PIECES, *ends) if stream else plain(whole(usage=usage))
    status, body = await world.ask(stream=stream)
    assert status == 200
    assert not stream or (b'"usage"' not in body and body.endswith(b"data: [DONE]\n\n"))
    await settled(world, charged, estimated=estimated)


STREAMS: dict[str, tuple[Script, int | range, bool | None]] = {
    "reported twice: counted once": (streamed(*PIECES, report(), report()), 18, False),
    "the last report counts": (
        streamed(*PIECES, report({"prompt_tokens": 11, "completion_tokens": 3}), report()), 18, False,
    ),
    "a bad report after a good one is doubted": (streamed(*PIECES, report(), report({"prompt_tokens": -1})), 18, True),
    "late, behind [DONE]": (streamed(*PIECES, end="data: [DONE]\n\n" + event(report()).decode()), 18, False),
    "without [DONE]": (streamed(*PIECES, report(), end=""), 18, False),
    "never reported": (streamed(*PIECES), range(47, 147), True),
    "an error at once": (streamed({"error": {"message": "out of memory", "code": 500}}), 0, None),
    "an error in the middle": (streamed(*PIECES[:3], {"error": {"message": "gone"}}), range(43, 143), True),
    "usage with the last piece": (streamed(*PIECES[:6], piece("6", "stop", usage=USAGE)), 18, False),
    "null in every piece": (streamed(*[piece("x", usage=None) for _ in range(7)], report()), 18, False),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_is_charged_by_its_report_or_by_what_was_passed_on(world: World, name: str) -> None:
    script, charged, estimated = STREAMS[name]
    world.stub.script = script
    status, _ = await world.ask(stream=True)
    assert status == 200
    await settled(world, charged, estimated=estimated)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
async def test_a_report_is_found_however_the_stream_is_split(world: World, size: int) -> None:
    data = b"".join(event(one) for one in (*PIECES, report())) + b"data: [DONE]\n\n"

    async def script(asked: Asked) -> None:
        await asked.head("text/event-stream")
        for start in range(0, len(data), size):
            await asked.write(data[start : start + size])
            await asyncio.sleep(0)

    world.stub.script = script
    status, body = await world.ask(stream=True)
    assert status == 200
    assert body == b"".join(event(one) for one in PIECES) + b"data: [DONE]\n\n"
    await settled(world, 18, estimated=False)


async def _status(asked: Asked, status: str, body: object) -> None:
    await asked.json(body, status=status)


def answering(status: str, body: object) -> Script:
    return lambda asked: _status(asked, status, body)


async def _half(asked: Asked) -> None:
    await asked.head("application/json", length=5000)
    await asked.write(b'{"choices": [')


async def _nothing(asked: Asked) -> None:
    asked.writer.close()


async def _garbage(asked: Asked) -> None:
    await asked.write(b"\x00\x01\x02 not HTTP\r\n\r\n")


async def _huge_header(asked: Asked) -> None:
    await asked.json(whole(), extra="X-Huge: " + "x" * 100_000 + "\r\n")


async def _many_headers(asked: Asked) -> None:
    await asked.json(whole(), extra="Set-Cookie: a=b\r\nConnection: close\r\nX-Secret: s\r\n" * 20)


async def _silent(asked: Asked) -> None:
    await asyncio.sleep(60)


async def _slow_loris(asked: Asked) -> None:
    await asked.head("application/json", length=5000)
    while True:
        await asked.write(b" ")
        await asyncio.sleep(0.2)


FAILURES: dict[str, tuple[Script, int, bytes]] = {
    "400": (answering("400 Bad Request", {"error": {"message": "too long"}}), 400, b"too long"),
    "400 in vLLM's old shape": (
        answering("400 Bad Request", {"object": "error", "message": "too long"}),
        400,
        b"too long",
    ),
    "401: our key is wrong, not the client's": (answering("401 Unauthorized", {}), 502, b"bad_gateway"),
    "404": (answering("404 Not Found", {}), 502, b"bad_gateway"),
    "429": (answering("429 Too Many Requests", {}), 503, b"model_busy"),
    "500 without JSON": (answering("500 Internal Server Error", b"<html>"), 502, b"bad_gateway"),
    "503": (answering("503 Service Unavailable", {"error": {"message": "Loading model"}}), 503, b"model_busy"),
    "a redirect": (answering("302 Found", {}), 502, b"bad_gateway"),
    "200 with an error in it": (plain({"error": {"message": "no"}}), 502, b"bad_gateway"),
    "200 without JSON": (plain(b"<html>"), 502, b"bad_gateway"),
    "200 with deep JSON": (plain(b"[" * 100_000), 502, b"bad_gateway"),
    "half an answer": (_half, 502, b"bad_gateway"),
    "hangs up": (_nothing, 502, b"bad_gateway"),
    "not HTTP": (_garbage, 502, b"bad_gateway"),
    "a huge header": (_huge_header, 502, b"bad_gateway"),
    "silent": (_silent, 504, b"gateway_timeout"),
    "slow loris": (_slow_loris, 504, b"gateway_timeout"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_what_a_server_fails_to_deliver_costs_nothing(world: World, name: str) -> None:
    script, expected, code = FAILURES[name]
    world.stub.script = script
    status, body = await world.ask(model="hasty" if expected == 504 else "stub")
    assert (status, json.loads(body)["error"]["code"] if status != 400 else "") == (
        expected, code.decode() if status != 400 else "",
    )  # fmt: skip
    assert code in body
    await settled(world, 0, estimated=None)


async def test_a_stream_that_breaks_off_says_so_and_is_charged_to_there(world: World) -> None:
    async def script(asked: Asked) -> None:
        await asked.head("text/event-stream", extra="Transfer-Encoding: chunked\r\n")
        data = b"".join(event(one) for one in PIECES[:3])
        await asked.write(b"%x\r\n%b\r\n" % (len(data), data))

    world.stub.script = script
    status, body = await world.ask(stream=True)
    assert status == 200
    assert b"bad_gateway" in body
    assert b"[DONE]" not in body
    await settled(world, range(43, 143), estimated=True)


async def test_a_stream_without_an_end_is_cut_at_the_deadline(world: World) -> None:
    async def script(asked: Asked) -> None:
        await asked.head("text/event-stream")
        while True:
            await asked.write(event(piece("x ")))
            await asyncio.sleep(0.2)

    world.stub.script = script
    status, body = await world.ask(stream=True, model="brief")  # whose stream has begun by then, also on a busy machine
    assert status == 200
    assert b"gateway_timeout" in body
    pieces = body.count(b'"content"')
    [record] = await world.gateway.usage()
    assert record["estimated"] == 1
    assert pieces <= json.loads(str(record["payload"]))["output_tokens"] <= 64
    assert not await world.gateway.open_holds()


async def test_an_event_without_an_end_does_not_fill_the_memory(world: World) -> None:
    async def script(asked: Asked) -> None:
        await asked.head("text/event-stream")
        while True:
            await asked.write(b"data: " + b"x" * 65_536)

    world.stub.script = script
    status, body = await world.ask(stream=True)
    assert status == 200
    assert len(body) < 10_000
    assert not await world.gateway.open_holds()


async def test_the_servers_headers_stay_behind(world: World) -> None:
    world.stub.script = _many_headers
    headers = {
        "Authorization": f"Bearer {world.gateway.key}",
        "X-Mine": "1",
        "Cookie": "a=b",
        "X-Forwarded-For": "1.2.3.4",
    }
    async with world.http.post(world.gateway.url + "/chat/completions", json=ASK, headers=headers) as answer:
        assert answer.status == 200
        assert not {"X-Secret", "Set-Cookie"} & set(answer.headers)
    sent = world.stub.requests[-1].headers
    assert not {"authorization", "x-mine", "cookie", "x-forwarded-for"} & set(sent)


async def test_a_server_that_is_not_there_costs_nothing(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, Models([stub_model("http://127.0.0.1:9/v1")])) as gateway:
        async with aiohttp.ClientSession() as http:
            headers = {"Authorization": f"Bearer {gateway.key}"}
            async with http.post(gateway.url + "/chat/completions", json=ASK, headers=headers) as answer:
                assert answer.status == 503
                assert (await answer.json())["error"]["code"] == "model_unreachable"
        assert (await gateway.tokens()).charged == 0
        assert not await gateway.open_holds()


async def test_another_server_takes_over_before_the_first_byte(tmp_path: Path) -> None:
    async with stub_server() as good, stub_server(answering("503 Service Unavailable", {})) as busy:
        model = stub_model("http://127.0.0.1:9/v1", busy.url, good.url)
        async with running_gateway(tmp_path, Models([model])) as gateway, gateway.sdk(max_retries=0) as sdk:
            answer = await sdk.chat.completions.create(model="stub", messages=[{"role": "user", "content": "hello"}])
            assert answer.choices[0].message.content == "one two three"
            assert (await gateway.tokens()).charged == 18
            assert len(await gateway.usage()) == 1
            assert [server.busy for server in model.servers] == [0, 0, 0]


async def test_an_idle_connection_that_was_closed_is_no_failure_behind_a_server_that_is_not_there(
    tmp_path: Path,
) -> None:
    async def until_asked_again(asked: Asked) -> None:
        await asked.json(whole())
        await asked.hung_up.wait()

    async with stub_server(until_asked_again) as there:
        model = stub_model(there.url, "http://127.0.0.1:9/v1")
        async with running_gateway(tmp_path, Models([model])) as gateway, gateway.sdk(max_retries=0) as sdk:
            for _ in range(4):
                model.servers[1].busy, model.servers[1].avoid_until_s = -1, 0.0  # so that it is asked first
                answer = await sdk.chat.completions.create(
                    model="stub", messages=[{"role": "user", "content": "hello"}]
                )
                assert answer.choices[0].message.content == "one two three"


async def test_a_look_at_the_servers_tells_those_that_answer_from_those_that_do_not(tmp_path: Path) -> None:
    async with stub_server() as good, stub_server(_nothing) as gone, stub_server(answering("503 x", {})) as loading:
        models = Models([stub_model(good.url, gone.url, loading.url, "http://127.0.0.1:9/v1")])
        async with HttpUpstreams({"127.0.0.1"}) as upstreams:
            await look(models, upstreams)
    [model] = models.offered()
    assert [server.healthy for server in model.servers] == [True, False, False, False]
    assert good.requests[0].path == "/v1/models"


async def test_an_idle_connection_that_was_closed_is_no_failure(world: World) -> None:
    async def once(asked: Asked) -> None:
        if len(world.stub.requests) == 2:
            asked.writer.close()
            return
        await well_behaved(asked)

    world.stub.script = once
    assert [(await world.ask())[0] for _ in range(2)] == [200, 200]
    assert len(world.stub.requests) == 3
    assert (await world.gateway.tokens()).charged == 36


@pytest.mark.parametrize(("broken", "outcome"), [(1, 200), (2, 502)], ids=["one", "the next as well"])
async def test_a_count_of_tokens_over_an_idle_connection_that_was_closed_is_asked_for_once_more(
    world: World, broken: int, outcome: int
) -> None:
    async def breaking(asked: Asked) -> None:
        if 1 < len(world.stub.requests) <= 1 + broken:
            asked.writer.close()
            return
        await asked.json({"input_tokens": 32})

    world.stub.script = breaking
    assert [(await world.ask(path="/messages/count_tokens"))[0] for _ in range(2)] == [200, outcome]
    assert len(world.stub.requests) == 3
    assert (await world.gateway.tokens()).charged == 0


async def test_many_idle_connections_that_were_closed_are_no_failure(world: World) -> None:
    async def until_asked_again(asked: Asked) -> None:
        body = json.dumps(whole()).encode()
        await asked.head("application/json", length=len(body))
        await asked.write(body)
        await asked.hung_up.wait()  # set by the next request as well: the connection is closed under it

    world.stub.script = until_asked_again
    assert {status for status, _ in await asyncio.gather(*(world.ask() for _ in range(8)))} == {200}
    assert (await world.ask())[0] == 200  # the first that it takes of the eight fails, and the others are as old
    assert (await world.gateway.tokens()).charged == 9 * 18


async def test_no_prompt_or_answer_is_in_a_log_or_table(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for script in (
        well_behaved,
        plain(whole(CANARY)),
        plain(b"<html>" + CANARY.encode()),
        _half,
        streamed(piece(CANARY)),
    ):
        world.stub.script = script
        for stream in (False, True):
            await world.ask(stream=stream, messages=[{"role": "user", "content": CANARY}])
    assert CANARY not in caplog.text
    with world.gateway.database.reading() as connection:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        assert CANARY not in "\n".join(raw.iterdump())


METRICS = ("/metrics", "/stats", "/debug/vars", "/debug/requests", "/traces", "/health", "/usage")
TRACING = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": f"a={CANARY}",
    "baggage": f"p={CANARY}",
}


async def test_no_prompt_is_in_a_metric_or_trace(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing offers numbers, nothing traces, and what a client says for tracers goes nowhere."""
    caplog.set_level("DEBUG")
    headers = {"Authorization": f"Bearer {world.gateway.key}", **TRACING}
    words = {
        "model": "stub",
        "messages": [{"role": "user", "content": CANARY}],
        "user": CANARY,
        "metadata": {"p": CANARY},
    }
    async with world.http.post(world.gateway.url + "/chat/completions", json=words, headers=headers) as answer:
        assert answer.status == 200
        assert CANARY not in str(answer.headers)
    sent = world.stub.requests[-1].headers
    assert not {"traceparent", "tracestate", "baggage"} & set(sent)
    assert CANARY not in str(sent)
    root = world.gateway.url.removesuffix("/v1")
    for path in METRICS:
        for base in (world.gateway.url, root):
            async with world.http.get(base + path, headers=headers) as answer:
                assert answer.status == 404
                assert CANARY not in await answer.text()
    assert CANARY not in caplog.text


class _Broken(HttpUpstreams):
    async def post(self, target: Target, path: str, body: bytes, *, streamed: bool) -> HttpAnswer:
        raise RuntimeError("an accident of ours")


async def test_no_prompt_is_in_the_trace_of_an_accident(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    upstreams = _Broken({"127.0.0.1"})
    async with AsyncExitStack() as stack:
        models = Models([stub_model("http://127.0.0.1:9/v1")])
        gateway = await stack.enter_async_context(running_gateway(tmp_path, models, upstreams=upstreams))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)))
        status, body = await World(gateway, Stub(), http).ask(messages=[{"role": "user", "content": CANARY}])
        assert status == 500
        assert b"report the id" in body
        assert CANARY.encode() not in body
        assert "an accident of ours" in caplog.text  # the trace is there
        assert CANARY not in caplog.text
        assert not await gateway.open_holds()
        assert gateway.differences() == []


async def settled(world: World, charged: int | range, *, estimated: bool | None) -> None:
    """What was charged, whether it is marked, and that the books prove themselves. `estimated` None: released."""
    balance = await world.gateway.tokens()
    if isinstance(charged, range):
        assert balance.charged in charged
    else:
        assert balance.charged == charged
    assert balance.held == 0
    assert not await world.gateway.open_holds()
    assert [bool(record["estimated"]) for record in await world.gateway.usage()] == (
        [] if estimated is None else [estimated]
    )
    assert world.gateway.differences() == []
