"""The writer's own connection, on either engine: a batch is a handful of set-based statements, never one a row.

Invariants: the same statements mean the same on both engines; `statements` writes them once, with the differences filled in here. A
change is of exactly as many rows as it was given, or the batch does not reach its COMMIT. SQLite binds the rows as VALUES; PostgreSQL
unpacks one JSON text, so that a batch is one plan, and gets the changes one after the other without a wait for each answer.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from quota.store.database import Database, dedicated
from quota.store.json_text import dump_rows
from quota.store.pipeline import Pipeline

Row = Sequence[Any]
_LINK: Final = (
    "(SELECT currval(pg_get_serial_sequence('ledger_link', 'id')))"  # of this connection, whoever else takes one
)


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


class InFlight(Exception):
    """A batch that needs a read is asked for while another is unanswered: plan it once that is committed."""


class Wire(Protocol):
    """`begin`, reads and changes, `send`, `confirm`, `commit`; where a wire `overlaps`, the next batch up to its `send` before `confirm`.

    That one goes out with the COMMIT of the one before it. Nothing of the two is in the database before its own COMMIT.
    """

    @property
    def overlaps(self) -> bool: ...

    def begin(self) -> None: ...
    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]:
        """Read. Raises InFlight where a batch is sent and not confirmed."""

    def update(self, statement: Statement, rows: Sequence[Row]) -> None:
        """Run a statement over all rows at once. Raises Interference, here or by `confirm`, where it does not change just as many."""

    def add_link(self, statement: Statement, row: Row) -> int | None:
        """Insert a link of the chain: its number, or None, which stands for it among `shared` up to the end of this batch."""

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None:
        """Insert all rows, in their order, each with the `shared` values. Raises Interference as `update` does.

        `dumped` is what `dump_rows` makes of the rows, where the caller has it already.
        """

    def send(self) -> None:
        """Everything since `begin` is on its way, or goes with the COMMIT before it."""

    def forget(self) -> None:
        """Drop what was asked for since `begin` and is not sent."""

    def ready(self, bell: int) -> None:
        """Wait until there is something to confirm, or until the file descriptor `bell` can be read."""

    def confirm(self) -> None:
        """Every change since `begin` was made as demanded. Raises Interference; then only `rollback` may follow."""

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


def demand(changed: int, rows: int, what: str) -> None:
    """Raise Interference where a statement changed more or fewer rows than it was given."""
    if changed != rows:
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

    overlaps: Final = False
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
        demand(sum(self._run(statement, some).rowcount for some in self._pieces(rows)), len(rows), statement.sql)

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None:
        count, start = 0, 0
        while (left := len(rows) - start) > 0:
            size = min(self._LARGEST, left - left % self._STEP or left)
            values = (*shared, *itertools.chain.from_iterable(rows[start : start + size]))
            count += self._connection.execute(self._insert(insert, size), values).rowcount
            start += size
        demand(count, len(rows), insert.table)

    def add_link(self, statement: Statement, row: Row) -> int | None:
        return int(self.select(statement, [row])[0][0])

    def send(self) -> None:
        """Each change was made and looked at when it was asked for."""

    def forget(self) -> None:
        """Nothing waits here."""

    def ready(self, bell: int) -> None:
        """Nothing is under way."""

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
class _Run:
    """A statement for PostgreSQL and how many rows it must change; None where that is not asked."""

    text: bytes
    values: tuple[bytes | None, ...] = ()
    rows: int | None = None
    what: str = ""
    once: bool = False


_BEGIN: Final = _Run(b"BEGIN ISOLATION LEVEL READ COMMITTED")  # whatever a site has made its default
_COMMIT: Final = _Run(b"COMMIT")
_ROLLBACK: Final = _Run(b"ROLLBACK")


class PostgresWire:
    """A batch is sent in one go and its answers are read in one go, by `confirm`; a read waits for its rows, and for all before it.

    While a batch is unanswered the next one may be planned, where that takes no read: its statements wait here and go out right behind
    the COMMIT before them. COMMIT itself is sent only once every change of its batch was confirmed. After an error PostgreSQL skips
    what was sent with the statement that failed.

    An insert that must be the first with its keys goes in plainly: ON CONFLICT DO NOTHING is a quarter of its cost. A key that exists
    ends the transaction then, which is what the count of rows would have made of it.
    """

    overlaps: Final = True
    _WORDS: Final = {"greatest": "greatest", "least": "least", "lock": "FOR NO KEY UPDATE", "share": "FOR SHARE"}

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        connection.autocommit = True  # BEGIN is sent here, with what follows it
        # Everything here is looked up by key. A plan made while a table was small must not scan it once it has grown.
        for method in ("seqscan", "hashjoin", "mergejoin", "bitmapscan"):
            connection.execute(f"SET enable_{method} = off".encode())
        self._texts: dict[int, bytes] = {}
        self._pipeline = Pipeline(connection)
        self._planned: list[_Run] = []  # since `begin`, and not sent
        self._unconfirmed: list[_Run] = []  # with the server
        self._behind: list[_Run] = []  # the next batch, which goes with the COMMIT of this one
        self._open = False  # whether the server has been sent a BEGIN that is not ended

    def begin(self) -> None:
        self._planned = [_BEGIN]

    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]:
        if self._unconfirmed:
            raise InFlight
        self._planned.append(_Run(self._text(statement), (dump_rows(rows),)))
        self.send()
        result = self._confirmed()[-1]
        rows_read = Transformer(self._connection)
        rows_read.set_pgresult(result)
        return rows_read.load_rows(0, result.ntuples, tuple)

    def update(self, statement: Statement, rows: Sequence[Row]) -> None:
        self._planned.append(_Run(self._text(statement), (dump_rows(rows),), len(rows), statement.sql))

    def add_link(self, statement: Statement, row: Row) -> int | None:
        self.update(statement, [row])
        return None  # `_insert` takes the number that this statement took

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None:
        given = tuple(None if value is None else str(value).encode() for value in shared)
        values = (*given, dump_rows(rows) if dumped is None else dumped)
        self._planned.append(_Run(self._insert(insert), values, len(rows), insert.table, insert.once))

    def send(self) -> None:
        if self._unconfirmed:
            self._behind, self._planned = self._planned, []
        elif self._planned:
            self._unconfirmed, self._planned, self._open = self._planned, [], True
            self._transmit(self._unconfirmed)

    def forget(self) -> None:
        self._planned = []

    def ready(self, bell: int) -> None:
        self._pipeline.wait(bell)

    def confirm(self) -> None:
        if not self._unconfirmed:
            self.send()
        self._confirmed()

    def commit(self) -> None:
        assert self._open, "nothing was sent"
        for left in (self._unconfirmed, self._planned):
            assert not left, "changes that nobody confirmed"
        self._transmit([_COMMIT])
        if self._behind:
            self._transmit(self._behind)
        (said,) = self._pipeline.receive()
        if said.command_status != b"COMMIT":
            raise psycopg.OperationalError(f"COMMIT was answered with {said.command_status!r}: {said.error_message!r}")
        self._open = bool(self._behind)
        self._unconfirmed, self._behind = self._behind, []

    def rollback(self) -> None:
        self._planned, self._unconfirmed, self._behind, self._open = [], [], [], False
        while self._pipeline.pending:
            self._pipeline.receive()
        self._transmit([_ROLLBACK])
        self._pipeline.receive()

    def close(self) -> None:
        self._connection.close()

    def _transmit(self, runs: Sequence[_Run]) -> None:
        self._pipeline.send([(run.text, run.values) for run in runs])

    def _confirmed(self) -> list[PGresult]:
        """The results of what was sent. An error says more about an earlier statement that did too little, or about a key that exists."""
        if not self._unconfirmed:
            return []
        results = self._pipeline.receive()
        for run, result in zip(
            self._unconfirmed, results, strict=False
        ):  # what failed to be prepared has one result more
            if result.status == ExecStatus.FATAL_ERROR:
                error = error_from_result(result)
                if run.once and isinstance(error, psycopg.errors.UniqueViolation):
                    raise Interference(run.what) from error
                raise error
            if run.rows is not None:
                demand(result.command_tuples or 0, run.rows, run.what)
        self._unconfirmed = []
        return results

    def _text(self, statement: Statement) -> bytes:
        text = self._texts.get(id(statement))
        if text is None:
            source = f"(SELECT {_columns(statement.rows.columns)} FROM jsonb_array_elements($1::jsonb) AS t(r))"  # noqa: S608
            text = self._texts[id(statement)] = statement.sql.format(rows=source, **self._WORDS).encode()
        return text

    def _insert(self, insert: Insert) -> bytes:
        text = self._texts.get(id(insert))
        if text is None:
            said = {name: f"d.{name}" for name in insert.columns}
            shared = [
                f"coalesce(${at}::{kind}, {_LINK})" if name == "link" else f"${at}::{kind}"
                for at, (name, kind) in enumerate(insert.shared.items(), start=1)
            ]
            each = ", ".join((*shared, *said.values(), *insert.fixed.values()))
            ordered = f"jsonb_array_elements(${len(shared) + 1}::jsonb) WITH ORDINALITY AS t(r, n) ORDER BY n"
            rows = f"(SELECT {_columns(insert.columns)} FROM {ordered}) d"  # noqa: S608
            text = f"INSERT INTO {insert.table} ({insert.names}) SELECT {each} FROM {rows}".encode()  # noqa: S608
            self._texts[id(insert)] = text
        return text


def _columns(columns: Mapping[str, str]) -> str:
    return ", ".join(f"(r ->> {at})::{kind} AS {name}" for at, (name, kind) in enumerate(columns.items()))
