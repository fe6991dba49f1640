"""Writers in several processes race for what is left: the database decides, and never more is taken than there is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text

from quota.domain.hold import HoldKind, HoldState
from quota.domain.ids import HoldId
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.verify import verify
from tests import ledgers
from tests.waiting import PATIENCE_S


def start_writer(database: Database, prefix: str, clients: int, count: int) -> subprocess.Popen[str]:
    """A writer process that is connected and waits for its starting signal."""
    url = database.url.render_as_string(hide_password=False)
    argv = [sys.executable, "-m", "tests.integration.store.writer_process", url, prefix, str(clients), str(count)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_of_eight_clients_cannot_overspend(database: Database) -> None:
    ledgers.open_books(database, 100)
    writers = [start_writer(database, prefix, 8, 12) for prefix in ("writer-a", "writer-b")]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    answers = [line.split() for writer in writers for line in writer.communicate(timeout=PATIENCE_S)[0].splitlines()]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(answers) == 192
    assert sum(state == "held" for _, state in answers) == 100
    assert verify(database) == []


@pytest.mark.parametrize("rounds", [25, pytest.param(1000, marks=[pytest.mark.full, pytest.mark.timeout(1800)])])
def test_the_last_unit_is_given_once_in_every_round(database: Database, rounds: int) -> None:
    """16 clients in 2 processes; the control below is the same race with check-then-act."""
    ledgers.open_books(database, 1)
    won = _race(database, "ledger", rounds, "UPDATE account SET version = version WHERE id = 'account-0'")
    assert [len(winners) for winners in won] == [1] * rounds
    assert verify(database) == []


def test_the_same_race_overspends_where_one_checks_and_then_acts(database: Database) -> None:
    """The control: without the conditional update this harness does see overspending."""
    ledgers.open_books(database, 1)
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE naive (awarded BIGINT NOT NULL, held BIGINT NOT NULL)"))
        connection.execute(text("INSERT INTO naive VALUES (1, 0)"))
    won = _race(database, "control", 8, "UPDATE naive SET held = 0")
    assert min(len(winners) for winners in won) >= 1
    assert sum(len(winners) > 1 for winners in won) >= 1


def _race(database: Database, kind: str, rounds: int, between: str) -> list[list[str]]:
    """Who won each round; a winner's hold is released, and `between` run, before the next."""
    url = database.url.render_as_string(hide_password=False)
    module = "tests.integration.store.racer_process"
    racers = [
        subprocess.Popen(
            [sys.executable, "-m", module, url, name, "8", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    won = []
    try:
        assert [_line(racer) for racer in racers] == ["ready", "ready"]
        for number in range(rounds):
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write(f"{number:04}\n")
                racer.stdin.flush()
            winners = [one for racer in racers for one in _line(racer).split(",") if one]
            won.append(winners)
            if kind == "ledger":
                ledgers.run(database, *(_releasing(HoldId(one)) for one in winners))
            with database.writing() as connection:
                connection.execute(text(between))
    finally:
        for racer in racers:
            racer.communicate(timeout=PATIENCE_S)
    assert [racer.returncode for racer in racers] == [0, 0]
    return won


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().removesuffix("\n")


def _releasing(hold_id: HoldId) -> Callable[[LedgerStore], Awaitable[object]]:
    return lambda ledger: ledger.release(hold_id, ledgers.NOW, "test")


async def test_the_same_id_sent_to_two_writers_is_one_hold(database: Database) -> None:
    books = ledgers.open_books(database, 1000)
    async with LedgerStore(database) as one, LedgerStore(database) as other:
        for number in range(20):
            order = books.order(10, hold_id=f"same-id-{number}")
            holds = await asyncio.gather(*(ledger.place_hold(order) for ledger in (one, other) for _ in range(4)))
            assert sorted(hold.replayed for hold in holds) == [False] + [True] * 7
            used = ledgers.usage(order.id, f"event-{number}", 4)
            charged = await asyncio.gather(*(ledger.charge(used) for ledger in (one, other) for _ in range(4)))
            assert sorted(one.applied for one in charged) == [False] * 7 + [True]
        assert len(await one.open_holds(HoldKind.SESSION)) == 20
    assert verify(database) == []


async def test_holds_across_accounts_in_every_order_do_not_deadlock(database: Database) -> None:
    books = ledgers.open_books(database, *[10_000] * 6)
    async with LedgerStore(database) as one, LedgerStore(database) as other:
        for number in range(20):
            asked = [
                ledger.place_hold(books.order(1, hold_id=f"ring-{number}-{at}-{name}", account=at))
                for ledger, name, order in ((one, "a", range(6)), (other, "b", range(5, -1, -1)))
                for at in order
            ]
            assert all(hold.state is HoldState.HELD for hold in await asyncio.gather(*asked))
    assert verify(database) == []


async def test_a_hold_is_visible_to_another_process_once_it_is_answered(database: Database) -> None:
    books = ledgers.open_books(database, 10)
    async with LedgerStore(database) as one, LedgerStore(database) as other:
        await one.place_hold(books.order(10, hold_id="hold-0001"))
        seen = await other.hold(HoldId("hold-0001"))
    assert seen is not None
    assert seen.amount == 10
