"""The floors that the ledger is measured against: group commit with nothing but a conditional balance, hold and entries.

No idempotency, no refusals, no lines, no usage, no chain: a queue, one writer, set-based statements, futures resolved after COMMIT.
Over `JsonWire` that is the plain loop with an entry a bucket (62,000 and 38,000/s where this project's goals were set); over the ledger's
own wire, with its entry of two buckets, it has what makes the ledger's statements cheaper, too. `one_per_op`: one transaction an operation.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import psycopg
from sqlalchemy import text

from quota.store.database import Database, dedicated
from quota.store.json_text import dump_rows
from quota.store.wire import Insert, Row, Rows, Statement, demand

_T, _I = "text", "bigint"
_TABLES: Final = (
    "CREATE TABLE bare_account (id TEXT PRIMARY KEY, awarded BIGINT, charged BIGINT, held BIGINT, "
    "CHECK (charged + held <= awarded))",
    "CREATE TABLE bare_hold (id TEXT PRIMARY KEY, account_id TEXT, amount BIGINT, charged BIGINT, state TEXT, details TEXT)",
    "CREATE TABLE bare_entry (seq {serial}, txn_id TEXT, account_id TEXT, bucket TEXT, amount BIGINT, hold_id TEXT, "
    "at_us BIGINT, contra TEXT)",
)
_MOVE: Final = Statement(
    "UPDATE bare_account SET held = bare_account.held + d.held, charged = bare_account.charged + d.charged "
    "FROM {rows} d WHERE bare_account.id = d.id "
    "AND bare_account.awarded - bare_account.charged - bare_account.held >= d.held + d.charged",
    Rows({"id": _T, "held": _I, "charged": _I}),
)
_CLOSE: Final = Statement(
    "UPDATE bare_hold SET state = 'settled', charged = d.charged FROM {rows} d WHERE bare_hold.id = d.id",
    Rows({"id": _T, "charged": _I}),
)
_HOLDS: Final = Insert(
    "bare_hold", {"id": _T, "account_id": _T, "amount": _I, "charged": _I, "state": _T, "details": _T}
)
_ENTRIES: Final = Insert(
    "bare_entry",
    {"txn_id": _T, "account_id": _T, "bucket": _T, "amount": _I, "hold_id": _T, "at_us": _I, "contra": _T},
)
Op = tuple[str, str, int, bool]
"""hold id, account id, amount, whether it is a settle"""


def make_tables(database: Database, accounts: list[str]) -> None:
    """The floor's own tables, beside the real ones."""
    serial = (
        "INTEGER PRIMARY KEY AUTOINCREMENT" if database.is_sqlite else "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    )
    with database.writing() as connection:
        for table in _TABLES:
            connection.execute(text(table.format(serial=serial)))
        connection.execute(text("CREATE INDEX bare_entry_account ON bare_entry (account_id, seq)"))
        for account in accounts:
            connection.execute(text("INSERT INTO bare_account VALUES (:id, 4000000000000000, 0, 0)"), {"id": account})


class BareWire(Protocol):
    """What this loop needs of a wire; the ledger's own have it, too."""

    def begin(self) -> None: ...
    def update(self, statement: Statement, rows: Sequence[Row]) -> None: ...
    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None: ...
    def confirm(self) -> None: ...
    def commit(self) -> None: ...
    def close(self) -> None: ...


def write(wire: BareWire, ops: list[Op]) -> None:
    """One transaction with all of `ops`."""
    moves: dict[str, list[int]] = {}
    holds, closed, entries = [], [], []
    at_us = time.time_ns() // 1000
    for hold_id, account, amount, settles in ops:
        move = moves.setdefault(account, [0, 0])
        if settles:
            move[0] -= amount
            move[1] += amount
            closed.append((hold_id, amount))
            entries.append((f"s:{hold_id}", account, "held", -amount, hold_id, at_us, "charged"))
        else:
            move[0] += amount
            holds.append((hold_id, account, amount, 0, "held", "{}"))
            entries.append((f"h:{hold_id}", account, "available", -amount, hold_id, at_us, "held"))
    wire.begin()
    wire.update(_MOVE, [(account, held, charged) for account, (held, charged) in sorted(moves.items())])
    if holds:
        wire.insert(_HOLDS, holds)
    if closed:
        wire.update(_CLOSE, closed)
    wire.insert(
        _ENTRIES, [side for row in entries for side in _each_bucket(row)] if isinstance(wire, JsonWire) else entries
    )
    wire.confirm()  # raises where an account ran dry
    wire.commit()


def _each_bucket(row: Row) -> tuple[Row, Row]:
    *named, bucket, amount, hold_id, at_us, contra = row
    return (*named, bucket, amount, hold_id, at_us, None), (*named, contra, -amount, hold_id, at_us, None)


class JsonWire:
    """A connection without art: each statement waited for, its rows one JSON text that the database takes apart."""

    def __init__(self, database: Database) -> None:
        self._connection = dedicated(database)
        self._sqlite = database.is_sqlite
        if isinstance(self._connection, psycopg.Connection):
            self._connection.autocommit = True
            self._connection.prepare_threshold = 1

    def begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE" if self._sqlite else "BEGIN")

    def update(self, statement: Statement, rows: Sequence[Row]) -> None:
        self._run(statement.sql.format(rows=self._unpacked(statement.rows.columns)), rows)

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None:
        self._run(f"INSERT INTO {insert.table} ({insert.names}) SELECT * FROM {self._unpacked(insert.columns)} d", rows)

    def confirm(self) -> None:
        """Each change was looked at when it was made."""

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def _run(self, sql: str, rows: Sequence[Row]) -> None:
        demand(self._connection.execute(sql, (dump_rows(rows).decode(),)).rowcount, len(rows), sql)

    def _unpacked(self, columns: Mapping[str, str]) -> str:
        if self._sqlite:
            each = ", ".join(f"value ->> {at} AS {name}" for at, name in enumerate(columns))
            return f"(SELECT {each} FROM json_each(?))"
        each = ", ".join(f"(value ->> {at})::{kind} AS {name}" for at, (name, kind) in enumerate(columns.items()))
        return f"(SELECT {each} FROM jsonb_array_elements(%s::jsonb) AS t(value))"


class BareLedger:
    """Group commit, bare."""

    def __init__(self, database: Database, connect: Callable[[Database], BareWire] = JsonWire) -> None:
        self._wire = connect(database)
        self._waiting: deque[tuple[Op, asyncio.Future[None]]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, op: Op) -> asyncio.Future[None]:
        """Queue an operation; the future resolves after its COMMIT."""
        done = asyncio.get_running_loop().create_future()
        with self._wake:
            self._waiting.append((op, done))
            self._wake.notify()
        return done

    def close(self) -> None:
        """Write what waits and stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._wire.close()

    def _run(self) -> None:
        while True:  # ends with `close`
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), 1000))]
            if not batch:
                return
            write(self._wire, [op for op, _ in batch])
            batch[0][1].get_loop().call_soon_threadsafe(_resolve, [done for _, done in batch])


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


def one_per_op(database: Database, ops: list[Op]) -> float:
    """Operations a second with one transaction each."""
    wire = JsonWire(database)
    began_s = time.perf_counter()
    for op in ops:
        write(wire, [op])
    took_s = time.perf_counter() - began_s
    wire.close()
    return len(ops) / took_s
