"""Every interface that the gateway speaks: what it counts, what it caps, how it streams, and how it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quota.gateway.denials import Denied
from quota.gateway.dialects import Endpoint
from quota.gateway.event_stream import EventStream
from quota.gateway.model_request import ModelRequest, read_request
from quota.gateway.models import CONVERSATIONS, Model, Models
from quota.gateway.usage import Counts, read_report
from tests.unit.quota.gateway.fakes import Client, desk, events, plain
from tests.unit.quota.gateway.test_model_request import LIMITS, SERVER, WEIGHT_1

ALL = frozenset(Endpoint)
MESSAGES = [{"role": "user", "content": "hello"}]
BODIES: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"messages": MESSAGES},
    Endpoint.COMPLETIONS: {"prompt": "hello"},
    Endpoint.EMBEDDINGS: {"input": ["hello", "there"]},
    Endpoint.RESPONSES: {"input": "hello"},
    Endpoint.MESSAGES: {"messages": MESSAGES, "max_tokens": 40},
}


def offered() -> Models:
    return Models([Model("m", "served/m", "M", "", LIMITS, WEIGHT_1, (SERVER,), endpoints=ALL)])


def read(endpoint: Endpoint, **fields: Any) -> ModelRequest | Denied:
    body = {"model": "m", **BODIES[endpoint], **fields}
    return read_request(endpoint, json.dumps(body).encode(), offered())


def good(endpoint: Endpoint, **fields: Any) -> ModelRequest:
    found = read(endpoint, **fields)
    assert isinstance(found, ModelRequest), found
    return found


CAP = {Endpoint.RESPONSES: "max_output_tokens", Endpoint.MESSAGES: "max_tokens"}


@pytest.mark.parametrize("endpoint", CAP)
def test_each_interface_has_its_own_name_for_the_cap_and_no_other(endpoint: Endpoint) -> None:
    name = CAP[endpoint]
    request = good(endpoint, **{name: 33})
    assert request.cap == 33
    assert json.loads(request.forwarded(21))[name] == 21
    others = {"max_tokens", "max_completion_tokens", "max_output_tokens"} - {name}
    for other in others:
        assert isinstance(read(endpoint, **{other: 9999}), Denied)


def test_embeddings_cost_their_prompt_and_have_no_cap() -> None:
    request = good(Endpoint.EMBEDDINGS)
    assert (request.answers, request.cap, request.prompts) == (0, 0, 2)
    assert request.hold_tokens(0) == request.prompt_bound
    assert "max_tokens" not in json.loads(request.forwarded(0))
    assert request.cap_within(request.prompt_bound) == 0
    assert request.cap_within(request.prompt_bound - 1) is None
    wrong: dict[str, Any]
    for wrong in ({"input": []}, {"input": {}}, {"input": ["a"] * 3000}, {"stream": True}, {"input": [True]}):
        assert isinstance(read(Endpoint.EMBEDDINGS, **wrong), Denied)


REFUSED: list[tuple[Endpoint, dict[str, Any]]] = [
    (Endpoint.RESPONSES, {"previous_response_id": "resp_1"}),
    (Endpoint.RESPONSES, {"conversation": "conv_1"}),
    (Endpoint.RESPONSES, {"background": True}),
    (Endpoint.RESPONSES, {"prompt": {"id": "p"}}),
    (Endpoint.RESPONSES, {"tools": [{"type": "web_search"}]}),
    (Endpoint.RESPONSES, {"tools": [{"type": "mcp"}]}),
    (Endpoint.RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}),
    (Endpoint.RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
    (Endpoint.RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]}),
    (Endpoint.RESPONSES, {"input": 5}),
    (Endpoint.MESSAGES, {"mcp_servers": [{}]}),
    (Endpoint.MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    (Endpoint.MESSAGES, {"messages": [{"role": "user", "content": [{"type": "document"}]}]}),
    (
        Endpoint.MESSAGES,
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}]},
    ),
    (Endpoint.MESSAGES, {"system": 5}),
    (Endpoint.CHAT, {"tools": [{"type": "web_search"}]}),
    (Endpoint.CHAT, {"web_search_options": {}}),
]


@pytest.mark.parametrize(("endpoint", "fields"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_metered_is_refused(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    found = read(endpoint, **fields)
    assert isinstance(found, Denied)
    assert found.status == 400


def test_what_agents_send_is_taken() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 4000}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "42"}]}
    request = good(
        Endpoint.MESSAGES,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
            {"role": "user", "content": [result]},
        ],
        tools=[{"name": "f", "input_schema": {"type": "object"}}],
    )
    assert request.image_bytes == 4000
    assert request.prompt_bound < 4000
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
    ]
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    sent = json.loads(good(Endpoint.RESPONSES, input=items, tools=tools, store=True).forwarded(5))
    assert sent["store"] is False


REPORTS: list[tuple[Endpoint, object, Counts | None]] = [
    (Endpoint.EMBEDDINGS, {"prompt_tokens": 5, "total_tokens": 5}, Counts(5, 0)),
    (Endpoint.EMBEDDINGS, {}, None),
    (
        Endpoint.RESPONSES,
        {
            "input_tokens": 9,
            "output_tokens": 4,
            "input_tokens_details": {"cached_tokens": 3},
            "output_tokens_details": {"reasoning_tokens": 2},
        },
        Counts(9, 4, 3, 2),
    ),
    (Endpoint.RESPONSES, {"prompt_tokens": 9, "completion_tokens": 4}, None),
    (Endpoint.MESSAGES, {"input_tokens": 1, "cache_read_input_tokens": 31, "output_tokens": 8}, Counts(32, 8, 31)),
    (
        Endpoint.MESSAGES,
        {"input_tokens": 1, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 4, "output_tokens": 8},
        Counts(7, 8, 2),
    ),
    (Endpoint.MESSAGES, {"input_tokens": 5, "output_tokens": 8, "cache_read_input_tokens": None}, Counts(5, 8)),
    (Endpoint.MESSAGES, {"input_tokens": 5, "output_tokens": 8, "cache_read_input_tokens": -1}, None),
    (Endpoint.MESSAGES, {"output_tokens": 8}, None),
]


@pytest.mark.parametrize(("endpoint", "report", "counts"), REPORTS, ids=range(len(REPORTS)))
def test_each_interface_counts_in_its_own_words(endpoint: Endpoint, report: object, counts: Counts | None) -> None:
    assert read_report(report, most=1000, endpoint=endpoint) == counts


def named(kind: str, **more: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **more}).encode())


STARTED = named(
    "message_start", message={"usage": {"input_tokens": 1, "cache_read_input_tokens": 10, "output_tokens": 0}}
)
DELTA = named("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"})
ENDING = named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7})
STOP = named("message_stop")
WORD = named("response.output_text.delta", delta="Hello")
FINAL = named("response.completed", response={"usage": {"input_tokens": 11, "output_tokens": 7}})


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_anthropics_stream_tells_prompt_and_output_apart(size: int) -> None:
    stream = EventStream(strip_usage=True, most_tokens=1000, endpoint=Endpoint.MESSAGES)
    data = STARTED + DELTA * 3 + ENDING + STOP
    passed = b"".join(stream.feed(data[start : start + size]) for start in range(0, len(data), size))
    assert passed == STARTED + DELTA * 3 + ENDING
    assert stream.done
    assert stream.tail == STOP
    assert stream.reported == Counts(11, 7, 10)


def test_a_prompt_that_was_told_is_kept_when_the_rest_never_comes() -> None:
    stream = EventStream(strip_usage=True, most_tokens=1000, endpoint=Endpoint.MESSAGES)
    stream.feed(STARTED + DELTA)
    assert stream.reported is None
    assert stream.prompt_reported == 11
    assert stream.output_tokens >= 1


def test_a_response_ends_with_its_report() -> None:
    stream = EventStream(strip_usage=True, most_tokens=1000, endpoint=Endpoint.RESPONSES)
    assert stream.feed(WORD + WORD + FINAL) == WORD + WORD
    assert stream.tail == FINAL
    assert stream.reported == Counts(11, 7)
    assert stream.output_tokens == 4


STREAMS = {
    Endpoint.MESSAGES: ("/v1/messages", [STARTED, DELTA, ENDING, STOP]),
    Endpoint.RESPONSES: ("/v1/responses", [WORD, FINAL]),
}


@pytest.mark.parametrize("endpoint", STREAMS)
async def test_a_stream_is_charged_before_its_last_event(endpoint: Endpoint) -> None:
    path, pieces = STREAMS[endpoint]
    d = await desk()
    d.upstreams.answers = [events(*pieces)]
    answered = await d.ask({**BODIES[endpoint], "stream": True}, path=path)
    assert answered.body == b"".join(pieces)
    assert d.records() == [("complete", 18, False)]


PLAIN = {
    "/v1/messages": {"usage": {"input_tokens": 4, "cache_read_input_tokens": 7, "output_tokens": 7}, "content": []},
    "/v1/responses": {"usage": {"input_tokens": 11, "output_tokens": 7}, "output": [], "error": None},
}


@pytest.mark.parametrize("path", PLAIN)
async def test_a_plain_answer_is_charged_as_reported(path: str) -> None:
    d = await desk()
    d.upstreams.answers = [plain(PLAIN[path])]
    fields = BODIES[Endpoint.RESPONSES if "responses" in path else Endpoint.MESSAGES]
    assert (await d.ask(fields, path=path)).status == 200
    assert d.records() == [("complete", 18, False)]


async def test_messages_are_refused_in_anthropics_words() -> None:
    d = await desk(tokens=3)
    answered = await d.ask(BODIES[Endpoint.MESSAGES], path="/v1/messages")
    assert answered.status == 429
    assert answered.headers["x-should-retry"] == "false"
    found = json.loads(answered.body)
    assert (found["type"], found["error"]["type"]) == ("error", "rate_limit_error")
    assert found["error"]["code"] == "insufficient_quota"
    assert json.loads((await d.ask({}, path="/v1/messages", key="no")).body)["error"]["type"] == "authentication_error"


async def test_anthropics_key_header_is_a_key() -> None:
    d = await desk()
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "headers": [(b"x-api-key", d.key.encode())],
    }
    client = Client()
    await d.gateway(scope, client.receive, client.send)
    assert client.answered.status == 200


async def test_counting_tokens_costs_none() -> None:
    d = await desk()
    d.upstreams.answers = [plain({"input_tokens": 32})]
    answered = await d.ask(path="/v1/messages/count_tokens")
    assert json.loads(answered.body) == {"input_tokens": 32}
    assert d.upstreams.urls == ["http://server-0/v1/messages/count_tokens"]
    assert d.balance == (0, 0)
    streamed = await d.ask({"stream": True}, path="/v1/messages/count_tokens")
    assert (streamed.status, json.loads(streamed.body)["error"]["type"]) == (400, "invalid_request_error")
    assert len(d.upstreams.urls) == 1


async def test_a_route_that_the_model_does_not_serve_is_told() -> None:
    d = await desk()
    answered = await d.ask({"input": "x"}, path="/v1/embeddings")
    assert (answered.status, answered.error["code"]) == (400, "route_not_served")
    assert Endpoint.EMBEDDINGS not in CONVERSATIONS
