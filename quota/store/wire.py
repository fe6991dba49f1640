"""The writer's own connection, on either engine: a batch is a handful of set-based statements, never one a row.

Invariant: the same statements mean the same on both engines; `statements` writes them once, with the differences filled in here.
SQLite binds the rows as VALUES; PostgreSQL unpacks one JSON text, so that a batch is one message and one plan.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import psycopg

from quota.store.database import Database, dedicated
from quota.store.json_text import dump_rows

Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """The shape of a parameter that is a set of rows: column names with their types."""

    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Insert:
    """Rows for a table; with `once`, those whose key exists are left out and not counted.

    `shared` columns have one value for all rows, given once; `fixed` ones have the SQL value that stands here. With `mirrored`, rows
    come in pairs that differ in those two columns alone: the first, whatever it is, and the second, an amount with the other sign.
    """

    table: str
    columns: Mapping[str, str]
    once: bool = False
    shared: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    mirrored: tuple[str, str] | None = None

    @property
    def names(self) -> str:
        """Shared columns first."""
        return ", ".join((*self.shared, *self.columns, *self.fixed))


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with `{rows}` where the rows of the parameter stand, and {greatest}, {least}, {lock}, {share} where the engines differ."""

    sql: str
    rows: Rows


class Interference(Exception):
    """Another writer changed what this batch was planned on; nothing was committed, plan again."""


class Wire(Protocol):
    def begin(self) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...
    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]: ...
    def update(self, statement: Statement, rows: Sequence[Row]) -> int:
        """Run a statement over all rows at once; the number of rows that it changed."""

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> int:
        """Insert all rows, in their order, each with the `shared` values; the number that went in.

        `dumped` is what `dump_rows` makes of the rows, where the caller has it already.
        """


def open_wire(database: Database) -> Wire:
    """Connect. Raises Unavailable."""
    connection = dedicated(database)
    return SqliteWire(connection) if database.is_sqlite else PostgresWire(connection)


