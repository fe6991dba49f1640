"""The database's doors: one engine for reading, one for writing, on SQLite or PostgreSQL.

Invariants: what was committed survives power loss (SQLite: WAL with synchronous=FULL; PostgreSQL: synchronous_commit stays on);
a write transaction on SQLite takes the write lock before it reads (BEGIN IMMEDIATE); a reader sees one snapshot.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from quota.domain.errors import Unavailable

BUSY_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_S: Final = 10
# That PostgreSQL's host may leave what was sent unacknowledged: as long as it may be silent.
_UNHEARD_MS: Final = 25_000
_READERS_AT_ONCE: Final = 8
_CACHE_KIB: Final = 32_768
_CHECKPOINT_PAGES: Final = 8_000


@dataclass(frozen=True, slots=True)
class Database:
    """Both engines; `turn` lets the threads of this process take turns at SQLite's one write lock without polling for it."""

    url: URL
    reader: Engine
    writer: Engine
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read-only transaction on one snapshot. Raises Unavailable where the database does not answer."""
        with _outages_named(), self.reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction: commits at the end, rolls back where the body raises. Raises Unavailable."""
        with _outages_named(), self._turn_taken(), self.writer.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close every pooled connection."""
        self.reader.dispose()
        self.writer.dispose()

    @contextmanager
    def _turn_taken(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self.turn.acquire(timeout=BUSY_TIMEOUT_S):
            raise Unavailable("the database is busy")
        try:
            yield
        finally:
            self.turn.release()


def url_for(data_folder: Path) -> str:
    """The URL of the embedded database in a data folder."""
    path = data_folder.resolve() / "quota" / "quota.sqlite"
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def open_database(url: str) -> Database:
    """Open a database by its SQLAlchemy URL (`sqlite:///…` or `postgresql+psycopg://…`); nothing is connected yet.

    Raises ValueError for any other engine. Makes the folder of a SQLite file.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError("not a database URL") from error
    if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return _open_sqlite(parsed)
    if parsed.get_backend_name() == "postgresql":
        return _open_postgresql(parsed.set(drivername="postgresql+psycopg"))
    raise ValueError("the ledger runs on SQLite (in a file) or PostgreSQL")


def _open_sqlite(url: URL) -> Database:
    path = Path(str(url.database))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    options: dict[str, Any] = {
        "connect_args": {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False, "cached_statements": 512}
    }
    reader = create_engine(url, pool_size=_READERS_AT_ONCE, max_overflow=0, **options)
    writer = create_engine(url, pool_size=1, max_overflow=3, **options)
    event.listen(reader, "connect", _sqlite_connected(read_only=True))
    event.listen(writer, "connect", _sqlite_connected(read_only=False))
    event.listen(reader, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    event.listen(writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return Database(url, reader, writer)


def _sqlite_connected(*, read_only: bool) -> Callable[[DBAPIConnection, ConnectionPoolEntry], None]:
    def connected(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        assert isinstance(connection, sqlite3.Connection)
        # SQLAlchemy's "begin" event opens transactions; the module's own implicit ones would come too late.
        connection.isolation_level = None
        # SQLite's own lower() knows ASCII only.
        connection.create_function("lower", 1, _lower, deterministic=True)
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "temp_store=MEMORY",
            # A batch dirties a page for each random id: they must fit, or they are written twice.
            f"cache_size={-_CACHE_KIB}",
            f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
            f"query_only={'ON' if read_only else 'OFF'}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return connected


def _lower(value: str | int | None) -> str | int | None:
    return value.lower() if isinstance(value, str) else value


def _open_postgresql(url: URL) -> Database:
    timeout_ms = STATEMENT_TIMEOUT_S * 1000
    arguments = {
        "connect_timeout": 5,
        "application_name": "commons",
        "options": f"-c statement_timeout={timeout_ms} -c lock_timeout={timeout_ms} -c idle_in_transaction_session_timeout=60000",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": _UNHEARD_MS,
    }
    options: dict[str, Any] = {"connect_args": arguments, "pool_pre_ping": True, "pool_timeout": 10}
    reader = create_engine(
        url,
        isolation_level="REPEATABLE READ",
        pool_size=_READERS_AT_ONCE,
        execution_options={"postgresql_readonly": True},
        **options,
    )
    writer = create_engine(url, isolation_level="READ COMMITTED", pool_size=2, max_overflow=6, **options)
    return Database(url, reader, writer)


def dedicated(database: Database) -> Any:
    """A DBAPI connection of its own, outside the pool, for the ledger's writer thread. Raises Unavailable."""
    with _outages_named():
        pooled = database.writer.raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        return connection


@contextmanager
def _outages_named() -> Iterator[None]:
    """Turn the database's silence into Unavailable; errors of ours stay what they are."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("the database is busy") from error
    except (OperationalError, InterfaceError, InternalError) as error:
        raise Unavailable(f"the database does not answer: {type(error.orig).__name__}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("the connection to the database was lost") from error
        raise
