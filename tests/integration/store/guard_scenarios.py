"""What each guard of the ledger is for, as scenarios in which it alone stands between a stale plan and a wrong balance.

A stale plan is what a writer has in hand when another one was faster: rows read, then changed by somebody else, then written. In
production locks make it rare; here it is made on purpose, without locks, so that the guards in the statements are seen to hold.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

from sqlalchemy import text

from quota.domain.errors import IdConflict, InvariantBroken, Refused, StaleEpoch, TooMany
from quota.domain.fence import Fence
from quota.domain.hold import Hold, HoldOrder, HoldState, LimitUse
from quota.domain.ids import HoldId
from quota.store import operations as ops
from quota.store import plan
from quota.store import statements as sql
from quota.store.database import Database
from quota.store.instants import to_us
from quota.store.ledger import LedgerStore
from quota.store.load import load
from quota.store.persist import Head, persist
from quota.store.plan import Answer
from quota.store.refusals import RefusalWindow
from quota.store.unit_of_work import SqlTransaction
from quota.store.verify import verify
from quota.store.wire import Interference, Wire, open_wire
from quota.store.writer import Outside, Ticket
from tests import ledgers
from tests.ledgers import Books, usage
from tests.waiting import PATIENCE_S

Step = Callable[[LedgerStore], Awaitable[object]]
LEASE = ledgers.NOW + timedelta(hours=2)


def stale_plan_is_refused(books: Books, operation: ops.Operation, meanwhile: Callable[[], object]) -> None:
    """Plan `operation`, let `meanwhile` happen, write the plan: the statements must notice."""
    with _wire(books.database) as wire:
        wire.begin()
        ws = load(wire, [operation])
        answer = plan.run(ws, operation, 1)
        assert not isinstance(answer, Exception), answer
        wire.rollback()
        meanwhile()
        wire.begin()
        epoch = int(wire.select(sql.OPEN_EPOCH, [("test", 0)])[0][0])
        try:
            persist(wire, ws, Head(epoch, 0, ""))
            wire.confirm()
        except Interference:
            wire.rollback()
        else:
            wire.rollback()
            raise AssertionError("a stale plan was written")
    assert verify(books.database) == []


def takes_what_another_took(books: Books) -> None:
    place = ops.place_hold(books.order(100, hold_id="stale-hold"))
    stale_plan_is_refused(books, place, lambda: _do(books, lambda one: one.place_hold(books.order(1))))


def takes_from_what_was_frozen(books: Books) -> None:
    place = ops.place_hold(books.order(10, hold_id="stale-hold"))
    stale_plan_is_refused(books, place, lambda: ledgers.freeze(books.database, books.accounts[0], frozen=True))


def places_an_id_that_another_placed(books: Books) -> None:
    place = ops.place_hold(books.order(10, hold_id="stale-hold"))
    elsewhere = books.order(5, hold_id="stale-hold", account=1)
    stale_plan_is_refused(books, place, lambda: _do(books, lambda one: one.place_hold(elsewhere)))


def records_usage_that_another_recorded(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0002", account=1)))
    charge = ops.charge(usage("hold-0001", "event-1", 5))
    stale_plan_is_refused(books, charge, lambda: _do(books, lambda one: one.charge(usage("hold-0002", "event-1", 5))))


def charges_a_hold_that_another_closed(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    _do(books, lambda one: one.place_hold(books.order(50, hold_id="hold-0002")))
    charge = ops.charge(usage("hold-0001", "event-1", 5))
    stale_plan_is_refused(books, charge, lambda: _do(books, lambda one: one.settle(HoldId("hold-0001"), ledgers.NOW)))


def settles_a_hold_that_another_charged(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    settle = ops.settle("hold-0001", ledgers.NOW, None)
    stale_plan_is_refused(books, settle, lambda: _do(books, lambda one: one.charge(usage("hold-0001", "event-1", 0))))


def settles_a_hold_that_another_topped_up(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    settle = ops.settle("hold-0001", ledgers.NOW, None)
    top_up: Step = lambda one: one.top_up(HoldId("hold-0001"), "t1", 0, ledgers.NOW, LEASE)  # noqa: E731
    stale_plan_is_refused(books, settle, lambda: _do(books, top_up))


def releases_a_hold_that_another_charged(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    release = ops.Close("hold-0001", to_us(ledgers.NOW), HoldState.RELEASED, "unused")
    stale_plan_is_refused(books, release, lambda: _do(books, lambda one: one.charge(usage("hold-0001", "event-1", 0))))


def releases_a_hold_that_another_topped_up(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    release = ops.Close("hold-0001", to_us(ledgers.NOW), HoldState.RELEASED, "unused")
    top_up: Step = lambda one: one.top_up(HoldId("hold-0001"), "t1", 0, ledgers.NOW, LEASE)  # noqa: E731
    stale_plan_is_refused(books, release, lambda: _do(books, top_up))


def settles_a_hold_that_another_settled(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    _do(books, lambda one: one.place_hold(books.order(50, hold_id="hold-0002")))
    settle = ops.settle("hold-0001", ledgers.NOW, None)
    stale_plan_is_refused(books, settle, lambda: _do(books, lambda one: one.settle(HoldId("hold-0001"), ledgers.NOW)))


def settles_a_hold_whose_top_up_another_took_back(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    _do(books, lambda one: one.place_hold(books.order(50, hold_id="hold-0002")))
    _do(books, lambda one: one.top_up(HoldId("hold-0001"), "t1", 10, ledgers.NOW, LEASE))
    settle = ops.settle("hold-0001", ledgers.NOW, None)
    withdraw: Step = lambda one: one.withdraw(HoldId("hold-0001"), "t1", ledgers.NOW)  # noqa: E731
    stale_plan_is_refused(books, settle, lambda: _do(books, withdraw))


def charges_a_limit_of_which_another_gave_back(books: Books) -> None:
    ledgers.add_limit(books.database, "member-1", "member", 90)
    _do(books, lambda one: one.place_hold(books.order(60, hold_id="hold-0001", limits=(LimitUse("member-1", 60),))))
    _do(books, lambda one: one.charge(usage("hold-0001", "event-1", 20)))
    charge = ops.charge(usage("hold-0001", "event-2", 5, minute=1))
    refund = lambda: ledgers.refund(books.database, books.person.id, "refund-1", "hold-0001", 10)  # noqa: E731
    stale_plan_is_refused(books, charge, refund)


def overruns_an_account_that_another_used(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    charge = ops.charge(usage("hold-0001", "event-1", 500))
    stale_plan_is_refused(books, charge, lambda: _do(books, lambda one: one.place_hold(books.order(1))))


def counts_against_a_limit_that_another_filled(books: Books) -> None:
    ledgers.add_limit(books.database, "member-1", "member", 30)
    place = ops.place_hold(books.order(20, hold_id="stale-hold", limits=(LimitUse("member-1", 20),)))
    other = books.order(20, account=1, limits=(LimitUse("member-1", 20),))
    stale_plan_is_refused(books, place, lambda: _do(books, lambda one: one.place_hold(other)))


def an_id_with_another_body_is_a_conflict(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    assert isinstance(_do(books, lambda one: one.place_hold(books.order(21, hold_id="hold-0001"))), IdConflict)
    _do(books, lambda one: one.charge(usage("hold-0001", "event-1", 5)))
    assert isinstance(_do(books, lambda one: one.charge(usage("hold-0001", "event-1", 6))), IdConflict)


def an_interval_is_charged_once(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    _do(books, lambda one: one.charge(usage("hold-0001", "event-1", 5, minutes=3)))
    again = _do(books, lambda one: one.charge(usage("hold-0001", "event-2", 5, minute=2)))
    assert isinstance(again, InvariantBroken)
    assert verify(books.database) == []


def a_refusal_stays_a_refusal(books: Books) -> None:
    order = books.order(1000, hold_id="hold-0001")
    _do(books, lambda one: one.place_hold(order))
    ledgers.adjust(books.database, books.person.id, "adjust-1", books.accounts[0], 5000)
    again = _do(books, lambda one: one.place_hold(order))
    assert isinstance(again, Hold)
    assert again.state is HoldState.REFUSED
    assert again.replayed


def overruns_are_charged_whole(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    hold = _do(books, lambda one: one.settle(HoldId("hold-0001"), ledgers.NOW, usage("hold-0001", "event-1", 500)))
    assert isinstance(hold, Hold)
    assert hold.charged == 500
    assert verify(books.database) == []


def what_is_left_returns(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(100, hold_id="hold-0001")))
    _do(books, lambda one: one.settle(HoldId("hold-0001"), ledgers.NOW, usage("hold-0001", "event-1", 30)))
    assert verify(books.database) == []
    again = _do(books, lambda one: one.place_hold(books.order(70)))
    assert isinstance(again, Hold)
    assert again.state is HoldState.HELD


def a_stored_refusal_is_replayed_where_no_more_are_stored(books: Books) -> None:
    """The writer takes an id for new until the database says otherwise: what it would say of a new one must not be the answer."""
    order = books.order(1000, hold_id="hold-0001")

    async def twice() -> tuple[Hold, Hold]:
        async with LedgerStore(books.database, refusals=RefusalWindow(1)) as ledger:
            return await ledger.place_hold(order), await ledger.place_hold(order)

    first, again = asyncio.run(twice())
    assert again == first._replace(replayed=True)


def what_another_writer_did_to_a_remembered_hold_is_seen(books: Books) -> None:
    """A writer remembers the hold that it placed; meanwhile a second one charges and closes it."""
    first, second = HoldId("hold-0001"), HoldId("hold-0002")

    async def both() -> None:
        async with LedgerStore(books.database) as here, LedgerStore(books.database) as there:
            for hold_id, amount in ((first, 20), (second, 20), (HoldId("hold-0003"), 50)):
                await here.place_hold(books.order(amount, hold_id=hold_id))
            await there.settle(second, ledgers.NOW)
            assert (await here.settle(second, ledgers.NOW, usage(second, "event-2", 7))).charged == 0
            await there.charge(usage(first, "event-1", 5))
            assert not (await here.charge(usage(first, "event-1", 5))).applied

    asyncio.run(both())
    assert verify(books.database) == []


def what_another_writer_did_to_a_remembered_hold_that_is_free_is_seen(books: Books) -> None:
    """Nothing moves on its account, whose version says nothing then."""
    free = HoldId("hold-0001")

    async def both() -> None:
        async with LedgerStore(books.database) as here, LedgerStore(books.database) as there:
            await here.place_hold(books.order(0, hold_id=free))
            await there.settle(free, ledgers.NOW)
            assert (await here.settle(free, ledgers.NOW, usage(free, "event-1", 0))).next_seq == 0

    asyncio.run(both())
    assert verify(books.database) == []


def no_answer_rests_on_a_remembered_account(books: Books) -> None:
    """Nothing is moved by a refusal, nor by a hold on what is free: the account's row is looked at all the same."""

    async def answers() -> list[Hold]:
        async with LedgerStore(books.database, outside=Outside(doubted_batches=1)) as ledger:
            await ledger.place_hold(books.order(60))
            await asyncio.to_thread(ledgers.adjust, books.database, books.person.id, "adjust-1", books.accounts[0], 200)
            more = await ledger.place_hold(books.order(100))
            await ledger.place_hold(books.order(1))
            await asyncio.to_thread(ledgers.freeze, books.database, books.accounts[0], frozen=True)
            return [more, await ledger.place_hold(books.order(0))]

    assert [hold.state for hold in asyncio.run(answers())] == [HoldState.HELD, HoldState.REFUSED]
    assert verify(books.database) == []


