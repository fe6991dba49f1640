"""Admission: the allocation that pays, the cap that fits, and what is said when nothing does."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from quota.domain.errors import TooMany
from quota.domain.hold import Hold, HoldKind, HoldOrder
from quota.domain.ids import AllocationId, HoldId
from quota.domain.units import Unit
from quota.gateway.purses import DOUBTED_S, Purses
from tests.fake_store import FakeTransaction
from tests.unit.quota.gateway.fakes import Desk, desk, plain


def another_allocation(d: Desk, tokens: int, *, days: int) -> None:
    """A second allocation of tokens that ends in `days`."""
    at = d.world.clock.now()
    tx, allocation = FakeTransaction(d.world.books), AllocationId("tokens-0002")
    tx.accounts.open_allocation(allocation, d.project, Unit.TOKENS, at - timedelta(days=1), at + timedelta(days=days))
    actor = next(iter(d.world.books.people))
    tx.accounts.deposit("deposit-0002", allocation, tokens, actor=actor, at=at, code="award", params={"title": "T"})


async def test_the_allocation_that_ends_first_pays() -> None:
    d = await desk()
    another_allocation(d, 5000, days=3)
    await d.ask()
    assert d.world.books.allocations[AllocationId("tokens-0002")].balance.charged == 18


async def test_an_allocation_that_cannot_carry_it_is_passed_over() -> None:
    d = await desk()
    another_allocation(d, 30, days=3)
    await d.ask({"max_tokens": 300})
    assert d.world.books.allocations[AllocationId("tokens-0002")].balance.charged == 0
    assert d.upstreams.bodies[0]["max_tokens"] == 300


async def test_a_project_without_tokens_is_told_to_apply() -> None:
    d = await desk()
    d.world.clock.tick(366 * 86_400)
    answered = await d.ask()
    assert answered.status == 429
    assert "no allocation" in answered.error["message"]


async def test_the_cap_shrinks_near_the_end() -> None:
    d = await desk(tokens=150)
    await d.ask({"max_tokens": 300})
    assert 16 <= d.upstreams.bodies[0]["max_tokens"] < 150
    [hold] = [one for one, _ in d.world.books.holds.values() if one.kind is HoldKind.REQUEST]
    assert hold.amount <= 150
    assert hold.details["cap"] == d.upstreams.bodies[0]["max_tokens"]


async def test_a_free_model_serves_a_project_without_a_balance() -> None:
    d = await desk(tokens=0, weight="0")
    assert (await d.ask()).status == 200
    assert d.balance == (0, 0)


async def test_who_loses_the_race_for_the_last_tokens_gets_what_is_left() -> None:
    """The purse is an opinion: the ledger refuses, and the next offer is smaller."""
    d = await desk(tokens=400)
    await d.ask({"max_tokens": 16})
    place = d.world.ledger.place_hold
    stolen: list[bool] = []

    async def somebody_is_faster(order: object) -> object:
        if not stolen:
            stolen.append(True)
            at = d.world.clock.now()
            tx = FakeTransaction(d.world.books)
            actor = next(iter(d.world.books.people))
            tx.accounts.adjust(
                "adjustment-01", AllocationId(f"{d.project}-tok"), -150, actor=actor, reason="test", at=at  # type: ignore[arg-type]
            )  # fmt: skip
        return await place(order)  # type: ignore[arg-type]

    d.world.ledger.place_hold = somebody_is_faster  # type: ignore[assignment,method-assign]
    assert (await d.ask({"max_tokens": 250})).status == 200
    assert d.upstreams.bodies[1]["max_tokens"] < 200


async def test_many_at_once_never_spend_more_than_there_is() -> None:
    d = await desk(tokens=1000)
    usage = {"prompt_tokens": 50, "completion_tokens": 50}
    d.upstreams.answers = [plain({"choices": [{}], "usage": usage}) for _ in range(100)]
    answers = await asyncio.gather(*[d.ask() for _ in range(100)])
    charged, held = d.balance
    assert held == 0
    assert charged <= 1000
    assert charged == 100 * sum(answer.status == 200 for answer in answers)
    assert {answer.status for answer in answers} == {200, 429}


async def test_concurrent_looks_at_one_purse_are_one_read() -> None:
    d = await desk()
    reads = 0
    read = d.world.store.read

    async def counted(work: object) -> object:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return await read(work)  # type: ignore[arg-type]

    d.world.store.read = counted  # type: ignore[assignment,method-assign]
    now_s = 0.0
    purses = Purses(d.world.store, lambda: now_s)
    await asyncio.gather(*[purses.of(d.project) for _ in range(20)])
    assert reads == 1
    now_s = 1.5
    await purses.of(d.project)
    assert reads == 2


async def test_a_purse_is_not_read_before_the_store_has_what_was_charged() -> None:
    """Else the next request at the end of a balance could be refused what the last one gave back."""
    d = await desk()
    purses = Purses(d.world.store)
    purses.settling(HoldId("hold-0001"))
    purses.settling(HoldId("hold-0002"))
    reading = [asyncio.create_task(purses.of(d.project)) for _ in range(2)]
    purses.settled(HoldId("hold-0001"))
    for _ in range(20):
        await asyncio.sleep(0)
    purses.settling(HoldId("hold-0003"))  # comes later, and nobody waits for it
    assert not any(one.done() for one in reading)
    purses.settled(HoldId("hold-0002"))
    async with asyncio.timeout(60):
        assert len(await asyncio.gather(*reading)) == 2


async def test_a_purse_that_lacks_what_was_charged_while_it_was_read_refuses_nobody() -> None:
    d = await desk()
    read, reads, now_s = d.world.store.read, 0, 0.0
    purses = Purses(d.world.store, lambda: now_s)

    async def overtaken(work: object) -> object:
        nonlocal reads
        reads += 1
        found: object = await read(work)  # type: ignore[arg-type]
        if reads == 1:
            purses.settling(HoldId("hold-0001"))
            purses.settled(HoldId("hold-0001"))
        return found

    d.world.store.read = overtaken  # type: ignore[assignment,method-assign]
    await purses.of(d.project)
    for _ in range(2):  # the first time it is read again, the second time believed
        now_s += 0.001
        await purses.of(d.project, within_s=DOUBTED_S)
        assert reads == 2


async def test_who_was_refused_too_often_to_be_written_down_is_still_told_that_nothing_is_left() -> None:
    """A refusal that the ledger does not keep is no outage: a 503 would make every client ask again."""
    d = await desk()

    async def refused(order: HoldOrder) -> Hold:
        raise TooMany("refused too often")

    d.world.ledger.place_hold = refused  # type: ignore[method-assign]
    answered = await d.ask()
    assert (answered.status, answered.error["code"]) == (429, "insufficient_quota")
    assert answered.headers["x-should-retry"] == "false"
    assert d.upstreams.bodies == []
