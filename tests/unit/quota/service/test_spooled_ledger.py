"""The ledger with a spool: what it cannot take is made later, once and in order; new holds are never spooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from quota.domain.errors import Spooled, StaleEpoch, Unavailable
from quota.domain.fence import Fence
from quota.domain.hold import Charged, Hold, HoldKind, HoldOrder, HoldState, Usage
from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId
from quota.domain.units import Unit
from quota.service.ledger_ports import SpooledChange
from quota.service.spooled_ledger import SpooledLedger
from tests.fake_books import Books, FakeFences
from tests.fake_store import FakeAccounts
from tests.fakes import START, FakeLedger

ALLOCATION = AllocationId("allocation-1")
HOLD = HoldId("hold-0001")


class AwayLedger(FakeLedger):
    """A ledger that does not answer while `away`; `late` does what was asked and loses the answer."""

    away = False
    late = False

    async def charge(self, usage: Usage) -> Charged:
        self._answer()
        charged = await super().charge(usage)
        self._lose()
        return charged

    async def settle(self, hold_id: HoldId, at: datetime, usage: Usage | None = None, *, hurry: bool = True) -> Hold:
        self._answer()
        replayed = self.books.holds[hold_id][0].state is not HoldState.HELD
        hold = await super().settle(hold_id, at, usage, hurry=hurry)
        self._lose()
        return hold if not replayed else _replayed(hold)

    async def release(self, hold_id: HoldId, at: datetime, reason: str) -> Hold:
        self._answer()
        return await super().release(hold_id, at, reason)

    async def place_hold(self, order: HoldOrder) -> Hold:
        self._answer()
        return await super().place_hold(order)

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("away")

    def _lose(self) -> None:
        if self.late:
            raise Unavailable("the answer was lost")


def _replayed(hold: Hold) -> Hold:
    return hold._replace(replayed=True)


@dataclass
class MemorySpool:
    """The spool's promises without a disk."""

    changes: list[SpooledChange] = field(default_factory=list)
    aside: list[tuple[SpooledChange, str]] = field(default_factory=list)
    full: bool = False

    async def keep(self, change: SpooledChange) -> None:
        if self.full:
            raise Unavailable("the spool is full")
        self.changes.append(change)

    def pending(self) -> Sequence[SpooledChange]:
        return list(self.changes)

    async def done(self, change: SpooledChange) -> None:
        assert self.changes.pop(0) == change

    async def set_aside(self, change: SpooledChange, why: str) -> None:
        await self.done(change)
        self.aside.append((change, why))


@dataclass
class Site:
    inner: AwayLedger
    spool: MemorySpool
    ledger: SpooledLedger

    def balance(self) -> tuple[int, int]:
        balance = self.inner.books.allocations[ALLOCATION].balance
        return balance.charged, balance.held

    def after_a_crash(self) -> SpooledLedger:
        return SpooledLedger(self.inner, self.spool)


@pytest.fixture
async def site() -> Site:
    books = Books()
    accounts = FakeAccounts(books)
    accounts.open_allocation(ALLOCATION, ProjectId("project-1"), Unit.TOKENS, START, START + timedelta(days=1))
    accounts.deposit("award-1", ALLOCATION, 100, actor=PersonId("pi"), at=START, code="award", params={})
    inner, spool = AwayLedger(books), MemorySpool()
    ledger = SpooledLedger(inner, spool)
    await ledger.place_hold(order(HOLD))
    return Site(inner, spool, ledger)


def order(hold_id: HoldId) -> HoldOrder:
    return HoldOrder(
        hold_id, HoldKind.REQUEST, hold_id, PersonId("pi"), ProjectId("project-1"), ALLOCATION, Unit.TOKENS, 40, START,
        START + timedelta(hours=1),
    )  # fmt: skip


def used(amount: int, event: str = "event-1", *, minutes: int = 1) -> Usage:
    return Usage("test", event, HOLD, START, START + timedelta(minutes=minutes), amount, amount)


async def test_a_settlement_that_the_ledger_cannot_take_is_made_once_it_answers(site: Site) -> None:
    site.inner.away = True
    with pytest.raises(Spooled):
        await site.ledger.settle(HOLD, START, used(7))
    assert await site.ledger.replay() == 0
    assert site.balance() == (0, 40)
    site.inner.away = False
    assert await site.ledger.replay() == 1
    assert site.balance() == (7, 0)
    assert await site.ledger.replay() == 0
    assert site.balance() == (7, 0)