def what_was_planned_on_a_batch_that_failed_is_planned_again(books: Books) -> None:
    """The second batch is planned on what the first one leaves, and that one meets an award that was lowered behind its back."""

    async def answers() -> list[Answer]:
        async with _by_hand(books.database) as (ledger, ask):
            first = ask(books.order(60))
            while ledger.writer.step():
                pass
            await first
            ledgers.adjust(books.database, books.person.id, "adjust-1", books.accounts[0], -30)
            asked = []
            for amount in (30, 5, 6):
                asked.append(ask(books.order(amount)))
                ledger.writer.step()
            while ledger.writer.step():
                pass
            return await asyncio.gather(*asked)

    held, refused = HoldState.HELD, HoldState.REFUSED
    assert [hold.state for hold in asyncio.run(answers()) if isinstance(hold, Hold)] == [refused, held, refused]
    assert verify(books.database) == []
    with books.database.reading() as connection:
        assert connection.execute(text("SELECT held FROM account WHERE id = 'account-0'")).scalar_one() == 65


def refusals_on_their_way_count(books: Books) -> None:
    """One a minute is stored; while it is with the database the next is asked for."""

    async def answers() -> list[object]:
        async with _by_hand(books.database, RefusalWindow(1)) as (ledger, ask):
            asked = []
            for amount in (1, 1000, 1000, 1000):
                asked.append(ask(books.order(amount)))
                ledger.writer.step()
            while ledger.writer.step():
                pass
            return await asyncio.gather(*asked, return_exceptions=True)

    _, refusal, *more = asyncio.run(answers())
    assert isinstance(refusal, Hold)
    assert [type(one) for one in more] == [TooMany, TooMany]
    assert verify(books.database) == []


