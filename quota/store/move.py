"""Moves a whole ledger from SQLite into an empty PostgreSQL database, or leaves that database as it was.

Invariants: nobody else has the source open from the first row to the last; the target is written in one transaction that commits
only where every table has as many rows, the ledger's hash is the same and `verify` finds nothing. The source keeps all it had.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from alembic.migration import MigrationContext
from psycopg import sql as pg
from sqlalchemy import Connection, NullPool, Table, create_engine, event, func, inspect, select, text
from sqlalchemy.exc import OperationalError

from quota.domain.errors import Unavailable
from quota.store.database import Database
from quota.store.history import LedgerHash, ledger_hash, unhurried
from quota.store.migrate import lock_schema, upgrade
from quota.store.tables import metadata
from quota.store.verify import findings

_AT_ONCE: Final = 2_000
_NAMED_FINDINGS: Final = 5
_BUSY_S: Final = 2
_IN_USE: Final = "the ledger is in use: stop the portal first"


class MoveRefused(Exception):
    """The move cannot be; the target is as it was. The message says why and what to do."""


def move(source: Database, target: Database) -> LedgerHash:
    """Copy every table; the hash that both databases then have. Raises MoveRefused, or Unavailable where one does not answer."""
    if not source.is_sqlite or target.is_sqlite:
        raise MoveRefused("a ledger moves from SQLite to PostgreSQL only")
    source.close()  # our own pooled connections would count as somebody else's
    with _alone(source) as reader, target.writing() as writer:
        _make_tables(reader, writer)
        for table in metadata.sorted_tables:
            _copy(table, reader, writer)
        _set_sequences(writer)
        writer.execute(text("ANALYZE"))
        return _proved(reader, writer)


@contextmanager
def _alone(source: Database) -> Iterator[Connection]:
    """A transaction on the source that nobody can read or write beside."""
    engine = create_engine(source.url, poolclass=NullPool, connect_args={"timeout": _BUSY_S})
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN EXCLUSIVE"))
    raw = sqlite3.connect(str(source.url.database), timeout=_BUSY_S)
    try:
        # SQLite leaves write-ahead logging only for somebody who is alone with the file, idle connections included. Whoever
        # opens the ledger next goes back to it.
        raw.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.OperationalError as error:
        raise MoveRefused(_IN_USE) from error
    finally:
        raw.close()
    with engine.connect() as connection:
        try:
            transaction = connection.begin()
        except OperationalError as error:
            raise MoveRefused(_IN_USE) from error
        with transaction:
            yield connection


def _make_tables(reader: Connection, writer: Connection) -> None:
    unhurried(writer)
    lock_schema(writer)
    found = inspect(writer).get_table_names()
    if found:
        raise MoveRefused(f"the target is not empty (it has the table {sorted(found)[0]}): make a new database")
    upgrade(writer)
    revisions = [MigrationContext.configure(one).get_current_revision() for one in (reader, writer)]
    if revisions[0] != revisions[1]:
        raise MoveRefused("the ledger has not this version's tables: run `commons migrate` first")
    for table in reversed(metadata.sorted_tables):  # what the migrations filled in comes with the source's rows
        if writer.execute(select(func.count()).select_from(table)).scalar_one():
            writer.execute(table.delete())


def _copy(table: Table, reader: Connection, writer: Connection) -> None:
    columns = list(table.columns)
    copy = pg.SQL("COPY {} ({}) FROM STDIN").format(
        pg.Identifier(table.name), pg.SQL(", ").join(pg.Identifier(column.name) for column in columns)
    )
    connection = writer.connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    rows = reader.execute(select(*columns).execution_options(yield_per=_AT_ONCE))
    try:
        with connection.cursor() as cursor, cursor.copy(copy) as into:
            for row in rows:
                into.write_row(tuple(row))
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise MoveRefused(f"{table.name}: PostgreSQL does not take a row: {error}") from error
    except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError) as error:
        raise Unavailable(f"the database does not answer: {type(error).__name__}") from error


def _set_sequences(writer: Connection) -> None:
    """Let each column that numbers itself go on after the highest number that came."""
    for table in metadata.sorted_tables:
        for column in table.primary_key.columns:
            names = {"table": table.name, "column": column.name}
            sequence = writer.execute(text("SELECT pg_get_serial_sequence(:table, :column)"), names).scalar_one()
            highest = writer.execute(select(func.max(column))).scalar_one() if sequence is not None else None
            if highest is not None:
                writer.execute(text("SELECT setval(:sequence, :highest)"), {"sequence": sequence, "highest": highest})


def _proved(reader: Connection, writer: Connection) -> LedgerHash:
    """The hash of both. Raises MoveRefused, which rolls the target back, where anything differs or does not add up."""
    for table in metadata.sorted_tables:
        here, there = (one.execute(select(func.count()).select_from(table)).scalar_one() for one in (reader, writer))
        if here != there:
            raise MoveRefused(f"{table.name}: {there} of {here} rows arrived")
    kept, moved = ledger_hash(reader), ledger_hash(writer)
    if kept != moved:
        raise MoveRefused(f"the ledger's hash is {kept.hex} here and {moved.hex} there")
    wrong = [str(one) for one in findings(writer)]
    if wrong:
        raise MoveRefused("\n".join(["the ledger does not verify:", *wrong[:_NAMED_FINDINGS]]))
    return kept
