"""Books over three months with a checkpoint after each, for the tests of the archive; what happened when is written down here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from quota.domain.hold import Usage
from quota.domain.ids import AdjustmentId, HoldId, RefundId
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.unit_of_work import SqlTransaction
from quota.store.verify_since import make_checkpoint
from tests import ledgers
from tests.ledgers import Books

KEY: Final = b"k" * 64
US: Final = timedelta(microseconds=1)
JUNE: Final = datetime(2026, 6, 1, tzinfo=UTC)
JULY: Final = datetime(2026, 7, 1, tzinfo=UTC)
AUGUST: Final = datetime(2026, 8, 1, tzinfo=UTC)
MORNING: Final = timedelta(hours=4)  # when a timer makes the checkpoint of the month before
AWARD: Final = 10**9


def used(hold_id: str, event_id: str, to_at: datetime, amount: int = 5) -> Usage:
    """A minute of a hold that ended at `to_at`."""
    return Usage("session", event_id, HoldId(hold_id), to_at - timedelta(minutes=1), to_at, 60_000, amount)


def hold(books: Books, hold_id: str, at: datetime) -> None:
    """One hold of 40."""
    ledgers.run(books.database, lambda ledger: ledger.place_hold(books.order(40, hold_id=hold_id)._replace(at=at)))


def charge(books: Books, *usages: Usage) -> None:
    answers = ledgers.run(books.database, *(lambda ledger, one=one: ledger.charge(one) for one in usages))
    assert not [one for one in answers if isinstance(one, Exception)], answers


def checkpoint(database: Database, at: datetime) -> None:
    """Sign one that finds nothing wrong."""
    assert make_checkpoint(database, KEY, at).findings == []


def correct(books: Books, name: str, at: datetime) -> None:
    """An adjustment and a refund of `name`, and one of each that is refused."""
    with books.database.writing() as connection:
        tx = SqlTransaction(connection)
        for number, delta in enumerate((7, -10 * AWARD)):
            ids = AdjustmentId(f"{name}-adjust-{number}"), books.accounts[0]
            tx.accounts.adjust(*ids, delta, actor=books.person.id, reason=f"for {name}", at=at)
        for number, amount in enumerate((2, 10**6)):
            of = RefundId(f"{name}-refund-{number}"), HoldId("may")
            tx.refunds.give(*of, amount, actor=books.person.id, reason=f"for {name}", at=at)


def three_months(database: Database) -> Books:
    """May with a bit of everything, June with what came late, July without a row; August begins with one row."""
    books = ledgers.open_books(database, AWARD, AWARD)
    hold(books, "may", JUNE - timedelta(days=20))
    charge(books, used("may", "may-1", JUNE - timedelta(days=19), 30))
    correct(books, "may", JUNE - timedelta(days=3))
    at_midnight = [
        books.order(40, hold_id="last")._replace(at=JUNE - US),
        books.order(40, hold_id="first")._replace(at=JUNE),
    ]
    ledgers.together(database, *(lambda ledger, one=one: ledger.place_hold(one) for one in at_midnight))
    hold(books, "early", JUNE + timedelta(hours=2))
    charge(books, used("first", "free", JUNE + timedelta(hours=3), 0))
    checkpoint(database, JUNE + MORNING)
    charge(books, used("last", "late", JUNE - timedelta(minutes=2)))
    hold(books, "june", JUNE + timedelta(days=9))
    correct(books, "june", JUNE + timedelta(days=10))
    checkpoint(database, JUNE + timedelta(days=15))  # nobody forbids more than one
    checkpoint(database, JULY + MORNING)
    correct(books, "august", AUGUST)
    checkpoint(database, AUGUST + MORNING)
    return books


def many(database: Database, holds: int, at: datetime = JUNE - timedelta(days=9)) -> Books:
    """May with four entries a hold, all made by the ledger itself, and a checkpoint."""
    books = ledgers.open_books(database, AWARD)

    async def some(ledger: LedgerStore, numbers: Sequence[int]) -> None:
        ids = [f"many-{number:07}" for number in numbers]
        orders = [books.order(5, hold_id=one)._replace(at=at) for one in ids]
        await asyncio.gather(*(ledger.place_hold(order) for order in orders))
        ends = at + timedelta(minutes=2)
        await asyncio.gather(*(ledger.settle(HoldId(one), ends, used(one, one, ends)) for one in ids))

    async def all_of_them() -> None:
        async with LedgerStore(database) as ledger:
            for first in range(0, holds, 1000):
                await some(ledger, range(first, min(first + 1000, holds)))

    asyncio.run(all_of_them())
    checkpoint(database, JUNE + MORNING)
    return books
