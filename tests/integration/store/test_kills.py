"""kill -9 under load, of the writer's process and of the database: what was acknowledged is there once, every retry applies once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable

import pytest
from sqlalchemy import text

from quota.domain.errors import Unavailable
from quota.domain.hold import HoldState
from quota.store.database import Database, open_database
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.verify import verify
from tests import ledgers
from tests.integration.postgres import Postgres, running_postgres
from tests.integration.store.test_races import start_writer
from tests.ledgers import Books
from tests.waiting import PATIENCE_S

CLIENTS = 16
_KILLS = [10, pytest.param(200, marks=[pytest.mark.full, pytest.mark.timeout(3600)])]


@pytest.mark.parametrize("kills", _KILLS)
async def test_a_writer_killed_under_load_loses_nothing_and_its_retries_apply_once(
    database: Database, kills: int
) -> None:
    books = ledgers.open_books(database, 10**12)
    async with LedgerStore(database) as survivor:
        for number in range(kills):
            prefix = f"kill-{number:03}"
            acknowledged = await asyncio.to_thread(_killed_after, database, prefix, 40 + 7 * (number % 40))
            # Each client asks again for everything, and for the one hold beyond that may or may not have counted.
            turns = {line.split("-")[2]: 1 for line in acknowledged}
            for line in acknowledged:
                turns[line.split("-")[2]] += 1
            asked = [f"{prefix}-{client}-{turn:05}" for client, count in turns.items() for turn in range(count)]
            await _ask_again(survivor, books, asked, acknowledged)
            assert _stored(database, prefix) == set(asked)
    _balanced(database)


def _killed_after(database: Database, prefix: str, answers: int) -> set[str]:
    """The ids that a writer process acknowledged before and while it was killed."""
    process = start_writer(database, prefix, CLIENTS, 10_000)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(answers)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait(PATIENCE_S)
    return {line.split()[0] for line in lines if line.endswith("held\n")}


async def _ask_again(ledger: LedgerStore, books: Books, ids: Iterable[str], acknowledged: set[str]) -> None:
    holds = await asyncio.gather(*(ledger.place_hold(books.order(1, hold_id=one)) for one in ids))
    assert {hold.state for hold in holds} <= {HoldState.HELD}
    assert acknowledged <= {hold.id for hold in holds if hold.replayed}


@pytest.mark.parametrize("kills", _KILLS)
async def test_a_database_killed_under_load_comes_back_with_everything_acknowledged(kills: int) -> None:
    """Every second time it is the whole server, else one session of it, at which the server restarts itself."""
    with running_postgres() as server:
        database = open_database(server.new_database())
        migrate(database)
        books = ledgers.open_books(database, 10**12)
        async with LedgerStore(database) as ledger:
            load = Load(ledger, books)
            tasks = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
            for number in range(kills):
                await load.reaches(len(load.acknowledged) + 40)
                await asyncio.to_thread(_kill, server, number)
            await load.reaches(len(load.acknowledged) + 40)
            load.stop.set()
            await asyncio.gather(*tasks)
        assert load.acknowledged == _stored(database, "client")
        _balanced(database)
        database.close()


def _kill(server: Postgres, number: int) -> None:
    if number % 2:
        server.kill_session()
        return
    server.kill()
    server.start()


class Load:
    """Clients that place holds of 1 and repeat each until it is acknowledged."""

    def __init__(self, ledger: LedgerStore, books: Books) -> None:
        self._ledger = ledger
        self._books = books
        self._progress = asyncio.Event()
        self.acknowledged: set[str] = set()
        self.stop = asyncio.Event()

    async def client(self, number: int) -> None:
        turn = 0
        while not self.stop.is_set():
            order = self._books.order(1, hold_id=f"client-{number}-{turn}")
            while True:  # ends once the database is back
                try:
                    hold = await self._ledger.place_hold(order)
                except Unavailable:
                    await asyncio.sleep(0.02)
                    continue
                break
            assert hold.state is HoldState.HELD
            self.acknowledged.add(hold.id)
            self._progress.set()
            turn += 1

    async def reaches(self, count: int) -> None:
        while len(self.acknowledged) < count:
            self._progress.clear()
            await self._progress.wait()


def _stored(database: Database, prefix: str) -> set[str]:
    with database.reading() as connection:
        query = text("SELECT id FROM hold WHERE id LIKE :prefix AND state = 'held'")
        rows = [row.id for row in connection.execute(query, {"prefix": f"{prefix}-%"})]
    assert len(rows) == len(set(rows))
    return set(rows)


def _balanced(database: Database) -> None:
    assert verify(database) == []
    with database.reading() as connection:
        held = connection.execute(text("SELECT held FROM account WHERE id = 'account-0'")).scalar_one()
        assert held == connection.execute(text("SELECT count(*) FROM hold WHERE state = 'held'")).scalar_one()
