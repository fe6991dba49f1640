"""Holds of model requests: none leaks when clients leave, and the last tokens are never spent twice."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest
from openai import RateLimitError
from openai.types.chat import ChatCompletionMessageParam

from quota.domain.hold import Hold, HoldState, Usage
from quota.domain.ids import HoldId
from quota.gateway import relay
from quota.gateway.models import Limits, Models
from quota.store.ledger import LedgerStore
from tests.integration.gateway_service import Running, running_gateway, stub_model
from tests.integration.upstream_stub import Asked, Stub, piece, report, stub_server, whole
from tests.waiting import PATIENCE_S, eventually

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
PIECES = 40


async def _slowly(asked: Asked) -> None:
    """A stream of forty pieces over a tenth of a second."""
    await asked.head("text/event-stream")
    for number in range(PIECES):
        await asked.write(b"data: " + json.dumps(piece(f"w{number} ")).encode() + b"\n\n")
        await asyncio.sleep(0.0025)
    usage = {"prompt_tokens": 9, "completion_tokens": PIECES}
    await asked.write(b"data: " + json.dumps(report(usage)).encode() + b"\n\ndata: [DONE]\n\n")


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with stub_server() as running:
        yield running


async def _dropped(
    gateway: Running, http: aiohttp.ClientSession, after_pieces: int | None, after_s: float
) -> tuple[str, int]:
    """Ask for a stream and leave: after some pieces, or after some time wherever the request is then; its hold, the pieces that came."""
    seen, hold_id = 0, ""

    async def listen() -> None:
        nonlocal seen, hold_id
        body = {"model": "stub", "messages": MESSAGES, "stream": True}
        headers = {"Authorization": f"Bearer {gateway.key}"}
        async with http.post(gateway.url + "/chat/completions", json=body, headers=headers) as answer:
            hold_id = answer.headers["x-request-id"]
            async for line in answer.content:
                seen += line.count(b'"content"')
                if after_pieces is not None and seen >= after_pieces:
                    answer.close()
                    return

    try:
        async with asyncio.timeout(after_s if after_pieces is None else PATIENCE_S):
            await listen()
    except TimeoutError:
        pass
    return hold_id, seen


@pytest.mark.parametrize("count", [200, pytest.param(500, marks=pytest.mark.full)])
async def test_streams_that_are_dropped_anywhere_leave_no_hold(tmp_path: Path, stub: Stub, count: int) -> None:
    stub.script = _slowly
    dice = random.Random(7)
    limit = asyncio.Semaphore(50)
    async with running_gateway(tmp_path, Models([stub_model(stub.url)]), tokens=10**6) as gateway:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:

            async def one(number: int) -> tuple[str, int]:
                after_pieces = dice.randrange(1, PIECES + 1) if number % 2 else None
                async with limit:
                    return await _dropped(gateway, http, after_pieces, dice.random() * 0.3)

            emitted = await asyncio.gather(*[one(number) for number in range(count)])

        async def none_open() -> bool:
            return not await gateway.open_holds()

        await eventually(none_open, within_s=PATIENCE_S, what="no open hold")
        balance = await gateway.tokens()
        assert balance.held == 0
        records = {str(record["hold_id"]): json.loads(str(record["payload"])) for record in await gateway.usage()}
        for hold_id, pieces in emitted:  # of the prompt's estimate alone more is charged than went out
            assert pieces <= (records[hold_id]["output_tokens"] if pieces else 0)
        for record in await gateway.usage():
            hold = await gateway.ledger.hold(record["hold_id"])  # type: ignore[arg-type]
            assert hold is not None
            assert hold.state is HoldState.SETTLED
            assert hold.charged <= hold.amount
        outcomes = Counter(json.loads(str(record["payload"]))["outcome"] for record in await gateway.usage())
        assert outcomes["client_left"] > count // 10
        assert gateway.differences() == []


async def _forever(asked: Asked) -> None:
    await asked.head("text/event-stream")
    while True:
        await asked.write(b"data: " + json.dumps(piece("x ")).encode() + b"\n\n")
        await asyncio.sleep(0.01)


async def test_the_model_server_is_told_when_the_client_leaves(tmp_path: Path, stub: Stub) -> None:
    stub.script = _forever
    async with running_gateway(tmp_path, Models([stub_model(stub.url)])) as gateway, aiohttp.ClientSession() as http:
        await _dropped(gateway, http, 5, 0)
        async with asyncio.timeout(PATIENCE_S):
            await stub.requests[0].hung_up.wait()


async def test_a_plain_request_whose_client_leaves_is_cut_and_charged_its_prompt(tmp_path: Path, stub: Stub) -> None:
    async def never(asked: Asked) -> None:
        await asyncio.sleep(60)

    stub.script = never
    async with running_gateway(tmp_path, Models([stub_model(stub.url)])) as gateway, gateway.sdk(max_retries=0) as sdk:
        asking = asyncio.create_task(sdk.chat.completions.create(model="stub", messages=MESSAGES))

        async def arrived() -> bool:
            return bool(stub.requests)

        await eventually(arrived, within_s=PATIENCE_S, what="the request", every_s=0.01)
        asking.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await stub.requests[0].hung_up.wait()

        async def recorded() -> list[dict[str, object]] | None:
            return (await gateway.usage()) or None

        [record] = await eventually(recorded, within_s=PATIENCE_S, what="the record", every_s=0.05)
        assert record["estimated"] == 1
        assert 20 < int(str(record["amount"])) < 200


async def test_who_hangs_up_at_the_last_word_pays_what_was_reported(
    tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        relay, "_LATE_REPORT_S", 30.0
    )  # the number, not the code: a busy machine stands still for seconds

    async def script(asked: Asked) -> None:
        await asked.head("text/event-stream")
        for one in (piece("a "), piece("b", "stop")):
            await asked.write(b"data: " + json.dumps(one).encode() + b"\n\n")
        await asyncio.sleep(0.2)
        await asked.write(b"data: " + json.dumps(report()).encode() + b"\n\n")

    stub.script = script
    async with running_gateway(tmp_path, Models([stub_model(stub.url)])) as gateway, aiohttp.ClientSession() as http:
        await _dropped(gateway, http, 2, 0)

        async def recorded() -> list[dict[str, object]] | None:
            return (await gateway.usage()) or None

        [record] = await eventually(recorded, within_s=PATIENCE_S, what="the record", every_s=0.05)
        assert (record["amount"], record["estimated"]) == (18, 0)


async def test_an_exhausted_project_costs_the_sdk_one_http_request(tmp_path: Path, stub: Stub) -> None:
    asked = 0

    async def count(_: object) -> None:
        nonlocal asked
        asked += 1

    async with running_gateway(tmp_path, Models([stub_model(stub.url)]), tokens=20) as gateway, gateway.sdk() as sdk:
        sdk._client.event_hooks["request"].append(count)
        with pytest.raises(RateLimitError) as refused:
            await sdk.chat.completions.create(model="stub", messages=MESSAGES)
        assert asked == 1
        assert refused.value.code == "insufficient_quota"
        assert "the project has 20 tokens" in refused.value.message
        assert refused.value.response.headers["x-ratelimit-remaining-tokens"] == "20"
        assert not stub.requests
        await gateway.award(10_000)

        async def goes() -> bool:
            try:
                await sdk.chat.completions.create(model="stub", messages=MESSAGES)
            except RateLimitError:
                return False
            return True

        await eventually(goes, within_s=PATIENCE_S, what="the new award counts")


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.full)])
async def test_requests_at_the_last_tokens_never_spend_more_than_there_is(
    tmp_path: Path, stub: Stub, count: int
) -> None:
    """Each uses all that it is allowed: the cap in full, and a prompt as long as its bound."""

    async def greedy(asked: Asked) -> None:
        await asyncio.sleep(0.01)
        usage = {"prompt_tokens": 60, "completion_tokens": asked.body["max_tokens"]}
        await asked.json(whole(usage=usage))

    stub.script = greedy
    tokens = 3_000
    limits = Limits(context_tokens=4096, default_output_tokens=200, template_tokens=16, message_tokens=4)
    async with running_gateway(tmp_path, Models([stub_model(stub.url, limits=limits)]), tokens=tokens) as gateway:
        headers = {"Authorization": f"Bearer {gateway.key}"}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

            async def one() -> int:
                body = {"model": "stub", "messages": MESSAGES}
                async with http.post(gateway.url + "/chat/completions", json=body, headers=headers) as answer:
                    await answer.read()
                    return answer.status

            statuses = Counter(await asyncio.gather(*[one() for _ in range(count)]))
        assert set(statuses) == {200, 429}
        balance = await gateway.tokens()
        assert balance.charged <= tokens
        assert balance.held == 0
        assert balance.charged == sum(int(str(record["amount"])) for record in await gateway.usage())
        assert not any(record["overrun"] for record in await gateway.usage())
        assert statuses[200] == len(await gateway.usage())
        assert gateway.differences() == []


async def test_near_the_end_the_answer_gets_shorter_before_it_is_refused(tmp_path: Path, stub: Stub) -> None:
    async with running_gateway(tmp_path, Models([stub_model(stub.url)]), tokens=180) as gateway, gateway.sdk() as sdk:
        await sdk.chat.completions.create(model="stub", messages=MESSAGES, max_tokens=1000)
        sent = stub.requests[0].body
        assert 16 <= sent["max_tokens"] == sent["max_completion_tokens"] < 100


async def test_stopping_settles_what_runs(tmp_path: Path, stub: Stub) -> None:
    stub.script = _forever
    async with running_gateway(tmp_path, Models([stub_model(stub.url)])) as gateway, aiohttp.ClientSession() as http:
        asking = asyncio.create_task(_dropped(gateway, http, 10**6, 0))

        async def running() -> bool:
            return bool(await gateway.open_holds())

        await eventually(running, within_s=PATIENCE_S, what="a hold", every_s=0.005)
        await gateway.gateway.close(0)
        assert not await gateway.open_holds()
        assert (await gateway.tokens()).held == 0
        await asking


async def test_a_settlement_begins_a_batch_beside_other_requests_and_goes_with_the_next_hold_alone(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, hurried, go_on = LedgerStore.settle, list[bool](), asyncio.Event()

    async def noted(
        self: LedgerStore, hold_id: HoldId, at: datetime, usage: Usage | None = None, *, hurry: bool = True
    ) -> Hold:
        hurried.append(hurry)
        return await settle(self, hold_id, at, usage, hurry=hurry)

    async def the_first_waits(asked: Asked) -> None:
        if len(stub.requests) == 1:
            await go_on.wait()
        await asked.json(whole())

    monkeypatch.setattr(LedgerStore, "settle", noted)
    stub.script = the_first_waits
    async with running_gateway(tmp_path, Models([stub_model(stub.url)])) as gateway, gateway.sdk(max_retries=0) as sdk:
        waits = asyncio.create_task(sdk.chat.completions.create(model="stub", messages=MESSAGES))

        async def asked_once() -> bool:
            return len(stub.requests) == 1

        await eventually(asked_once, within_s=PATIENCE_S, what="the first request is under way")
        await sdk.chat.completions.create(model="stub", messages=MESSAGES)
        for left in (1, 0):

            async def settled(left: int = left) -> bool:
                return len(hurried) == 2 - left and len(await gateway.open_holds()) == left

            await eventually(settled, within_s=PATIENCE_S, what="one more is settled")
            go_on.set()
        await waits
    assert hurried == [True, False]