@asynccontextmanager
async def _by_hand(
    database: Database, refusals: RefusalWindow | None = None, *, beside: int = 1
) -> AsyncIterator[tuple[LedgerStore, Callable[[HoldOrder], Ticket]]]:
    """A ledger whose writer goes one step where it is told to, and a way to ask it for holds."""
    ledger = LedgerStore(database, refusals=refusals, outside=Outside(beside=beside))
    ledger.writer.open()

    def ask(order: HoldOrder) -> Ticket:
        ticket: Ticket = asyncio.get_running_loop().create_future()
        ledger.writer.submit(ops.place_hold(order), ticket)
        return ticket

    yield ledger, ask
    await asyncio.to_thread(ledger.close)


def a_replaced_hub_is_refused(books: Books) -> None:
    with books.database.writing() as connection:
        fences = SqlTransaction(connection).fences
        old, _ = (Fence("hub", fences.take("hub", "a test", ledgers.NOW)) for _ in range(2))
    assert isinstance(_do(books, lambda one: one.fenced(old).place_hold(books.order(10))), StaleEpoch)


def refunds_end_with_what_was_charged(books: Books) -> None:
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0001")))
    _do(books, lambda one: one.place_hold(books.order(20, hold_id="hold-0002")))
    _do(books, lambda one: one.charge(usage("hold-0001", "event-1", 10)))
    _do(books, lambda one: one.charge(usage("hold-0002", "event-2", 10)))
    assert isinstance(ledgers.refund(books.database, books.person.id, "refund-1", "hold-0001", 11), Refused)
    assert verify(books.database) == []


