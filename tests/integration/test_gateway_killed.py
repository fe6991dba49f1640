"""A gateway that is killed in the middle of streams: what was sent is charged, what was not is released, and nothing stays held."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import text

from quota.adapters.clock import SystemClock
from quota.domain.hold import HoldKind, HoldState
from quota.domain.ids import HoldId
from quota.gateway.journal import Journal, Trace, left_behind
from quota.gateway.recovery import recover
from quota.store.database import open_database, url_for
from quota.store.ledger import LedgerStore
from quota.store.verify import verify
from tests.integration.gateway_service import ROOT
from tests.integration.upstream_stub import Asked, piece, stub_server
from tests.portal import ROOT as CLONE
from tests.waiting import PATIENCE_S, eventually

PIECES = 60


async def _slowly(asked: Asked) -> None:
    await asked.head("text/event-stream")
    for number in range(PIECES):
        await asked.write(b"data: " + json.dumps(piece(f"w{number} ")).encode() + b"\n\n")
        await asyncio.sleep(0.02)
    await asked.hung_up.wait()


@dataclass
class Seen:
    """What one client got."""

    hold_id: str = ""
    pieces: int = 0


@dataclass
class Killed:
    port: int
    key: str
    process: asyncio.subprocess.Process
    seen: list[Seen] = field(default_factory=list)

    async def stream(self, http: aiohttp.ClientSession, leave_after: int | None) -> None:
        seen = Seen()
        self.seen.append(seen)
        body = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "stream": True}
        url = f"http://127.0.0.1:{self.port}{ROOT}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {self.key}"}
        with suppress(aiohttp.ClientError, ConnectionError):
            async with http.post(url, json=body, headers=headers) as answer:
                seen.hold_id = answer.headers.get("x-request-id", "")
                async for line in answer.content:
                    seen.pieces += line.count(b'"content"')
                    if leave_after is not None and seen.pieces >= leave_after:
                        answer.close()
                        return


@asynccontextmanager
async def gateway_process(folder: Path, upstream: str, *limits: str) -> AsyncIterator[Killed]:
    argv = [sys.executable, "-m", "tests.integration.gateway_process", str(folder), upstream, *limits]
    process = await asyncio.create_subprocess_exec(*argv, cwd=CLONE, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        port, key = (await process.stdout.readline()).decode().split()
    try:
        yield Killed(int(port), key, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.full)])
async def test_streams_of_a_killed_gateway_are_charged_what_went_out(tmp_path: Path, count: int) -> None:
    dice = random.Random(9)
    async with (
        stub_server(_slowly) as stub,
        gateway_process(tmp_path, stub.url) as gateway,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        leaves = [dice.randrange(1, 15) if number % 3 == 0 else None for number in range(count)]
        streams = [asyncio.create_task(gateway.stream(http, leave)) for leave in leaves]

        async def under_way() -> bool:
            return sum(seen.pieces for seen in gateway.seen) >= count * 8 and all(seen.pieces for seen in gateway.seen)

        await eventually(under_way, within_s=PATIENCE_S, what="streams in their middle", every_s=0.01)
        gateway.process.send_signal(signal.SIGKILL)
        await asyncio.wait_for(asyncio.gather(*streams), PATIENCE_S)
        await gateway.process.wait()
    database = open_database(url_for(tmp_path))
    async with LedgerStore(database) as ledger:
        before = await ledger.open_holds(HoldKind.REQUEST)
        assert len(before) > count // 3
        closed = await recover(tmp_path / "gateway", ledger, SystemClock())
        assert closed == len(before)
        assert not await ledger.open_holds(HoldKind.REQUEST)
        assert await recover(tmp_path / "gateway", ledger, SystemClock()) == 0
        with database.reading() as connection:
            rows = connection.execute(text("SELECT hold_id, payload FROM usage_record WHERE source = 'gateway'"))
            output = {row.hold_id: json.loads(row.payload)["output_tokens"] for row in rows}
        for seen in gateway.seen:
            if not seen.hold_id:
                continue
            assert seen.pieces <= output[seen.hold_id]  # of the prompt's estimate alone more is charged than went out
            hold = await ledger.hold(HoldId(seen.hold_id))
            assert hold is not None
            assert hold.state is HoldState.SETTLED
            assert hold.charged <= hold.amount
    assert list(verify(database)) == []
    assert not list((tmp_path / "gateway").iterdir())
    database.close()


async def _told(gateway: Killed, http: aiohttp.ClientSession, told: dict[str, int], *, streamed: bool) -> None:
    """Ask again and again until the gateway is gone; the tokens that each whole answer told, by its hold."""
    body = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "stream": streamed}
    if streamed:
        body["stream_options"] = {"include_usage": True}
    url = f"http://127.0.0.1:{gateway.port}{ROOT}/v1/chat/completions"
    with suppress(aiohttp.ClientError, ConnectionError):
        while True:
            async with http.post(url, json=body, headers={"Authorization": f"Bearer {gateway.key}"}) as answer:
                said = (await answer.read()).decode()
                assert answer.status == 200, said
                whole = said if not streamed else said.removesuffix("data: [DONE]\n\n").rpartition("data: ")[2]
                told[answer.headers["x-request-id"]] = json.loads(whole)["usage"]["total_tokens"]


async def test_whoever_had_the_whole_answer_is_charged_what_it_told(tmp_path: Path) -> None:
    """The answer does not wait for the ledger's commit: what a kill catches in between is settled by the journal, exactly."""
    caught = 0
    for round_ in range(20):
        folder, told = tmp_path / str(round_), dict[str, int]()
        async with (
            stub_server() as stub,
            gateway_process(folder, stub.url) as gateway,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            clients = [asyncio.create_task(_told(gateway, http, told, streamed=n % 2 == 0)) for n in range(32)]

            async def many(seen: dict[str, int] = told) -> bool:
                return len(seen) >= 100

            await eventually(many, within_s=PATIENCE_S, what="answers", every_s=0.01)
            gateway.process.send_signal(signal.SIGKILL)
            await asyncio.wait_for(asyncio.gather(*clients), PATIENCE_S)
            await gateway.process.wait()
        database = open_database(url_for(folder))
        async with LedgerStore(database) as ledger:
            caught += sum(hold.id in told for hold in await ledger.open_holds(HoldKind.REQUEST))
            await recover(folder / "gateway", ledger, SystemClock())
            assert not await ledger.open_holds(HoldKind.REQUEST)
            for hold_id, tokens in told.items():
                hold = await ledger.hold(HoldId(hold_id))
                assert hold is not None
                assert (hold.state, hold.charged) == (HoldState.SETTLED, tokens)
        with database.reading() as connection:
            rows = connection.execute(text("SELECT hold_id, estimated FROM usage_record")).all()
        assert {hold_id for hold_id, estimated in rows if estimated}.isdisjoint(told)
        assert list(verify(database)) == []
        database.close()
        if caught:
            return
    raise AssertionError("no kill came between an answer's end and its settlement")


def test_a_living_process_keeps_its_journal_to_itself(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    slot = journal.take(HoldId("hold-0001"))
    assert slot is not None
    assert list(left_behind(tmp_path)) == []
    slot.free()
    journal.close()
    assert not list(tmp_path.iterdir())


def test_a_journal_says_what_was_sent(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    held, sent, gone, over, guessed = (journal.take(HoldId(f"hold-000{number}")) for number in range(5))
    assert held is not None
    assert sent is not None
    assert gone is not None
    assert over is not None
    assert guessed is not None
    sent.sent(7)
    sent.emits(7, 3)
    gone.sent(5)
    gone.not_sent()
    over.sent(9)
    over.costs(8, 4, reported=True)
    guessed.sent(9)
    guessed.costs(9, 5, reported=False)
    journal.close()
    [left] = list(left_behind(tmp_path))
    assert {trace.hold_id: trace for trace in left.traces} == {
        one.hold_id: one
        for one in (
            Trace(HoldId("hold-0000"), sent=False, prompt=0, output=0),
            Trace(HoldId("hold-0001"), sent=True, prompt=7, output=3),
            Trace(HoldId("hold-0002"), sent=False, prompt=5, output=0),
            Trace(HoldId("hold-0003"), sent=True, prompt=8, output=4, reported=True),
            Trace(HoldId("hold-0004"), sent=True, prompt=9, output=5),
        )
    }
    left.done()
    assert not list(tmp_path.iterdir())


def test_a_journal_of_another_boot_or_of_nonsense_tells_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    slot = journal.take(HoldId("hold-0001"))
    assert slot is not None
    slot.sent(7)
    journal.memory[8:16] = b"another!"
    journal.close()
    (tmp_path / "gateway-1-nonsense.journal").write_bytes(b"\xff" * 100)
    for left in left_behind(tmp_path):
        assert left.traces == []
        left.done()
