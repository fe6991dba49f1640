"""Moves of awarded amounts in a ring, beside writers whose batches touch every allocation: nobody waits for ever, nothing is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text

from quota.domain.hold import HoldState
from quota.domain.ids import AdjustmentId
from quota.service.ports import Adjusted, Transaction
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.unit_of_work import SqlStore
from quota.store.verify import verify
from tests import ledgers
from tests.ledgers import NOW, Books
from tests.waiting import PATIENCE_S

RING = ((0, 1), (1, 2), (2, 0))
AWARD = 10_000


async def test_transfers_in_a_ring_do_not_deadlock_with_each_other_or_with_writers(database: Database) -> None:
    books = ledgers.open_books(database, *[AWARD] * 3)
    store = SqlStore(database)
    async with LedgerStore(database) as one, LedgerStore(database) as other:
        for number in range(10):
            moves = [store.write(_move(books, f"{number}-{a}", a, b, locked=True)) for a, b in RING]
            asked = [
                ledger.place_hold(books.order(1, hold_id=f"ring-{number}-{name}-{at}", account=at))
                for ledger, name, order in ((one, "a", (2, 1, 0)), (other, "b", (0, 2, 1)))
                for at in order
            ]
            await asyncio.gather(*moves, *asked)
    await asyncio.to_thread(store.close)
    _untouched(database, held=20)
    database.close()  # a session tells its counts at the latest when it ends
    assert await asyncio.to_thread(_deadlocks, database) == 0


async def test_a_transfer_that_meets_a_writer_head_on_is_tried_again_by_the_one_that_lost(
    new_postgres_database: Callable[[], Database],
) -> None:
    """The control: without `lock` the same two do deadlock, the database ends one of them, and neither caller hears of it."""
    database = new_postgres_database()
    books = ledgers.open_books(database, *[AWARD] * 3)
    store, half_way = SqlStore(database), threading.Event()
    async with LedgerStore(database) as ledger:
        move = asyncio.ensure_future(
            store.write(_move(books, "head-on", 2, 0, locked=False, between=lambda: _meet(database, half_way)))
        )
        await asyncio.to_thread(half_way.wait, PATIENCE_S)
        holds = await asyncio.gather(
            *(ledger.place_hold(books.order(1, hold_id=f"meets-{at}", account=at)) for at in (0, 2))
        )
        await move
    assert {hold.state for hold in holds} == {HoldState.HELD}
    await asyncio.to_thread(store.close)
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM adjustment WHERE kind = 'adjustment'")).scalar_one() == 2
    assert verify(database) == []
    database.close()
    assert await asyncio.to_thread(_deadlocks, database) >= 1


def _move(
    books: Books, number: str, source: int, target: int, *, locked: bool, between: Callable[[], None] = lambda: None
) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        accounts = books.accounts[source], books.accounts[target]
        if locked:
            tx.accounts.lock(accounts)
        for account, delta, end in zip(accounts, (-5, 5), ("out", "in"), strict=True):
            done = tx.accounts.adjust(
                AdjustmentId(f"move-{number}-{end}"), account, delta, actor=books.person.id, reason="transfer", at=NOW
            )
            assert isinstance(done, Adjusted)
            if end == "out":
                between()

    return work


def _meet(database: Database, half_way: threading.Event) -> None:
    """Wait until a writer waits for the account that this transaction has locked; it holds the other one then."""
    if half_way.is_set():
        return  # the second try
    half_way.set()
    with database.reading() as connection:
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            if connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
                return
            connection.execute(text("SELECT pg_sleep(0.005)"))
    pytest.fail("no writer came")


def _untouched(database: Database, *, held: int) -> None:
    with database.reading() as connection:
        query = text("SELECT awarded, held FROM account WHERE kind = 'allocation'")
        assert [tuple(row) for row in connection.execute(query)] == [(AWARD, held)] * 3
    assert verify(database) == []


def _deadlocks(database: Database) -> int:
    if database.is_sqlite:
        return 0
    with database.reading() as connection:
        query = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        found: int = connection.execute(query).scalar_one()
    database.close()
    return found
