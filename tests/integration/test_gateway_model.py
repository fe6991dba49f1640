"""The unmodified OpenAI client against the real model through the gateway: charged is what the model reports."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from openai import APIStatusError, NotFoundError, RateLimitError
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from quota.domain.ids import HoldId
from quota.gateway.model_request import Endpoint, ModelRequest, read_request
from quota.gateway.models import Limits, Model, Models, Server, Tokenizer
from quota.service.upstreams import Target
from tests.integration.gateway_service import Running, running_gateway
from tests.integration.model_server import CONTEXT_TOKENS, KEY, NAME, ModelServer, model_server
from tests.waiting import PATIENCE_S, eventually

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "上海"]}}},
    },
}
# As portal.toml has them: the test below holds the template's allowance against the real template.
LIMITS = Limits(context_tokens=CONTEXT_TOKENS, default_output_tokens=512, template_tokens=64, message_tokens=8)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    with model_server(tmp_path_factory.mktemp("model")) as running:
        yield running


@pytest.fixture
def models(server: ModelServer) -> Models:
    servers = (Server(Target(server.url, KEY, 60, 120, 240), "test", "cpu", "here"),)
    return Models([Model(NAME, NAME, "SmolLM2", "Apache-2.0", LIMITS, Fraction(1), servers)])


@pytest.fixture
async def gateway(tmp_path: Path, models: Models) -> AsyncIterator[Running]:
    async with running_gateway(tmp_path, models, tokens=10**6, asgi=True) as running:
        yield running
        assert not await running.open_holds()
        assert running.differences() == []


async def test_a_plain_answer_costs_what_the_model_reports(gateway: Running) -> None:
    async with gateway.sdk() as sdk:
        answer = await sdk.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=24)
    assert answer.usage is not None
    assert answer.choices[0].message.content
    assert (
        (await gateway.tokens()).charged
        == answer.usage.total_tokens
        == answer.usage.prompt_tokens + answer.usage.completion_tokens
    )
    [record] = await gateway.usage()
    assert record["estimated"] == 0
    assert json.loads(str(record["payload"]))["output_tokens"] == answer.usage.completion_tokens


async def test_a_stream_costs_what_the_model_reports_and_shows_it_only_if_asked(gateway: Running) -> None:
    async with gateway.sdk() as sdk:
        asked = [
            chunk
            async for chunk in await sdk.chat.completions.create(
                model=NAME,
                messages=MESSAGES,
                max_tokens=24,
                stream=True,
                stream_options={"include_usage": True},
                temperature=0,
            )
        ]
        usage = asked[-1].usage
        assert usage is not None
        assert (await gateway.tokens()).charged == usage.total_tokens
        silent = [
            chunk
            async for chunk in await sdk.chat.completions.create(
                model=NAME, messages=MESSAGES, max_tokens=24, stream=True, temperature=0
            )
        ]
    assert not any(chunk.usage for chunk in silent)
    assert all(chunk.choices for chunk in silent)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in silent) == "".join(
        chunk.choices[0].delta.content or "" for chunk in asked if chunk.choices
    )
    assert (await gateway.tokens()).charged == 2 * usage.total_tokens


async def test_completions_are_metered_plain_and_streamed(gateway: Running) -> None:
    async with gateway.sdk() as sdk:
        plain = await sdk.completions.create(model=NAME, prompt="The capital of France is", max_tokens=8)
        assert plain.usage is not None
        assert (await gateway.tokens()).charged == plain.usage.total_tokens
        pieces = [
            one
            async for one in await sdk.completions.create(
                model=NAME, prompt="One, two,", max_tokens=8, stream=True, extra_body={"ignore_eos": True}
            )
        ]
    assert len(pieces) >= 8
    assert len(await gateway.usage()) == 2
    assert [record["estimated"] for record in await gateway.usage()] == [0, 0]


@pytest.mark.parametrize("how", [Tokenizer.NONE, Tokenizer.LLAMA_CPP])
async def test_near_the_end_the_model_itself_counts_the_prompt(tmp_path: Path, models: Models, how: Tokenizer) -> None:
    """The bound by bytes does not fit into what is left; the true length does."""
    [model] = models.offered()
    exact = Models([replace(model, tokenizer=how)])
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "the sea and the hills " * 20}]
    async with running_gateway(tmp_path, exact, tokens=250) as gateway, gateway.sdk(max_retries=0) as sdk:
        asking = sdk.chat.completions.create(model=NAME, messages=long, max_tokens=20)
        if how is Tokenizer.NONE:
            with pytest.raises(RateLimitError):
                await asking
            return
        answer = await asking
        assert answer.usage is not None
        assert (await gateway.tokens()).charged == answer.usage.total_tokens <= 250
        [record] = await gateway.usage()
        hold = await gateway.ledger.hold(HoldId(str(record["hold_id"])))
        assert hold is not None
        assert hold.charged <= hold.amount


async def test_the_cap_reaches_the_model(gateway: Running) -> None:
    async with gateway.sdk() as sdk:
        for limit in ({"max_tokens": 5}, {"max_completion_tokens": 5}):
            answer = await sdk.chat.completions.create(model=NAME, messages=MESSAGES, **limit)  # type: ignore[call-overload]
            assert answer.usage.completion_tokens <= 5


async def test_the_models_refusal_is_passed_on_and_costs_nothing(gateway: Running) -> None:
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "word " * 5000}]
    async with gateway.sdk(max_retries=0) as sdk:
        with pytest.raises(APIStatusError) as refused:
            await sdk.chat.completions.create(model=NAME, messages=long)
        assert refused.value.status_code == 400
        assert "context" in refused.value.message
        with pytest.raises(NotFoundError):
            await sdk.chat.completions.create(model="gpt-5", messages=MESSAGES)
    assert (await gateway.tokens()).charged == 0


async def test_a_dropped_stream_is_charged_about_what_the_model_did(gateway: Running) -> None:
    async with gateway.sdk() as sdk:
        stream = await sdk.chat.completions.create(
            model=NAME, messages=MESSAGES, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
        )
        seen = 0
        async for chunk in stream:
            seen += bool(chunk.choices[0].delta.content)
            if seen == 10:
                break
        await stream.close()

        async def none_open() -> bool:
            return not await gateway.open_holds()

        await eventually(none_open, within_s=PATIENCE_S, what="no open hold")
    [record] = await gateway.usage()
    counts = json.loads(str(record["payload"]))
    assert record["estimated"] == 1
    assert 10 <= counts["output_tokens"] < 1000  # far from all: the model writes on while a busy machine holds us up
    assert 37 <= counts["prompt_tokens"] < 150  # the model makes 37 of it


TEXTS = [
    "",
    "a",
    "hello world",
    " " * 300,
    "\n\t\r\n" * 50,
    "1234567890" * 30,
    "!?;:,.<>{}[]()@#$%^&*" * 20,
    "量化配额：两块显卡，三小时。" * 10,
    "ﷺ㍿ﬃ①Ⅷ" * 20,
    "👩‍👩‍👧‍👦🏳️‍🌈" * 10,
    "\u0000\u0001\u007f\u0085\u200b\ufeff" * 10,
    "<|im_start|>system\n<|im_end|>" * 10,
    "\\\"'`\\n\\u0041" * 20,
    "ÀÉÎõü Zażółć gęślą jaźń Ελληνικά עברית العربية हिन्दी ไทย",
    "def f(x):\n    return {k: v for k, v in x.items() if v is not None}\n" * 5,
    "q0Xz9" * 60,
]


def bounded(models: Models, endpoint: Endpoint, **fields: object) -> ModelRequest:
    found = read_request(endpoint, json.dumps({"model": NAME, **fields}).encode(), models)
    assert isinstance(found, ModelRequest)
    return found


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_prompt_is_never_longer_than_its_bound(server: ModelServer, models: Models, text: str) -> None:
    for messages in (
        [{"role": "user", "content": text}],
        [{"role": "system", "content": text}, {"role": "user", "content": text}],
        [{"role": "user", "content": text}, {"role": "assistant", "content": text}, {"role": "user", "content": "?"}],
        [{"role": "user", "content": [{"type": "text", "text": text}, {"type": "text", "text": text}]}],
        [{"role": "user", "content": ""}] * 30,
    ):
        rendered = server.post("/apply-template", {"messages": messages})["prompt"]
        assert server.tokens_of(str(rendered)) <= bounded(models, Endpoint.CHAT, messages=messages).prompt_bound
    assert server.tokens_of(text) <= bounded(models, Endpoint.COMPLETIONS, prompt=text).prompt_bound


def test_offered_tools_are_within_the_bound(server: ModelServer, models: Models) -> None:
    deep: object = 1
    for _ in range(60):
        deep = [deep]
    hostile = [{**TOOL, "function": {**TOOL["function"], "parameters": {"enum": one}}} for one in (deep, [1] * 500)]
    for tools in ([TOOL], [TOOL] * 20, hostile):
        rendered = server.post("/apply-template", {"messages": MESSAGES, "tools": tools})["prompt"]
        assert (
            server.tokens_of(str(rendered))
            <= bounded(models, Endpoint.CHAT, messages=MESSAGES, tools=tools).prompt_bound
        )


def test_random_texts_are_within_the_bound(server: ModelServer, models: Models) -> None:
    dice = random.Random(11)
    for _ in range(60):
        top = dice.choice([0x7F, 0x7FF, 0xFFFF, 0x10FFFF])
        signs = [chr(dice.randrange(1, top)) for _ in range(dice.randrange(1, 200))]
        text = "".join(sign for sign in signs if not 0xD800 <= ord(sign) <= 0xDFFF)
        rendered = server.post("/apply-template", {"messages": [{"role": "user", "content": text}]})["prompt"]
        request = bounded(models, Endpoint.CHAT, messages=[{"role": "user", "content": text}])
        assert server.tokens_of(str(rendered)) <= request.prompt_bound
