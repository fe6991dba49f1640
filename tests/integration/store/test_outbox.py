"""What is asked of the ledger together is committed together, and nothing that was asked for is lost on the way to the writer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import text

from quota.domain.errors import Unavailable
from quota.domain.hold import Hold, HoldState
from quota.domain.ids import HoldId
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.operations import Operation
from quota.store.outbox import LINGER_S, TURNS_MAX
from quota.store.verify import verify
from quota.store.writer import Ticket
from tests import ledgers
from tests.waiting import PATIENCE_S


def count(database: Database, what: str) -> int:
    with database.reading() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {what}")).scalar_one())


async def test_what_is_asked_in_one_turn_of_the_loop_is_one_batch(database: Database) -> None:
    books = ledgers.open_books(database, 100_000)
    async with LedgerStore(database) as ledger:
        before = count(database, "ledger_link")
        orders = [books.order(5, hold_id=f"hold-{number:04}") for number in range(60)]
        answers = await asyncio.gather(*(ledger.place_hold(one) for one in orders))
        assert {one.state for one in answers} == {HoldState.HELD}
        assert [one.id for one in answers] == [one.id for one in orders]
        assert count(database, "ledger_link") == before + 1
    assert verify(database) == []


async def test_what_comes_turn_after_turn_is_one_batch(database: Database) -> None:
    books = ledgers.open_books(database, 100_000)
    async with LedgerStore(database) as ledger:
        before = count(database, "ledger_link")

        async def place(turn: int) -> Hold:
            for _ in range(turn):
                await asyncio.sleep(0)
            return await ledger.place_hold(books.order(5, hold_id=f"hold-{turn:04}"))

        await asyncio.gather(*map(place, range(TURNS_MAX)))
        assert count(database, "ledger_link") == before + 1
    assert verify(database) == []


async def test_a_stream_of_requests_does_not_keep_the_first_one_waiting(database: Database) -> None:
    books = ledgers.open_books(database, 10**12)
    async with LedgerStore(database, queue_max=10**6) as ledger:
        first = asyncio.create_task(ledger.place_hold(books.order(5, hold_id="hold-first")))
        others: list[asyncio.Task[Hold]] = []
        async with asyncio.timeout(PATIENCE_S):
            while not first.done():
                others.append(asyncio.create_task(ledger.place_hold(books.order(5, hold_id=f"hold-{len(others):06}"))))
                await asyncio.sleep(0)
        assert first.result().state is HoldState.HELD
        assert {one.state for one in await asyncio.gather(*others)} == {HoldState.HELD}
    assert verify(database) == []


async def test_what_is_in_no_hurry_goes_with_the_next_that_is_and_before_it(database: Database) -> None:
    """A settlement that waits frees its tokens for whoever asks next: nobody is refused what only waits to be written."""
    books = ledgers.open_books(database, 10)
    async with LedgerStore(database) as ledger:
        await ledger.place_hold(books.order(10, hold_id="hold-first"))
        before = count(database, "ledger_link")
        closing = asyncio.create_task(ledger.settle(HoldId("hold-first"), ledgers.NOW, hurry=False))
        await asyncio.sleep(0)
        assert (await ledger.place_hold(books.order(10, hold_id="hold-next"))).state is HoldState.HELD
        assert (await closing).state is HoldState.SETTLED
        assert count(database, "ledger_link") == before + 1
    assert verify(database) == []


async def test_what_is_in_no_hurry_begins_no_batch_at_once_and_waits_for_nobody(database: Database) -> None:
    books = ledgers.open_books(database, 100)
    async with LedgerStore(database) as ledger:
        for hold_id in ("hold-first", "hold-later"):
            await ledger.place_hold(books.order(5, hold_id=hold_id))
        before = count(database, "ledger_link")
        began_s = asyncio.get_running_loop().time()
        closing = [ledger.settle(HoldId(f"hold-{name}"), ledgers.NOW, hurry=False) for name in ("first", "later")]
        assert {one.state for one in await asyncio.gather(*closing)} == {HoldState.SETTLED}
        assert asyncio.get_running_loop().time() - began_s >= LINGER_S / 2
        assert count(database, "ledger_link") == before + 1
    assert verify(database) == []


async def test_a_close_commits_what_was_asked_a_moment_before(database: Database) -> None:
    books = ledgers.open_books(database, 100_000)
    ledger = LedgerStore(database)
    ledger.start()
    asked = ledger.place_hold(books.order(5, hold_id="hold-last"))
    asked.send(None)  # as far as its first wait; the loop has had no turn since
    ledger.close()
    asked.close()
    assert count(database, "hold WHERE id = 'hold-last'") == 1


async def test_an_end_hands_over_on_the_loop_and_what_comes_meanwhile_is_answered(database: Database) -> None:
    """From another thread a hand-over could meet what the loop asks for in this moment."""
    books = ledgers.open_books(database, 100_000)
    threads: set[int] = set()
    late: list[asyncio.Future[Hold]] = []
    async with LedgerStore(database) as ledger:
        take = ledger.writer.submit_all

        def taken(asked: Sequence[tuple[Operation, Ticket]]) -> Sequence[tuple[Ticket, Unavailable]]:
            threads.add(threading.get_ident())
            return take(asked)

        ledger.writer.submit_all = taken  # type: ignore[method-assign]
        last = asyncio.ensure_future(ledger.place_hold(books.order(5, hold_id="hold-last")))
        await asyncio.sleep(0)  # asked, and its turn is not over
        asyncio.get_running_loop().call_soon(
            lambda: late.append(asyncio.ensure_future(ledger.place_hold(books.order(5, hold_id="hold-late"))))
        )
    assert (await last).state is HoldState.HELD
    [answer] = await asyncio.gather(*late, return_exceptions=True)
    assert isinstance(answer, Hold | Unavailable)
    assert threads == {threading.get_ident()}
    assert count(database, "hold WHERE id = 'hold-late'") == isinstance(answer, Hold)


async def test_what_was_asked_counts_though_nobody_waits_any_more(database: Database) -> None:
    books = ledgers.open_books(database, 100_000)
    async with LedgerStore(database) as ledger:
        asked = asyncio.create_task(ledger.place_hold(books.order(5, hold_id="hold-left")))
        await asyncio.sleep(0)
        asked.cancel()
        with suppress(asyncio.CancelledError):
            await asked
        again = await ledger.place_hold(books.order(5, hold_id="hold-left"))
        assert isinstance(again, Hold)
        assert again.replayed
