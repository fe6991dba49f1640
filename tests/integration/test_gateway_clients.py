"""Unmodified clients against the real model: what each is told it used is what is charged, and what the model itself counted.

The model runs with its prompt cache off, so that its own metrics count every prompt whole.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from anthropic import APIStatusError as AnthropicError
from anthropic import AsyncAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import AsyncOpenAI
from pydantic import SecretStr

from quota.gateway.dialects import Endpoint
from quota.gateway.models import Limits, Model, Models, Server
from quota.service.upstreams import Target
from tests.integration.gateway_service import Running, running_gateway
from tests.integration.model_server import CONTEXT_TOKENS, KEY, NAME, ModelServer, model_server
from tests.integration.test_gateway_model import LIMITS
from tests.litellm_environment import litellm_programs

ASK = "Say three words about the sea."
EMBEDDER = "embedder"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelServer, ModelServer]]:
    folder = tmp_path_factory.mktemp("models")
    with model_server(folder / "exact", "exact") as exact, model_server(folder / "vectors", "embeddings") as vectors:
        yield exact, vectors


@pytest.fixture
async def gateway(tmp_path: Path, servers: tuple[ModelServer, ModelServer]) -> AsyncIterator[Running]:
    exact, vectors = (
        (Server(Target(one.url, KEY, 60, 120, 240), "test", "cpu", "here"),) for one in servers
    )  # fmt: skip
    limits = Limits(context_tokens=CONTEXT_TOKENS, template_tokens=8, message_tokens=8)
    models = Models(
        [
            Model(NAME, NAME, "SmolLM2", "Apache-2.0", LIMITS, Fraction(1), exact),
            Model(EMBEDDER, NAME, "E", "", limits, Fraction(1), vectors, endpoints=frozenset({Endpoint.EMBEDDINGS})),
        ]
    )
    async with running_gateway(tmp_path, models, tokens=10**6) as running:
        yield running
        assert not await running.open_holds()
        assert running.differences() == []


async def _openai_chat(sdk: AsyncOpenAI, text: str, cap: int) -> int:
    answer = await sdk.chat.completions.create(model=NAME, messages=[{"role": "user", "content": text}], max_tokens=cap)
    assert answer.usage is not None
    return answer.usage.total_tokens


async def _openai_stream(sdk: AsyncOpenAI, text: str, cap: int) -> int:
    stream = await sdk.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": text}], max_tokens=cap, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    return sum([chunk.usage.total_tokens async for chunk in stream if chunk.usage is not None])


async def _openai_completion(sdk: AsyncOpenAI, text: str, cap: int) -> int:
    answer = await sdk.completions.create(model=NAME, prompt=text, max_tokens=cap)
    assert answer.usage is not None
    return answer.usage.total_tokens


async def _responses(sdk: AsyncOpenAI, text: str, cap: int) -> int:
    answer = await sdk.responses.create(model=NAME, input=text, max_output_tokens=cap)
    assert answer.usage is not None
    assert answer.output_text
    return answer.usage.total_tokens


async def _responses_stream(sdk: AsyncOpenAI, text: str, cap: int) -> int:
    stream = await sdk.responses.create(model=NAME, input=text, max_output_tokens=cap, stream=True)
    ends: list[Any] = [event async for event in stream if event.type == "response.completed"]
    assert len(ends) == 1
    return int(ends[0].response.usage.total_tokens)


async def _anthropic(sdk: AsyncAnthropic, text: str, cap: int) -> int:
    answer = await sdk.messages.create(model=NAME, messages=[{"role": "user", "content": text}], max_tokens=cap)
    usage = answer.usage
    return usage.input_tokens + (usage.cache_read_input_tokens or 0) + usage.output_tokens


async def _anthropic_stream(sdk: AsyncAnthropic, text: str, cap: int) -> int:
    asked = sdk.messages.stream(model=NAME, messages=[{"role": "user", "content": text}], max_tokens=cap)
    async with asked as stream:
        answer = await stream.get_final_message()
    usage = answer.usage
    return usage.input_tokens + (usage.cache_read_input_tokens or 0) + usage.output_tokens


async def _langchain(chat: ChatOpenAI, text: str, cap: int) -> int:
    answer: Any = await chat.bind(max_tokens=cap).ainvoke(text)
    return int(answer.usage_metadata["total_tokens"])


async def _langchain_stream(chat: ChatOpenAI, text: str, cap: int) -> int:
    """With a custom base URL LangChain asks for no usage: what was charged is looked up by those who need it."""
    pieces: list[Any] = [piece async for piece in chat.bind(max_tokens=cap).astream(text)]
    assert "".join(str(piece.content) for piece in pieces)
    return -1


OPENAI = (_openai_chat, _openai_stream, _openai_completion, _responses, _responses_stream)
ANTHROPIC = (_anthropic, _anthropic_stream)
LANGCHAIN = (_langchain, _langchain_stream)


class Clients:
    """Every client with the key and address that a notebook has."""

    def __init__(self, gateway: Running) -> None:
        self.openai = AsyncOpenAI(base_url=gateway.url, api_key=gateway.key, max_retries=0)
        root = gateway.url.removesuffix("/v1")
        self.anthropic = AsyncAnthropic(base_url=root, api_key=gateway.key, max_retries=0)
        self.langchain = ChatOpenAI(model=NAME, base_url=gateway.url, api_key=SecretStr(gateway.key), max_retries=0)

    async def ask(self, how: Callable[..., Any], text: str, cap: int) -> int:
        client = self.anthropic if how in ANTHROPIC else self.langchain if how in LANGCHAIN else self.openai
        return int(await how(client, text, cap))

    async def close(self) -> None:
        await self.openai.close()
        await self.anthropic.close()


@pytest.mark.parametrize("how", [*OPENAI, *ANTHROPIC, *LANGCHAIN], ids=lambda how: how.__name__.strip("_"))
async def test_a_client_is_charged_what_it_is_told(
    gateway: Running, servers: tuple[ModelServer, ModelServer], how: Callable[..., Any]
) -> None:
    clients = Clients(gateway)
    before = sum(servers[0].worked())
    told = await clients.ask(how, ASK, 12)
    await clients.close()
    charged = (await gateway.tokens()).charged
    assert charged == sum(servers[0].worked()) - before
    assert told in (charged, -1)
    [record] = await gateway.usage()
    assert record["estimated"] == 0


@pytest.mark.parametrize("count", [24, pytest.param(540, marks=[pytest.mark.full, pytest.mark.timeout(1500)])])
async def test_mixed_requests_are_charged_as_reported_and_as_the_model_counts(
    gateway: Running, servers: tuple[ModelServer, ModelServer], count: int
) -> None:
    dice = random.Random(5)
    clients = Clients(gateway)
    before = servers[0].worked()
    limit = asyncio.Semaphore(8)
    told: list[int] = []

    async def one(number: int) -> None:
        how = (*OPENAI, *ANTHROPIC, _langchain)[number % 8]
        async with limit:
            told.append(await clients.ask(how, f"{number}. {ASK} " * dice.randrange(1, 3), dice.randrange(1, 9)))

    await asyncio.gather(*[one(number) for number in range(count)])
    await clients.close()
    after = servers[0].worked()
    records = [json.loads(str(one["payload"])) for one in await gateway.usage()]
    assert (await gateway.tokens()).charged == sum(told)
    assert sum(one["prompt_tokens"] for one in records) == after[0] - before[0]
    assert sum(one["output_tokens"] for one in records) == after[1] - before[1]
    assert len(records) == count


async def test_embeddings_cost_what_is_reported(gateway: Running, servers: tuple[ModelServer, ModelServer]) -> None:
    async with gateway.sdk() as sdk:
        answer = await sdk.embeddings.create(model=EMBEDDER, input=["the sea", "a hill"], encoding_format="float")
    assert len(answer.data) == 2
    assert answer.usage.prompt_tokens == (await gateway.tokens()).charged > 0
    embed = OpenAIEmbeddings(
        model=EMBEDDER,
        openai_api_base=gateway.url,
        openai_api_key=SecretStr(gateway.key),
        check_embedding_ctx_length=False,
    )
    assert len(await embed.aembed_query("the sea")) > 100
    assert len(await gateway.usage()) == 2


async def test_counting_tokens_is_free_and_right(gateway: Running) -> None:
    clients = Clients(gateway)
    messages: Any = [{"role": "user", "content": ASK}]
    counted = await clients.anthropic.messages.count_tokens(model=NAME, messages=messages)
    assert (await gateway.tokens()).charged == 0
    answer = await clients.anthropic.messages.create(model=NAME, messages=messages, max_tokens=2)
    assert counted.input_tokens == answer.usage.input_tokens
    await clients.close()


async def test_anthropics_client_reads_the_refusal_and_asks_once(
    tmp_path: Path, servers: tuple[ModelServer, ModelServer]
) -> None:
    asked = 0

    async def count(_: object) -> None:
        nonlocal asked
        asked += 1

    model = Model(
        NAME, NAME, "S", "", LIMITS, Fraction(1), (Server(Target(servers[0].url, KEY, 5, 5, 5), "t", "c", "h"),)
    )
    async with running_gateway(tmp_path, Models([model]), tokens=9) as gateway:
        root = gateway.url.removesuffix("/v1")
        async with AsyncAnthropic(base_url=root, api_key=gateway.key) as sdk:
            sdk._client.event_hooks["request"].append(count)
            with pytest.raises(AnthropicError) as refused:
                await sdk.messages.create(model=NAME, messages=[{"role": "user", "content": ASK}], max_tokens=20)
    assert asked == 1
    assert refused.value.status_code == 429
    assert "9 tokens" in str(refused.value)


_LITELLM = """
import asyncio, json, sys
import litellm

