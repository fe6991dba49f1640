"""The writer's own connection, on either engine: a batch is a handful of set-based statements, never one a row.

Invariants: the same statements mean the same on both engines; `statements` writes them once, with the differences filled in here. A
change is of exactly as many rows as it was given, or the batch does not reach its COMMIT. SQLite binds the rows as VALUES; PostgreSQL
unpacks one JSON text, so that a batch is one plan, and gets the changes one after the other without a wait for each answer.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
    """Rows for a table; with `once`, a key that exists means that another writer was there.

    `shared` columns have one value for all rows, given once; `fixed` ones have the SQL value that stands here.
    """

    table: str
    columns: Mapping[str, str]
    once: bool = False
    shared: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)

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
    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]: ...
    def update(self, statement: Statement, rows: Sequence[Row]) -> None:
        """Run a statement over all rows at once. Raises Interference, here or by `confirm`, where it does not change just as many."""

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None:
        """Insert all rows, in their order, each with the `shared` values. Raises Interference as `update` does.

        `dumped` is what `dump_rows` makes of the rows, where the caller has it already.
        """

    def confirm(self) -> None:
        """Every change since `begin` was made as demanded. Raises Interference; then only `rollback` may follow."""

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


def demand(changed: int, rows: Sequence[Row], what: str) -> None:
    """Raise Interference where a statement changed more or fewer rows than it was given."""
    if changed != len(rows):
        raise Interference(what)


def open_wire(database: Database) -> Wire:
    """Connect. Raises Unavailable."""
    connection = dedicated(database)
    return SqliteWire(connection) if database.is_sqlite else PostgresWire(connection)


class SqliteWire:
    """Rows are bound as VALUES in statements for few numbers of rows: each is compiled once and cached, whatever the batch's size.

    What is joined comes in 2^k rows, the remainder filled up with rows of NULL, which no key equals, and a row alone in no table; what
    is inserted in a multiple of 32 and the remainder, since after each statement the writer waits for its turn of the interpreter. The
    widest statement, 512 holds, stays well under SQLite's 32,766 parameters.
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

    def update(self, statement: Statement, rows: Sequence[Row]) -> None:
        demand(sum(self._run(statement, some).rowcount for some in self._pieces(rows)), rows, statement.sql)

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None:
        count, start = 0, 0
        while (left := len(rows) - start) > 0:
            size = min(self._LARGEST, left - left % self._STEP or left)
            values = (*shared, *itertools.chain.from_iterable(rows[start : start + size]))
            count += self._connection.execute(self._insert(insert, size), values).rowcount
            start += size
        demand(count, rows, insert.table)

    def confirm(self) -> None:
        """Each change was looked at when it was made."""

    def _pieces(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        return [rows[start : start + self._LARGEST] for start in range(0, len(rows), self._LARGEST)]

    def _run(self, statement: Statement, rows: Sequence[Row]) -> sqlite3.Cursor:
        if len(rows) == 1:
            return self._connection.execute(
                self._of_one_row(statement), dict(zip(statement.rows.columns, rows[0], strict=True))
            )
        size = 1 << (len(rows) - 1).bit_length()
        filling = (None,) * ((size - len(rows)) * len(statement.rows.columns))
        values = (*itertools.chain.from_iterable(rows), *filling)
        return self._connection.execute(self._text(statement, size), values)

    def _of_one_row(self, statement: Statement) -> str:
        """With the row's values in the place of `d.` columns: SQLite makes a temporary table of a row, two for an UPDATE."""
        text = self._texts.get((id(statement), 1))
        if text is None:
            sql = statement.sql.replace("(SELECT id FROM {rows} k)", "(:id)").replace(
                " FROM {rows} d WHERE ", " WHERE "
            )
            sql = re.sub(r"SELECT (.*) WHERE 1 = 1", r"VALUES (\1)", sql)
            if "{rows}" not in sql:
                sql = re.sub(r"\bd\.(?=\w)", ":", sql)
            source = f"(SELECT {', '.join(f':{name} AS {name}' for name in statement.rows.columns)})"
            text = self._texts[id(statement), 1] = sql.format(rows=source, **self._WORDS)
        return text

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
            each = ", ".join((*shared, *"?" * len(insert.columns), *insert.fixed.values()))
            text = f"INSERT INTO {insert.table} ({insert.names}) VALUES {', '.join([f'({each})'] * size)}"  # noqa: S608
            text += " ON CONFLICT DO NOTHING" if insert.once else ""
            self._texts[id(insert), size] = text
        return text


def _values(columns: int, rows: int) -> str:
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A change that PostgreSQL has or will have, and what it must answer."""

    cursor: psycopg.Cursor[Any]
    rows: Sequence[Row]
    what: str
    once: bool


class PostgresWire:
    """From `begin` to `confirm` the connection is in libpq's pipeline mode: what changes rows is sent and not waited for, a read waits
    for all before it. After an error PostgreSQL skips what was sent up to the end of the pipeline; COMMIT is sent once all is confirmed.

    An insert that must be the first with its keys goes in plainly: ON CONFLICT DO NOTHING is a quarter of its cost. A key that exists
    ends the transaction then, which is what the count of rows would have made of it.
    """

    _WORDS: Final = {"greatest": "greatest", "least": "least", "lock": "FOR NO KEY UPDATE", "share": "FOR SHARE"}

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        connection.autocommit = True  # BEGIN is sent here, with what follows it
        connection.prepare_threshold = 1
        # Everything here is looked up by key. A plan made while a table was small must not scan it once it has grown.
        for method in ("seqscan", "hashjoin", "mergejoin", "bitmapscan"):
            connection.execute(f"SET enable_{method} = off".encode())
        self._texts: dict[int, bytes] = {}
        self._pipeline = ExitStack()
        self._sent: list[_Sent] = []

    def begin(self) -> None:
        self._pipeline.enter_context(self._connection.pipeline())
        self._connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")  # whatever a site has made its default

    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]:
        with self._explained():
            return self._connection.execute(self._text(statement), (dump_rows(rows).decode(),)).fetchall()

    def update(self, statement: Statement, rows: Sequence[Row]) -> None:
        self._send(self._text(statement), (dump_rows(rows).decode(),), rows, statement.sql)

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None:
        values = (*shared, (dump_rows(rows) if dumped is None else dumped).decode())
        self._send(self._insert(insert), values, rows, insert.table, once=insert.once)

    def confirm(self) -> None:
        with self._explained():
            self._pipeline.close()
            for sent in self._sent:
                demand(sent.cursor.rowcount, sent.rows, sent.what)
        self._sent.clear()

    def commit(self) -> None:
        assert not self._sent, "changes that nobody confirmed"
        self._pipeline.close()
        self._connection.commit()

    def rollback(self) -> None:
        self._sent.clear()
        with suppress(psycopg.Error):  # what went wrong is why this is called
            self._pipeline.close()
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()

    def _send(self, text: bytes, values: Row, rows: Sequence[Row], what: str, *, once: bool = False) -> None:
        cursor = self._connection.cursor()
        self._sent.append(_Sent(cursor, rows, what, once))
        with self._explained():
            cursor.execute(text, values)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """An error may be of any statement that was sent: Interference where one demanded a new key, or one before it did too little."""
        try:
            yield
        except psycopg.Error as error:
            for sent in self._sent:
                if sent.cursor.pgresult is None:
                    if sent.once and isinstance(error, psycopg.errors.UniqueViolation):
                        raise Interference(sent.what) from error
                    break
                demand(sent.cursor.rowcount, sent.rows, sent.what)
            raise

    def _text(self, statement: Statement) -> bytes:
        text = self._texts.get(id(statement))
        if text is None:
            source = f"(SELECT {_columns(statement.rows.columns)} FROM jsonb_array_elements(%s::jsonb) AS t(r))"  # noqa: S608
            text = self._texts[id(statement)] = statement.sql.format(rows=source, **self._WORDS).encode()
        return text

    def _insert(self, insert: Insert) -> bytes:
        text = self._texts.get(id(insert))
        if text is None:
            said = {name: f"d.{name}" for name in insert.columns}
            each = ", ".join(
                (*(f"%s::{kind}" for kind in insert.shared.values()), *said.values(), *insert.fixed.values())
            )
            ordered = "jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS t(r, n) ORDER BY n"
            rows = f"(SELECT {_columns(insert.columns)} FROM {ordered}) d"  # noqa: S608
            text = f"INSERT INTO {insert.table} ({insert.names}) SELECT {each} FROM {rows}".encode()  # noqa: S608
            self._texts[id(insert)] = text
        return text


def _columns(columns: Mapping[str, str]) -> str:
    return ", ".join(f"(r ->> {at})::{kind} AS {name}" for at, (name, kind) in enumerate(columns.items()))
