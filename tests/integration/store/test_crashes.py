"""kill -9 of a writer, of the database, and a database that is away: what was acknowledged is there once, and a retry applies once."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from sqlalchemy import text

from quota.domain.errors import Unavailable
from quota.store.database import Database, open_database
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.verify import verify
from tests import ledgers
from tests.integration.postgres import running_postgres
from tests.integration.store.test_races import start_writer

_KILLS = [5, pytest.param(200, marks=[pytest.mark.full, pytest.mark.timeout(3600)])]


@pytest.mark.parametrize("kills", _KILLS)
def test_a_writer_killed_under_load_loses_nothing_that_it_acknowledged(database: Database, kills: int) -> None:
    ledgers.open_books(database, 10**12)
    for number in range(kills):
        prefix = f"crash-{number}"
        process = start_writer(database, prefix, 32, 10_000)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        answered = [process.stdout.readline().split() for _ in range(200 + 37 * number)]
        process.send_signal(signal.SIGKILL)
        answered += [line.split() for line in process.stdout.read().splitlines() if line.endswith("held")]
        process.wait(10)
        _acknowledged_are_there_once(database, prefix, {line[0] for line in answered})
    assert verify(database) == []


def _acknowledged_are_there_once(database: Database, prefix: str, acknowledged: set[str]) -> None:
    with database.reading() as connection:
        stored = [
            row.id
            for row in connection.execute(
                text("SELECT id FROM hold WHERE id LIKE :prefix AND state = 'held'"), {"prefix": f"{prefix}-%"}
            )
        ]
    assert len(stored) == len(set(stored))
    assert acknowledged <= set(stored)


@pytest.mark.timeout(120)
async def test_a_database_killed_under_load_comes_back_with_every_acknowledged_hold() -> None:
    with running_postgres() as server:
        database = open_database(server.new_database())
        migrate(database)
        books = ledgers.open_books(database, 10**12)
        acknowledged: set[str] = set()
        stop, progress = asyncio.Event(), asyncio.Event()
        async with LedgerStore(database) as ledger:

            async def client(number: int) -> None:
                turn = 0
                while not stop.is_set():
                    order = books.order(1, hold_id=f"client-{number}-{turn}")
                    try:
                        hold = await ledger.place_hold(order)
                    except Unavailable:
                        await asyncio.sleep(0.02)  # the retry comes with the same id
                        continue
                    acknowledged.add(hold.id)
                    progress.set()
                    turn += 1

            async def until(goal: int) -> None:
                while len(acknowledged) < goal:
                    progress.clear()
                    await progress.wait()

            tasks = [asyncio.create_task(client(number)) for number in range(16)]
            for goal in (200, 600, 1000):
                await until(goal)
                await asyncio.to_thread(server.stop, signal.SIGQUIT)
                await asyncio.to_thread(server.start)
            await until(1200)
            stop.set()
            await asyncio.gather(*tasks)
        with database.reading() as connection:
            stored = {row.id for row in connection.execute(text("SELECT id FROM hold WHERE state = 'held'"))}
        assert acknowledged <= stored
        assert verify(database) == []
        database.close()


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
    out, _ = process.communicate("go\n", timeout=30)
    assert [line.split()[1] for line in out.splitlines()] == ["held"] * 3


def test_a_full_disk_fails_closed_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    database = ledgers.sqlite_database(tmp_path)
    books = ledgers.open_books(database, 10**12)
    process = start_writer(database, "full-disk", 8, 100_000, file_size_max=1_500_000)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    answered = [process.stdout.readline().split() for _ in range(100)]
    assert process.stderr is not None
    assert any("ledger operations failed" in line for line in process.stderr)
    process.kill()
    answered += [line.split() for line in process.stdout.read().splitlines() if line.endswith("held")]
    process.wait(10)
    _acknowledged_are_there_once(database, "full-disk", {line[0] for line in answered})
    assert verify(database) == []
    after = ledgers.run(database, lambda ledger: ledger.place_hold(books.order(1)))
    assert getattr(after[0], "state", None) == "held"
    database.close()
