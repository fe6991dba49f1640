"""The ledger's history as a stream of postings, and its hash: what two databases must agree on to hold the same books.

Invariant: both read one snapshot and hold a page of it in memory. The hash covers what was recorded and leaves out what a database
numbered by itself (seq, link, epoch), so that it is the same for the same history on either engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, Connection, Select, Table, collate, select, text

from quota.store.database import Database
from quota.store.ledger_tables import as_hashed, sides
from quota.store.tables import entry, hold, usage_record

_PAGE: Final = 1_000
_NUMBERED: Final = frozenset(
    {"seq", "link", "epoch"}
)  # of entries and holds; a usage record's seq is its place in the hold


@dataclass(frozen=True, slots=True)
class LedgerHash:
    """SHA-256 in hex, and over how many rows."""

    hex: str
    entries: int
    holds: int
    usages: int


def postings(database: Database) -> Iterator[Mapping[str, Any]]:
    """Every entry in the order of `seq`, each bucket that it moves by itself, page by page out of one snapshot. Raises Unavailable."""
    with database.reading() as connection:
        unhurried(connection)
        last = 0
        while page := connection.execute(_after(last)).all():
            for row in page:
                yield from (row._asdict() | {"bucket": bucket, "amount": amount} for bucket, amount in sides(row))
            last = page[-1].seq


def ledger_hash(connection: Connection) -> LedgerHash:
    """Over entries in the order of `seq`, holds by id and usage records by source and event id, compared by code point."""
    digest = hashlib.sha256()
    counts = [
        _add(digest, connection, entry, [entry.c.seq], _NUMBERED),
        _add(digest, connection, hold, [hold.c.id], _NUMBERED),
        _add(digest, connection, usage_record, [usage_record.c.source, usage_record.c.event_id], frozenset({"link"})),
    ]
    return LedgerHash(digest.hexdigest(), *counts)


def unhurried(connection: Connection) -> None:
    """Lift PostgreSQL's time limits for this transaction: a whole history takes as long as its reader. SQLite sorts it on the disk."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA temp_store=FILE")
    else:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def _after(seq: int) -> Select[Any]:
    return select(entry).where(entry.c.seq > seq).order_by(entry.c.seq).limit(_PAGE)


def _add(digest: Any, connection: Connection, table: Table, keys: list[Column[Any]], left_out: frozenset[str]) -> int:
    columns = [column for column in table.columns if column.name not in left_out]
    named = [column.name for column in columns if column is not entry.c.contra]
    # A database's own collation may order texts by language; both engines know code points.
    binary = "BINARY" if connection.dialect.name == "sqlite" else "C"
    order = [key if key is entry.c.seq else collate(key, binary) for key in keys]
    query = select(*columns).order_by(*order).execution_options(yield_per=_PAGE)
    digest.update(json.dumps([table.name, named]).encode())
    count = 0
    for row in connection.execute(query):
        said = as_hashed([*row]) if table is entry else [*row]
        digest.update(b"\n" + json.dumps(said, separators=(",", ":")).encode())
        count += 1
    digest.update(f"\n{count}\n".encode())
    return count