async def main(base, key, model):
    ask = dict(model="openai/" + model, api_base=base, api_key=key, max_tokens=9, num_retries=0)
    ask["messages"] = [{"role": "user", "content": "Say three words about the sea."}]
    plain = await litellm.acompletion(**ask)
    text = ""
    async for piece in await litellm.acompletion(**ask, stream=True):
        text += piece.choices[0].delta.content or ""
    print(json.dumps({"total": plain.usage.total_tokens, "text": plain.choices[0].message.content, "streamed": text}))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.full
async def test_jupyter_ais_way_to_a_model_is_charged_as_it_is_told(
    gateway: Running, servers: tuple[ModelServer, ModelServer]
) -> None:
    """jupyter-ai asks through litellm: plain and streamed, from an environment of its own."""
    python = await asyncio.to_thread(litellm_programs) / "python"
    before = sum(servers[0].worked())
    process = await asyncio.create_subprocess_exec(
        str(python), "-c", _LITELLM, gateway.url, gateway.key, NAME, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    said = json.loads(out.splitlines()[-1])
    records = await gateway.usage()
    assert len(records) == 2
    assert said["text"]
    assert said["streamed"]
    assert records[0]["amount"] == said["total"]
    assert (await gateway.tokens()).charged == sum(servers[0].worked()) - before
