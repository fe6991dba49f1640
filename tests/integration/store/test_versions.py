"""Whoever updates an account raises its version: the ledger's writers remember accounts and compare nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text

from quota.domain.hold import HoldState
from quota.domain.ids import HoldId
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.unit_of_work import SqlTransaction
from tests import ledgers
from tests.ledgers import NOW, Books

Change = Callable[[Books], object]


def _deposit(books: Books) -> None:
    with books.database.writing() as connection:
        SqlTransaction(connection).accounts.deposit(
            "more", books.accounts[0], 5, actor=books.person.id, at=NOW, code="award", params={}
        )


def _adjust(books: Books) -> object:
    return ledgers.adjust(books.database, books.person.id, "adjust-1", books.accounts[0], -5)


def _reverse(books: Books) -> object:
    _adjust(books)
    return ledgers.reverse(books.database, books.person.id, "reverse-1", "adjust-1")


def _refund(books: Books) -> object:
    return ledgers.refund(books.database, books.person.id, "refund-1", "hold-0001", 3)


def _revoke(books: Books) -> None:
    with books.database.writing() as connection:
        SqlTransaction(connection).accounts.revoke(books.accounts[0])


def _charge(books: Books) -> object:
    return ledgers.run(books.database, lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-2", 5, minute=1)))


def _overrun(books: Books) -> object:
    return ledgers.run(
        books.database, lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-2", 500, minute=1))
    )


@pytest.fixture
def books(database: Database) -> Books:
    """An award of 100, of which a hold of 30 charged 20."""
    books = ledgers.open_books(database, 100)
    ledgers.run(
        database,
        lambda ledger: ledger.place_hold(books.order(30, hold_id="hold-0001")),
        lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-1", 20)),
    )
    return books


@pytest.mark.parametrize("change", [_deposit, _adjust, _reverse, _refund, _revoke, _charge, _overrun])
def test_a_change_of_an_account_raises_its_version(books: Books, change: Change) -> None:
    with books.database.writing() as connection:  # whoever forgets it changes no row
        for statement in _STRICT["sqlite" if books.database.is_sqlite else "postgresql"]:
            connection.execute(text(statement))
    before = _version(books)
    change(books)
    assert _version(books) > before


_STRICT = {
    "sqlite": (
        "CREATE TRIGGER strict BEFORE UPDATE ON account WHEN NEW.version <> OLD.version + 1 "
        "BEGIN SELECT RAISE(ABORT, 'the version stays'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION strict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.version <> OLD.version + 1 THEN RAISE 'the version stays'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER strict BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION strict()",
    ),
}


def _version(books: Books) -> int:
    with books.database.reading() as connection:
        return int(connection.execute(text("SELECT version FROM account WHERE id = 'account-0'")).scalar_one())


async def test_a_revoked_account_takes_no_hold_of_a_writer_that_remembers_it(database: Database) -> None:
    books = ledgers.open_books(database, 100)
    async with LedgerStore(database) as ledger:
        await ledger.place_hold(books.order(5, hold_id="hold-0001"))
        _revoke(books)
        assert (await ledger.place_hold(books.order(0))).state is HoldState.REFUSED
        assert (await ledger.settle(HoldId("hold-0001"), NOW)).state is HoldState.SETTLED
