"""A database that is away, a full queue: an outage is never a refusal, and what was acknowledged is there once."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from quota.domain.errors import Unavailable
from quota.store.database import Database, open_database
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from tests import ledgers
from tests.integration.postgres import running_postgres
from tests.integration.store.test_races import start_writer
from tests.waiting import PATIENCE_S


async def test_a_database_that_is_away_is_unavailable_and_never_a_refusal() -> None:
    with running_postgres() as server:
        database = open_database(server.new_database())
        migrate(database)
        books = ledgers.open_books(database, 10)
        async with LedgerStore(database) as ledger:
            server.stop()
            with pytest.raises(Unavailable):
                await ledger.place_hold(books.order(1))
            with pytest.raises(Unavailable):
                await ledger.hold(books.order(1).id)
            server.start()
            assert (await ledger.place_hold(books.order(1))).state == "held"
        database.close()


async def test_a_full_queue_refuses_at_once_and_loses_nothing(database: Database) -> None:
    books = ledgers.open_books(database, 100)
    async with LedgerStore(database, queue_max=4) as ledger:
        answers = await asyncio.gather(*(ledger.place_hold(books.order(1)) for _ in range(60)), return_exceptions=True)
    refused = [one for one in answers if isinstance(one, BaseException)]
    assert refused
    assert all(isinstance(one, Unavailable) for one in refused)
    with database.reading() as connection:
        held = connection.execute(text("SELECT held FROM account WHERE id = 'account-0'")).scalar_one()
    assert held == len(answers) - len(refused)


def test_the_writer_process_ends_when_its_work_is_done(database: Database) -> None:
    ledgers.open_books(database, 5)
    process = start_writer(database, "short-run", 1, 3)
    out, _ = process.communicate("go\n", timeout=PATIENCE_S)
    assert [line.split()[1] for line in out.splitlines()] == ["held"] * 3
