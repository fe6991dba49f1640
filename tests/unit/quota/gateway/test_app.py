"""The gateway as a client meets it: what is served, what is denied and how, and who pays when somebody leaves."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from quota.domain.errors import Spooled, Unavailable
from quota.domain.project import ProjectState
from quota.gateway.journal import Journal, left_behind
from quota.service.upstreams import Interrupted, NotReached, TimedOut
from tests.unit.quota.gateway.fakes import Client, Desk, FakeAnswer, chunk, desk, events, plain, report


async def test_an_answer_is_charged_before_it_is_complete() -> None:
    d = await desk()
    answered = await d.ask()
    assert answered.status == 200
    assert d.records() == [("complete", 18, False)]
    assert d.balance == (18, 0)
    assert answered.headers["x-ratelimit-limit-tokens"] == "10000"
    assert answered.headers["x-ratelimit-remaining-tokens"] == "9982"
    assert answered.headers["x-commons-charged-tokens"] == "18"
    assert answered.headers["x-commons-awarded-tokens"] == "10000"


async def test_a_stream_is_charged_before_it_says_done() -> None:
    d = await desk()
    d.upstreams.answers = [events(chunk("a"), chunk("b", "stop"), report(), b"data: [DONE]\n\n")]
    client = d.client(stream=True)
    answered = await d.ask(client=client)
    assert answered.body == chunk("a") + chunk("b", "stop") + b"data: [DONE]\n\n"
    assert answered.headers["content-type"].startswith("text/event-stream")
    assert d.balance == (18, 0)
    assert d.upstreams.bodies[0]["stream_options"] == {"include_usage": True}


async def test_models_with_a_server_are_listed() -> None:
    d = await desk()
    answered = await d.ask(path="/v1/models", method="GET", body=(b"",))
    assert [one["id"] for one in json.loads(answered.body)["data"]] == ["m"]


DENIED = [
    ("/v1/images/generations", "POST", 404, "unknown_url"),
    ("/v1/models/m", "GET", 404, "unknown_url"),
    ("/v1/chat/completions/", "POST", 404, "unknown_url"),
    ("/tokenize", "POST", 404, "unknown_url"),
    ("/v1/../metrics", "GET", 404, "unknown_url"),
    ("", "GET", 404, "unknown_url"),
    ("/v1/models", "POST", 405, "method_not_allowed"),
    ("/v1/chat/completions", "GET", 405, "method_not_allowed"),
    ("/v1/completions", "OPTIONS", 405, "method_not_allowed"),
]


@pytest.mark.parametrize(("path", "method", "status", "code"), DENIED)
async def test_what_is_not_metered_is_denied(path: str, method: str, status: int, code: str) -> None:
    d = await desk()
    answered = await d.ask(path=path, method=method)
    assert (answered.status, answered.error["code"]) == (status, code)
    assert not d.upstreams.bodies


@pytest.mark.parametrize("key", ["", "sk-123", "cck-session-0001-" + "A" * 43, "cck-", "é", "x" * 9999])
async def test_a_key_that_we_did_not_make_is_refused(key: str) -> None:
    d = await desk()
    answered = await d.ask(key=key)
    assert (answered.status, answered.error["code"]) == (401, "invalid_api_key")
    assert answered.headers["x-should-retry"] == "false"


async def test_a_key_dies_with_its_session() -> None:
    d = await desk()
    await d.world.ledger.settle(d.session, d.world.clock.now())
    assert (await d.ask()).status == 401


async def test_who_left_the_project_is_refused() -> None:
    d = await desk()
    d.world.books.roles.clear()
    answered = await d.ask()
    assert (answered.status, answered.error["code"]) == (403, "not_a_member")


async def test_a_suspended_project_is_refused() -> None:
    d = await desk()
    tx = await d.world.store.read(lambda tx: tx)
    tx.projects.set_state(d.project, ProjectState.SUSPENDED)
    assert (await d.ask()).error["code"] == "project_suspended"


BODIES = [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000, b'{"model": "m", "messages": ' + b"9" * 5000 + b"}",
    b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', "\ufeff{}".encode(),
    b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
async def test_a_body_that_is_nonsense_is_a_400(body: bytes) -> None:
    d = await desk()
    answered = await d.ask(body=(body,))
    assert (answered.status, answered.error["type"]) == (400, "invalid_request_error")
    assert d.balance == (0, 0)


async def test_a_body_that_is_too_large_is_refused_however_it_comes() -> None:
    d = await desk()
    assert (await d.ask(headers=[(b"content-length", b"9" * 30)])).error["code"] == "too_large"
    assert (await d.ask(body=[b" " * 2**19] * 3)).error["code"] == "too_large"


async def test_a_compressed_body_is_refused() -> None:
    d = await desk()
    assert (await d.ask(headers=[(b"content-encoding", b"gzip")])).status == 400


async def test_a_client_that_leaves_while_it_sends_is_no_error() -> None:
    d = await desk()
    client = Client([])
    client.leave()
    assert (await d.ask(client=client)).status == 0
    assert d.balance == (0, 0)


async def test_an_unknown_model_and_one_without_a_server_are_told_apart() -> None:
    d = await desk()
    assert (await d.ask({"model": "gpt-5"})).error["code"] == "model_not_found"
    answered = await d.ask({"model": "none"})
    assert (answered.status, answered.error["code"]) == (503, "model_unavailable")


async def test_an_exhausted_project_is_told_so_once() -> None:
    d = await desk(tokens=5)
    answered = await d.ask()
    assert answered.status == 429
    assert answered.error["type"] == answered.error["code"] == "insufficient_quota"
    assert answered.headers["x-should-retry"] == "false"
    assert "5 tokens" in answered.error["message"]
    assert not d.upstreams.bodies


async def test_without_the_ledger_nothing_is_sent() -> None:
    d = await desk()
    d.world.store.down = True
    answered = await d.ask()
    assert (answered.status, answered.headers["retry-after"]) == (503, "2")
    assert not d.upstreams.bodies


FAILURES = [
    (NotReached("refused"), 503, "model_unreachable"),
    (TimedOut("slow"), 504, "gateway_timeout"),
    (FakeAnswer([Interrupted("gone")]), 502, "bad_gateway"),
    (FakeAnswer([b"<html>"]), 502, "bad_gateway"),
    (FakeAnswer([b"{}"], status=401), 502, "bad_gateway"),
    (FakeAnswer([b"{}"], status=429, retry_after="7"), 503, "model_busy"),
    (FakeAnswer([b'{"error": {"message": "no"}}'], status=400), 400, "upstream_error"),
    (RuntimeError("a bug"), 500, "internal"),
]


@pytest.mark.parametrize(("answer", "status", "code"), FAILURES, ids=[code for _, _, code in FAILURES])
async def test_what_fails_before_the_answer_costs_nothing(
    answer: FakeAnswer | Exception, status: int, code: str
) -> None:
    d = await desk()
    d.upstreams.answers = [answer]
    answered = await d.ask()
    assert (answered.status, answered.error["code"]) == (status, code)
    assert d.balance == (0, 0)
    assert d.records() == []
    assert [server.busy for server in d.model.servers] == [0]


async def test_a_retry_runs_under_the_same_hold() -> None:
    d = await desk(servers=2)
    d.upstreams.answers = [NotReached("refused"), plain()]
    assert (await d.ask()).status == 200
    assert len(set(d.upstreams.urls)) == 2
    assert d.records() == [("complete", 18, False)]
    assert len(d.world.books.holds) == 2  # the session's and the request's


async def test_an_overloaded_server_passes_the_request_on() -> None:
    d = await desk(servers=2)
    busy = FakeAnswer([], status=503)
    d.upstreams.answers = [busy, plain()]
    assert (await d.ask()).status == 200
    assert busy.closed
    assert [server.busy for server in d.model.servers] == [0, 0]


async def test_a_dropped_connection_is_tried_again_once() -> None:
    d = await desk()
    d.upstreams.answers = [Interrupted("idle"), Interrupted("again")]
    assert (await d.ask()).status == 502
    assert len(d.upstreams.bodies) == 2
    assert d.balance == (0, 0)


@pytest.mark.parametrize("leave_after", [1, 2, 3])
async def test_who_leaves_a_stream_pays_what_was_passed_on(leave_after: int) -> None:
    d = await desk()
    answer = events(*[chunk("a") for _ in range(leave_after)], hangs=True)
    d.upstreams.answers = [answer]
    await d.ask(client=d.client(stream=True, leave_after=leave_after))
    [(outcome, amount, estimated)] = d.records()
    assert (outcome, estimated) == ("client_left", True)
    [record] = [one for (source, _), one in d.world.books.usages.items() if source == "gateway"]
    assert record.payload["output_tokens"] == leave_after
    assert d.balance == (amount, 0)
    assert answer.closed


async def test_who_leaves_before_the_answer_begins_pays_the_prompt() -> None:
    d = await desk()
    d.upstreams.answers = [None]
    client = d.client()
    asking = asyncio.create_task(d.ask(client=client))
    await d.upstreams.asked.wait()
    client.leave()
    await asking
    assert [(outcome, estimated) for outcome, _, estimated in d.records()] == [("client_left", True)]
    assert d.balance[1] == 0


async def test_who_leaves_at_the_last_word_pays_the_report() -> None:
    d = await desk()
    d.upstreams.answers = [events(chunk("a"), chunk("b", "stop"), report(), hangs=True)]
    await d.ask(client=d.client(stream=True, leave_after=2))
    assert [amount for _, amount, _ in d.records()] == [18]


async def test_a_stream_that_breaks_off_ends_with_the_reason() -> None:
    d = await desk()
    d.upstreams.answers = [events(chunk("a"), Interrupted("gone"))]
    answered = await d.ask({"stream": True})
    assert b"bad_gateway" in answered.body
    assert b"[DONE]" not in answered.body
    assert [(outcome, estimated) for outcome, _, estimated in d.records()] == [("cut", True)]


async def test_a_silent_server_is_cut_at_the_deadline() -> None:
    d = await desk(total_s=0)
    d.upstreams.answers = [None]
    assert (await d.ask()).status == 504
    assert d.balance == (0, 0)


async def test_a_cancelled_exchange_is_settled_all_the_same() -> None:
    d = await desk()
    answer = events(chunk("a"), hangs=True)
    d.upstreams.answers = [answer]
    asking = asyncio.create_task(d.ask(client=d.client(stream=True)))
    await answer.hanging.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await d.gateway.close(1)
    assert [outcome for outcome, _, _ in d.records()] == ["client_left"]
    assert d.balance[1] == 0


async def test_stopping_cuts_what_runs_settles_it_and_takes_nothing_new() -> None:
    d = await desk()
    answer = events(chunk("a"), hangs=True)
    d.upstreams.answers = [answer]
    asking = asyncio.create_task(d.ask({"stream": True}))
    await answer.hanging.wait()
    await d.gateway.close(0)
    assert b"restarts" in (await asking).body
    assert d.balance[1] == 0
    assert [outcome for outcome, _, _ in d.records()] == ["cut"]
    assert (await d.ask()).status == 503


async def test_a_settlement_that_finds_the_ledger_away_is_made_later() -> None:
    d = await desk()
    settle, failures = d.world.ledger.settle, [Unavailable("away")]

    async def once_away(*given: object, **how: object) -> object:
        if failures:
            raise failures.pop()
        return await settle(*given, **how)  # type: ignore[arg-type]

    d.world.ledger.settle = once_away  # type: ignore[assignment,method-assign]
    assert (await d.ask()).status == 200
    assert d.balance[1] > 0
    await d.gateway.close(5)
    assert d.balance == (18, 0)


async def test_behind_a_server_that_waits_for_its_clients_an_answer_ends_once_it_is_settled() -> None:
    d, may = await desk(), asyncio.Event()
    _settle_later(d, may)
    await _nothing_before_it_is_settled(d, may)


async def test_who_may_repeat_a_request_has_its_answer_once_it_is_settled() -> None:
    d, may = await desk(), asyncio.Event()
    _settle_later(d, may)
    await _nothing_before_it_is_settled(d, may, headers=[(b"idempotency-key", b"once")])


async def test_a_kept_answer_is_found_only_where_the_journal_says_what_it_costs(tmp_path: Path) -> None:
    """A kill between the two would give whoever asks again an answer that was charged as if nothing had come out."""
    journal, killed = Journal(tmp_path / "journal"), tmp_path / "killed"
    d = await desk(journal=journal)
    write = d.world.store.write

    async def keeping(work: object) -> object:
        shutil.copytree(tmp_path / "journal", killed)  # as a kill would leave it
        return await write(work)  # type: ignore[arg-type]

    d.world.store.write = keeping  # type: ignore[assignment,method-assign]
    assert (await d.ask(headers=[(b"idempotency-key", b"once")])).status == 200
    [left] = left_behind(killed)
    [trace] = left.traces
    left.done()
    journal.close()
    assert (trace.prompt + trace.output, trace.reported) == (18, True)


def _settle_later(d: Desk, may: asyncio.Event) -> None:
    settle = d.world.ledger.settle

    async def late(*given: object, **how: object) -> object:
        await may.wait()
        return await settle(*given, **how)  # type: ignore[arg-type]

    d.world.ledger.settle = late  # type: ignore[assignment,method-assign]


async def _nothing_before_it_is_settled(
    d: Desk, may: asyncio.Event, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    client = d.client()
    asking = asyncio.create_task(d.ask(client=client, headers=headers))
    await d.upstreams.asked.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert not client.answered.status
    may.set()
    assert (await asking).status == 200
    assert d.balance == (18, 0)


async def test_a_settlement_that_waits_in_the_spool_is_not_asked_for_again() -> None:
    d = await desk()
    asked = []

    async def spooled(*given: object, **how: object) -> object:
        asked.append(given)
        raise Spooled("kept")

    d.world.ledger.settle = spooled  # type: ignore[assignment,method-assign]
    assert (await d.ask()).status == 200
    await d.gateway.close(5)
    assert len(asked) == 1


async def test_a_hold_whose_commit_is_unknown_is_released_and_never_sent() -> None:
    d = await desk()
    place = d.world.ledger.place_hold

    async def answer_lost(order: object) -> object:
        await place(order)  # type: ignore[arg-type]
        raise Unavailable("the answer was lost")

    d.world.ledger.place_hold = answer_lost  # type: ignore[assignment,method-assign]
    assert (await d.ask()).status == 503
    assert d.balance[1] > 0
    await d.gateway.close(5)
    assert d.balance == (0, 0)
    assert not d.upstreams.bodies


async def test_a_model_of_half_the_weight_costs_half() -> None:
    d = await desk(weight="1/2")
    await d.ask()
    assert d.balance == (9, 0)


async def test_the_record_says_what_served_it() -> None:
    d = await desk()
    await d.ask()
    [record] = d.world.books.usages.values()
    assert {name: record.payload[name] for name in ("provider", "hardware", "cloud", "model", "application", "session")} == {
        "provider": "p", "hardware": "hw", "cloud": "cl", "model": "m", "application": "lab", "session": "session-0001",
    }  # fmt: skip
    assert record.quantity == 18
    hold = d.world.books.holds[record.hold_id][0]
    assert hold.details["model"] == "m"
    assert "dispatched" not in hold.details
    assert "hello" not in json.dumps([dict(hold.details), dict(record.payload)])
