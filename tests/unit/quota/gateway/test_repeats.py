"""Requests with an Idempotency-Key: once, and answered again from what is sealed."""

from __future__ import annotations

import asyncio

import pytest

from quota.gateway.repeats import KEPT_S
from tests.unit.quota.gateway.fakes import Answered, Desk, FakeAnswer, chunk, desk, events, plain, report

NAMED = [(b"idempotency-key", b"once-4711")]


async def ask(d: Desk, **fields: object) -> Answered:
    return await d.ask(fields, headers=NAMED)


async def test_a_repetition_gets_the_first_answer_and_costs_nothing() -> None:
    d = await desk()
    first, again = await ask(d), await ask(d)
    assert first.body == again.body
    assert (again.status, again.headers["idempotent-replayed"]) == (200, "true")
    assert first.headers["x-request-id"] == again.headers["x-request-id"]
    assert len(d.upstreams.bodies) == 1
    assert d.balance == (18, 0)


async def test_another_body_under_the_same_key_is_a_conflict() -> None:
    d = await desk()
    await ask(d)
    answered = await ask(d, temperature=0.5)
    assert (answered.status, answered.error["code"]) == (409, "idempotency_conflict")
    assert d.balance == (18, 0)


async def test_two_at_once_are_one() -> None:
    d = await desk()
    both = await asyncio.gather(ask(d), ask(d))
    assert sorted(one.status for one in both) in ([200, 200], [200, 409])
    assert len(d.upstreams.bodies) == 1
    assert d.balance == (18, 0)


async def test_what_cost_nothing_may_be_tried_again() -> None:
    d = await desk()
    d.upstreams.answers = [FakeAnswer([b"{}"], status=500), plain()]
    assert [(await ask(d)).status for _ in range(3)] == [502, 200, 200]
    assert len(d.upstreams.bodies) == 2
    assert d.balance == (18, 0)


async def test_a_stored_refusal_does_not_stand_in_the_way_of_a_later_award() -> None:
    d = await desk(tokens=5)
    assert (await ask(d)).status == 429
    poor = await desk(tokens=10_000)
    assert (await ask(poor)).status == 200


async def test_an_answer_that_is_kept_no_more_is_not_made_again() -> None:
    d = await desk()
    await ask(d)
    d.world.clock.tick(KEPT_S + 1)
    answered = await ask(d)
    assert (answered.status, answered.error["code"]) == (409, "idempotency_key_used")
    assert answered.headers["x-should-retry"] == "false"
    assert d.balance == (18, 0)


async def test_a_stream_is_made_once_and_not_kept() -> None:
    d = await desk()
    d.upstreams.answers = [events(chunk("a"), report(), b"data: [DONE]\n\n")]
    assert (await ask(d, stream=True)).status == 200
    assert (await ask(d, stream=True)).error["code"] == "idempotency_key_used"
    assert not d.world.books.kept


async def test_a_kept_answer_is_readable_to_its_client_only() -> None:
    d = await desk()
    await ask(d)
    [(sealed, _)] = d.world.books.kept.values()
    assert b"one two" not in sealed
    assert b"choices" not in sealed


@pytest.mark.parametrize("named", [b"", b"x" * 256, "é".encode(), b"a\tb"])
async def test_a_key_that_is_none_is_refused(named: bytes) -> None:
    d = await desk()
    answered = await d.ask(headers=[(b"idempotency-key", named)])
    assert (answered.status, answered.error["code"]) == (400, "invalid_idempotency_key")


async def test_other_callers_keys_are_other_keys() -> None:
    d = await desk()
    await ask(d)
    other = await desk()
    assert (await ask(other)).status == 200
    assert len(other.upstreams.bodies) == 1