class SqliteWire:
    """Rows are bound as VALUES in statements for few numbers of rows: each is compiled once and cached, whatever the batch's size.

    What is joined comes in 2^k rows, the remainder filled up with rows of NULL, which no key equals; what is inserted in a multiple
    of 32 and the remainder, since after each statement the writer waits for its turn of the interpreter. Of a mirrored pair one row is
    bound, since binding is a third of what a row costs. The widest statement, 512 holds, stays well under SQLite's 32,766 parameters.
    """

    _LARGEST: Final = 512
    _STEP: Final = 32
    _WORDS: Final = {"greatest": "max", "least": "min", "lock": "", "share": ""}

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._texts: dict[tuple[int, int], str] = {}  # by statement and number of rows

    def begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()

    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]:
        if len(rows) <= self._LARGEST:
            return self._run(statement, rows).fetchall()
        return [row for some in self._pieces(rows) for row in self._run(statement, some).fetchall()]

    def update(self, statement: Statement, rows: Sequence[Row]) -> int:
        if len(rows) <= self._LARGEST:
            return self._run(statement, rows).rowcount
        return sum(self._run(statement, some).rowcount for some in self._pieces(rows))

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> int:
        count = start = 0
        if insert.mirrored is not None:
            differs = list(insert.columns).index(insert.mirrored[0])
            rows = [(*one, other[differs]) for one, other in zip(rows[::2], rows[1::2], strict=True)]
        while (left := len(rows) - start) > 0:
            size = min(self._LARGEST, left - left % self._STEP or left)
            values = (*shared, *itertools.chain.from_iterable(rows[start : start + size]))
            count += self._connection.execute(self._insert(insert, size), values).rowcount
            start += size
        return count

    def _pieces(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        return [rows[start : start + self._LARGEST] for start in range(0, len(rows), self._LARGEST)]

    def _run(self, statement: Statement, rows: Sequence[Row]) -> sqlite3.Cursor:
        size = 1 << (len(rows) - 1).bit_length()
        filling = (None,) * ((size - len(rows)) * len(statement.rows.columns))
        values = (*itertools.chain.from_iterable(rows), *filling)
        return self._connection.execute(self._text(statement, size), values)

    def _text(self, statement: Statement, size: int) -> str:
        text = self._texts.get((id(statement), size))
        if text is None:
            names = statement.rows.columns
            columns = ", ".join(f"column{number} AS {name}" for number, name in enumerate(names, start=1))
            source = f"(SELECT {columns} FROM (VALUES {_values(len(names), size)}))"  # noqa: S608
            text = self._texts[id(statement), size] = statement.sql.format(rows=source, **self._WORDS)
        return text

    def _insert(self, insert: Insert, size: int) -> str:
        text = self._texts.get((id(insert), size))
        if text is None:
            # Only what is shared has a number: SQLite searches its numbered parameters one by one.
            shared = [f"?{at}" for at in range(1, len(insert.shared) + 1)]
            if insert.mirrored is None:
                each = ", ".join((*shared, *"?" * len(insert.columns), *insert.fixed.values()))
                rows = f"VALUES {', '.join([f'({each})'] * size)}"
            else:
                rows = _mirrored(insert, shared, size)
            text = f"INSERT INTO {insert.table} ({insert.names}) {rows}"
            text += " ON CONFLICT DO NOTHING" if insert.once else ""
            self._texts[id(insert), size] = text
        return text


def _mirrored(insert: Insert, shared: Sequence[str], size: int) -> str:
    """Both rows of each pair, one after the other: SQLite runs the loops of a CROSS JOIN as they are written."""
    assert insert.mirrored is not None
    differs, amount = insert.mirrored
    said = {name: f"d.column{at}" for at, name in enumerate(insert.columns, start=1)}
    said[differs] = f"CASE side.column1 WHEN 1 THEN {said[differs]} ELSE d.column{len(said) + 1} END"
    said[amount] = f"side.column1 * {said[amount]}"
    each = ", ".join((*shared, *said.values(), *insert.fixed.values()))
    pairs = f"(VALUES {_values(len(said) + 1, size)}) d"
    return f"SELECT {each} FROM {pairs} CROSS JOIN (VALUES (1), (-1)) side"  # noqa: S608


def _values(columns: int, rows: int) -> str:
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


class PostgresWire:
    _WORDS: Final = {"greatest": "greatest", "least": "least", "lock": "FOR NO KEY UPDATE", "share": "FOR SHARE"}

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._connection.prepare_threshold = 1
        self._cursor = connection.cursor()
        # Everything here is looked up by key. A plan made while a table was small must not scan it once it has grown.
        for method in ("seqscan", "hashjoin", "mergejoin", "bitmapscan"):
            self._cursor.execute(f"SET enable_{method} = off".encode())
        connection.commit()
        self._texts: dict[int, str] = {}

    def begin(self) -> None:
        """The first statement begins the transaction."""

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()

    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]:
        self._run(statement, rows)
        return self._cursor.fetchall()

    def update(self, statement: Statement, rows: Sequence[Row]) -> int:
        self._run(statement, rows)
        return self._cursor.rowcount

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> int:
        text = self._texts.get(id(insert))
        if text is None:
            values = (
                *(f"%s::{kind}" for kind in insert.shared.values()),
                _columns(insert.columns),
                *insert.fixed.values(),
            )
            source = "jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS t(r, n) ORDER BY n"
            text = f"INSERT INTO {insert.table} ({insert.names}) SELECT {', '.join(values)} FROM {source}"  # noqa: S608
            text += " ON CONFLICT DO NOTHING" if insert.once else ""
            self._texts[id(insert)] = text
        self._cursor.execute(text.encode(), (*shared, (dump_rows(rows) if dumped is None else dumped).decode()))
        return self._cursor.rowcount

    def _run(self, statement: Statement, rows: Sequence[Row]) -> None:
        text = self._texts.get(id(statement))
        if text is None:
            source = f"(SELECT {_columns(statement.rows.columns)} FROM jsonb_array_elements(%s::jsonb) AS t(r))"  # noqa: S608
            text = self._texts[id(statement)] = statement.sql.format(rows=source, **self._WORDS)
        self._cursor.execute(text.encode(), (dump_rows(rows).decode(),))


def _columns(columns: Mapping[str, str]) -> str:
    return ", ".join(f"(r ->> {at})::{kind} AS {name}" for at, (name, kind) in enumerate(columns.items()))
