"""A key's minute: requests and tokens, in one process and over several that share a database."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from quota.domain.ids import PersonId, ProjectId
from quota.gateway.callers import Caller
from quota.gateway.denials import Denied
from quota.gateway.pace import UNLIMITED, Paces, Share
from quota.service.gateway_ports import Taken
from tests.fake_books import Books
from tests.fake_store import FakeStore
from tests.fakes import FakeClock
from tests.unit.quota.gateway.fakes import desk
from tests.unit.quota.gateway.test_model_request import good

CALLER = Caller(PersonId("p"), ProjectId("project-0001"), None, "api", key_id="k:1")
HOLD = good(max_tokens=16).hold_tokens(16)


def paces(books: Books, limits: Taken, *, shared: bool = False, clock: FakeClock | None = None) -> Paces:
    return Paces(FakeStore(books), clock or FakeClock(), limits, shared=shared)


async def test_the_last_request_of_a_minute_is_the_last() -> None:
    d = await desk(requests_per_minute=2)
    answered = [await d.ask() for _ in range(3)]
    assert [one.status for one in answered] == [200, 200, 429]
    assert [one.headers["x-ratelimit-remaining-requests"] for one in answered] == ["1", "0", "0"]
    assert answered[2].error["code"] == "rate_limit_exceeded"
    assert answered[2].headers["retry-after"] == "60"
    assert answered[2].headers["x-ratelimit-reset-requests"] == "60s"
    d.world.clock.tick(60)
    assert (await d.ask()).status == 200


async def test_what_a_request_did_not_use_is_free_again() -> None:
    d = await desk(tokens_per_minute=400)
    answered = [await d.ask({"max_tokens": 50}) for _ in range(5)]
    assert {one.status for one in answered} == {200}
    assert answered[-1].headers["x-ratelimit-remaining-tokens"] == str(400 - 5 * 18)
    assert answered[-1].headers["x-ratelimit-limit-tokens"] == "400"


async def test_a_cap_shrinks_to_the_minute_before_a_request_is_refused() -> None:
    limits = Taken(UNLIMITED, good(max_tokens=16).hold_tokens(16) + 4)
    some = paces(Books(), limits)
    taken = await some.take(CALLER, good(max_tokens=100))
    assert isinstance(taken, tuple)
    assert taken[1] == 20
    denied = await some.take(CALLER, good(max_tokens=100))
    assert isinstance(denied, Denied)
    assert denied.code == "rate_limit_exceeded"


async def test_a_refused_request_gives_its_tokens_back() -> None:
    d = await desk(tokens=5, tokens_per_minute=10_000)
    answered = await d.ask()
    assert answered.error["code"] == "insufficient_quota"
    assert answered.headers["x-ratelimit-remaining-tokens"] == "10000"


async def test_a_key_of_its_own_limits_is_never_faster_than_the_site() -> None:
    some = paces(Books(), Taken(10, UNLIMITED))
    slow = Caller(CALLER.person, CALLER.project, None, "api", key_id="k:2", requests_per_minute=3)
    fast = Caller(CALLER.person, CALLER.project, None, "api", key_id="k:3", requests_per_minute=99)
    assert some.limits_of(slow) == (3, UNLIMITED)
    assert some.limits_of(fast) == (10, UNLIMITED)


@pytest.mark.parametrize("processes", [1, 2, 5])
async def test_processes_that_share_a_database_share_the_minute(processes: int) -> None:
    books, clock = Books(), FakeClock()
    several = [paces(books, Taken(50, 20 * HOLD), shared=True, clock=clock) for _ in range(processes)]
    taken = await asyncio.gather(
        *[several[number % processes].take(CALLER, good(max_tokens=16)) for number in range(200)]
    )
    admitted = [one[0] for one in taken if isinstance(one, tuple)]
    held = sum(share.tokens for share in admitted if isinstance(share, Share))
    assert held <= 20 * HOLD
    assert 20 - 2 * processes <= len(admitted) <= 20


async def test_a_key_without_limits_is_not_counted() -> None:
    assert await paces(Books(), Taken(UNLIMITED, UNLIMITED)).take(CALLER, good()) is None
    books = Books()
    some = paces(books, Taken(5, UNLIMITED), shared=True)
    assert isinstance(await some.take(CALLER, good()), tuple)
    assert [taken.tokens for taken in books.minutes.values()] == [0]


async def test_many_other_keys_do_not_begin_a_keys_minute_anew() -> None:
    some = paces(Books(), Taken(1, UNLIMITED))
    assert isinstance(await some.take(CALLER, good(max_tokens=16)), tuple)
    for number in range(10_050):
        await some.take(replace(CALLER, key_id=f"k:other-{number}"), good(max_tokens=16))
    assert isinstance(await some.take(CALLER, good(max_tokens=16)), Denied)