async def test_what_waited_when_the_service_was_killed_is_made_by_the_next_one(site: Site) -> None:
    site.inner.away = True
    with pytest.raises(Spooled):
        await site.ledger.settle(HOLD, START, used(7))
    next_one = site.after_a_crash()
    with pytest.raises(Spooled):
        await next_one.settle(HOLD, START, used(9))
    site.inner.away = False
    assert await next_one.replay() == 1
    assert site.balance() == (7, 0)


@pytest.mark.parametrize("crash", [False, True])
async def test_a_change_that_counted_and_whose_answer_was_lost_counts_once(site: Site, crash: bool) -> None:
    site.inner.late = True
    with pytest.raises(Spooled):
        await site.ledger.charge(used(7))
    site.inner.late = False
    ledger = site.after_a_crash() if crash else site.ledger
    assert await ledger.replay() == 1
    assert site.balance() == (7, 33)
    assert site.spool.aside == []


async def test_a_second_change_of_a_hold_does_not_overtake_the_first(site: Site) -> None:
    site.inner.away = True
    with pytest.raises(Spooled):
        await site.ledger.charge(used(7))
    site.inner.away = False
    with pytest.raises(Spooled):
        await site.ledger.settle(HOLD, START, used(9, minutes=2))
    with pytest.raises(Spooled):
        await site.ledger.expire(HOLD, START, "lease_expired")
    await site.ledger.replay()
    await site.ledger.settle(HOLD, START, used(2, "event-2"))
    assert site.balance() == (9, 0)


async def test_new_holds_fail_closed_and_are_never_spooled(site: Site) -> None:
    site.inner.away = True
    with pytest.raises(Unavailable) as caught:
        await site.ledger.place_hold(order(HoldId("hold-0002")))
    assert not isinstance(caught.value, Spooled)
    assert site.spool.changes == []


async def test_where_the_spool_takes_nothing_the_caller_keeps_what_it_has(site: Site) -> None:
    site.inner.away, site.spool.full = True, True
    with pytest.raises(Unavailable) as caught:
        await site.ledger.settle(HOLD, START, used(7))
    assert not isinstance(caught.value, Spooled)
    site.inner.away, site.spool.full = False, False
    await site.ledger.settle(HOLD, START, used(7))
    assert site.balance() == (7, 0)


async def test_what_another_process_charged_meanwhile_is_not_charged_again(site: Site) -> None:
    site.inner.away = True
    with pytest.raises(Spooled):
        await site.ledger.charge(used(7))
    site.inner.away = False
    await site.inner.charge(used(9, minutes=2))  # the same event, seen later and longer
    assert await site.ledger.replay() == 1
    assert site.balance() == (9, 31)
    assert site.spool.aside == []


async def test_usage_of_a_hold_that_was_closed_without_it_is_set_aside_for_a_person(site: Site) -> None:
    site.inner.away = True
    with pytest.raises(Spooled):
        await site.ledger.settle(HOLD, START, used(7))
    site.inner.away = False
    await site.inner.settle(HOLD, START)
    assert await site.ledger.replay() == 1
    assert [(one.hold_id, why.split(":")[0]) for one, why in site.spool.aside] == [(HOLD, "wrong_state")]
    assert site.spool.changes == []


async def test_the_release_of_a_hold_that_never_came_to_be_is_done_with(site: Site) -> None:
    site.inner.away = True
    with pytest.raises(Spooled):
        await site.ledger.release(HoldId("hold-none"), START, "not_sent")
    site.inner.away = False
    assert await site.ledger.replay() == 1
    assert site.spool.aside == []


async def test_what_a_hub_asks_for_is_never_kept_since_it_would_escape_its_fence(site: Site) -> None:
    books = FakeFences(site.inner.books)
    fenced = site.ledger.fenced(Fence("hub", books.take("hub", "a test", START)))
    site.inner.away = True
    away = site.ledger.fenced(Fence("hub", 1))
    with pytest.raises(Unavailable) as caught:
        await away.release(HOLD, START, "stopped")
    assert not isinstance(caught.value, Spooled)
    assert site.spool.changes == []
    site.inner.away = False
    books.take("hub", "another", START)
    with pytest.raises(StaleEpoch):
        await fenced.release(HOLD, START, "stopped")
