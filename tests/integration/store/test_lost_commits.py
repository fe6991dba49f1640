"""The reply to COMMIT is lost, after it counted or before it did: each operation has its effect once and its true answer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
import pytest
from sqlalchemy import text

from quota.domain.errors import Unavailable
from quota.domain.hold import HoldOrder, HoldState
from quota.store import statements as sql
from quota.store.database import Database, open_database
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.verify import verify
from quota.store.wire import Insert, PostgresWire, Row, Statement, Wire, open_wire
from quota.store.writer import Outside
from tests import ledgers
from tests.integration.postgres import Postgres
from tests.integration.store.wire_proxy import Cut, Cutter, WireProxy

T = TypeVar("T")
COUNT = 120


REPLIES = 51


@dataclass
class Losses:
    """Every `every`-th COMMIT of a batch is cut: after it counted where `after`, else before."""

    every: int
    after: bool
    commits: int = 0
    cuts: int = 0


class LossyWire:
    """A wire whose COMMIT sometimes goes unanswered; the connection is gone then."""

    def __init__(self, inner: Wire, losses: Losses) -> None:
        self._inner = inner
        self._losses = losses

    @property
    def overlaps(self) -> bool:
        return self._inner.overlaps

    def begin(self) -> None:
        self._inner.begin()

    def commit(self) -> None:
        self._losses.commits += 1
        if self._losses.commits % self._losses.every:
            self._inner.commit()
            return
        self._losses.cuts += 1
        if self._losses.after:
            self._inner.commit()
        self._inner.close()
        raise sqlite3.OperationalError("the connection was cut")

    def rollback(self) -> None:
        self._inner.rollback()

    def close(self) -> None:
        self._inner.close()

    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]:
        return self._inner.select(statement, rows)

    def update(self, statement: Statement, rows: Sequence[Row]) -> None:
        self._inner.update(statement, rows)

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None:
        self._inner.insert(insert, rows, shared, dumped)

    def add_link(self, statement: Statement, row: Row) -> int | None:
        return self._inner.add_link(statement, row)

    def send(self) -> None:
        self._inner.send()

    def forget(self) -> None:
        self._inner.forget()

    def ready(self, bell: int) -> None:
        self._inner.ready(bell)

    def confirm(self) -> None:
        self._inner.confirm()


@dataclass
class Overlaps:
    """COMMITs behind which the next batch was sent, and how many of those were lost."""

    sent: int = 0
    lost: int = 0


class OverlappingWire(LossyWire):
    """A wire that counts them."""

    def __init__(self, inner: Wire, overlaps: Overlaps) -> None:
        super().__init__(inner, Losses(every=10**9, after=True))
        self._overlaps = overlaps

    def commit(self) -> None:
        assert isinstance(self._inner, PostgresWire)
        behind = bool(self._inner._behind)
        self._overlaps.sent += behind
        try:
            super().commit()
        except psycopg.Error:
            self._overlaps.lost += behind
            raise


class OvertakenWire(LossyWire):
    """A wire that lets `between` happen once, right before it locks the accounts."""

    def __init__(self, inner: Wire, between: list[Callable[[], object]]) -> None:
        super().__init__(inner, Losses(every=10**9, after=True))
        self._between = between

    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]:
        if statement is sql.LOCK_ACCOUNTS and self._between:
            self._between.pop()()
        return super().select(statement, rows)


async def test_a_charge_that_arrives_while_it_is_repeated_is_answered_with_the_hold_that_it_left(
    postgres: Postgres,
) -> None:
    """As a COMMIT does that was on its way when its reply was lost, and another writer: SQLite has one writer at a time."""
    database = open_database(postgres.new_database())
    migrate(database)
    books = ledgers.open_books(database, COUNT)
    between: list[Callable[[], object]] = []
    outside = Outside(connect=lambda opened: OvertakenWire(open_wire(opened), between))
    async with LedgerStore(database) as other, LedgerStore(database, outside=outside) as ledger:
        order = books.order(3, hold_id="hold-1")
        usage = ledgers.usage(order.id, "event-1", 2)
        await other.place_hold(order)
        loop = asyncio.get_running_loop()
        between.append(lambda: asyncio.run_coroutine_threadsafe(other.charge(usage), loop).result(30))
        repeated = await ledger.charge(usage)
    assert not between
    assert (repeated.applied, repeated.hold.charged) == (False, 2)
    assert verify(database) == []
    database.close()


@pytest.mark.parametrize("after", [True, False], ids=["it counted", "it did not"])
async def test_a_lost_reply_to_commit_changes_no_answer_and_no_balance(database: Database, after: bool) -> None:
    losses = Losses(every=3, after=after)
    outside = Outside(connect=lambda opened: LossyWire(open_wire(opened), losses))
    books = ledgers.open_books(database, COUNT)
    async with LedgerStore(database, batch_max=2, outside=outside) as ledger:
        orders = [books.order(1, hold_id=f"hold-{number:04}") for number in range(COUNT)]
        holds = await asyncio.gather(*(ledger.place_hold(order) for order in orders))
        assert {(hold.state, hold.replayed) for hold in holds} == {(HoldState.HELD, False)}
        charged = await asyncio.gather(
            *(ledger.charge(ledgers.usage(order.id, f"event-{order.id}", 1)) for order in orders)
        )
    assert all(one.applied for one in charged)
    assert losses.cuts >= 25
    with database.reading() as connection:
        row = connection.execute(text("SELECT charged, held FROM account WHERE id = 'account-0'")).one()
    assert tuple(row) == (COUNT, 0)
    assert verify(database) == []


@pytest.mark.timeout(600)
async def test_commits_cut_on_postgresqls_wire_count_once(postgres: Postgres) -> None:
    """Cuts of three kinds by turns: after the server said COMMIT, right after COMMIT was sent, before it was.

    Behind many a COMMIT goes the next batch, which has none of its own yet.
    """
    url = postgres.new_database()
    direct = open_database(url)
    migrate(direct)
    books = ledgers.open_books(direct, 10**6)
    cutter = Cutter(every=2, ways=(Cut.REPLY, Cut.REPLY, Cut.SENT, Cut.COMMIT))
    async with WireProxy(postgres.port, cutter) as proxy:
        through = open_database(url.replace(f":{postgres.port}/", f":{proxy.port}/"))
        overlaps = Overlaps()
        outside = Outside(connect=lambda opened: OverlappingWire(open_wire(opened), overlaps), beside=1)
        async with LedgerStore(through, batch_max=8, outside=outside) as ledger:
            placed = 0
            while cutter.cuts.get(Cut.REPLY, 0) < REPLIES:
                orders = [books.order(3, hold_id=f"hold-{placed + number:05}") for number in range(64)]
                placed += len(orders)
                await asyncio.gather(*(_place_and_charge(ledger, order) for order in orders))
                assert placed < 64 * REPLIES, cutter
        await asyncio.to_thread(through.close)
    assert min(cutter.cuts.values()) >= REPLIES // 3
    assert overlaps.lost >= REPLIES // 10, f"{overlaps} of {cutter}"
    with direct.reading() as connection:
        row = connection.execute(text("SELECT charged, held FROM account WHERE id = 'account-0'")).one()
        holds, usages = (
            connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in ("hold", "usage_record")
        )
    assert tuple(row) == (2 * placed, placed)
    assert (holds, usages) == (placed, placed)
    assert verify(direct) == []
    direct.close()


async def _place_and_charge(ledger: LedgerStore, order: HoldOrder) -> None:
    hold = await _until_answered(lambda: ledger.place_hold(order))
    assert hold.state is HoldState.HELD
    charged = await _until_answered(lambda: ledger.charge(ledgers.usage(order.id, f"event-{order.id}", 2)))
    assert charged.hold.charged == 2


async def _until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask with the same id until the ledger answers: the reply to its own question about a COMMIT may be cut, too."""
    for _ in range(100):
        try:
            return await ask()
        except Unavailable:
            await asyncio.sleep(0)
    raise AssertionError("no answer")