def accounts_are_locked_in_id_order(books: Books) -> None:
    """While a writer waits for the first account it must not hold the second."""
    if books.database.is_sqlite:
        return  # one lock on the whole database has no order
    keys = [["account-1"], ["account-0"]]
    with _wire(books.database) as holder, _wire(books.database) as waiter, books.database.writing() as watcher:
        holder.begin()
        waiter.begin()
        holder.select(sql.LOCK_ACCOUNTS, [["account-0"]])
        waiting = threading.Thread(target=lambda: waiter.select(sql.LOCK_ACCOUNTS, keys))
        waiting.start()
        while not watcher.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
            assert waiting.is_alive(), "the account was not locked"
        free = watcher.execute(
            text("SELECT id FROM account WHERE id = 'account-1' FOR NO KEY UPDATE SKIP LOCKED")
        ).all()
        holder.rollback()
        watcher.rollback()
        waiting.join()
        assert free, "the second account was locked before the first"


def remembered_accounts_are_locked_in_id_order(books: Books) -> None:
    """As the ones that are read: who remembers accounts locks them by changing them."""
    if books.database.is_sqlite:
        return

    async def free() -> bool:
        async with _by_hand(books.database, beside=2) as (ledger, ask):
            for account in (1, 0):  # remembered in this order
                ask(books.order(1, account=account))
                while ledger.writer.step():
                    pass
            with _wire(books.database) as holder, books.database.writing() as watcher:
                holder.begin()
                holder.select(sql.LOCK_ACCOUNTS, [["account-0"]])
                asked = [ask(books.order(1, account=account)) for account in (1, 0)]
                ledger.writer.step()  # sent, and not waited for
                blocked = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                until_s = time.monotonic() + PATIENCE_S
                while time.monotonic() < until_s:
                    if watcher.execute(blocked).scalar_one():
                        break
                    watcher.execute(text("SELECT pg_sleep(0.005)"))
                else:
                    raise AssertionError("the first account was not locked")
                query = text("SELECT id FROM account WHERE id = 'account-1' FOR NO KEY UPDATE SKIP LOCKED")
                found = bool(watcher.execute(query).all())
                holder.rollback()
                watcher.rollback()
            while ledger.writer.step():
                pass
            await asyncio.gather(*asked)
            return found

    assert asyncio.run(free()), "the second account was locked before the first"


SCENARIOS: tuple[Callable[[Books], None], ...] = (
    takes_what_another_took,
    takes_from_what_was_frozen,
    places_an_id_that_another_placed,
    records_usage_that_another_recorded,
    charges_a_hold_that_another_closed,
    settles_a_hold_that_another_charged,
    settles_a_hold_that_another_topped_up,
    settles_a_hold_that_another_settled,
    releases_a_hold_that_another_charged,
    releases_a_hold_that_another_topped_up,
    settles_a_hold_whose_top_up_another_took_back,
    charges_a_limit_of_which_another_gave_back,
    overruns_an_account_that_another_used,
    counts_against_a_limit_that_another_filled,
    an_id_with_another_body_is_a_conflict,
    an_interval_is_charged_once,
    a_refusal_stays_a_refusal,
    overruns_are_charged_whole,
    what_is_left_returns,
    a_stored_refusal_is_replayed_where_no_more_are_stored,
    what_another_writer_did_to_a_remembered_hold_is_seen,
    what_another_writer_did_to_a_remembered_hold_that_is_free_is_seen,
    no_answer_rests_on_a_remembered_account,
    what_was_planned_on_a_batch_that_failed_is_planned_again,
    refusals_on_their_way_count,
    a_replaced_hub_is_refused,
    refunds_end_with_what_was_charged,
    accounts_are_locked_in_id_order,
    remembered_accounts_are_locked_in_id_order,
)


def _do(books: Books, step: Step) -> object:
    return ledgers.run(books.database, step)[0]


@contextmanager
def _wire(database: Database) -> Iterator[Wire]:
    wire = open_wire(database)
    try:
        yield wire
    finally:
        wire.rollback()
        wire.close()
