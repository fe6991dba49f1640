"""A long history, made at once: what a balance and a proof from a checkpoint cost upon it.

The past is written set by set with one link whose hash is none: it stands before a checkpoint, which is signed without a proof. What
comes after it is made by the ledger itself and proved by `verify`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from quota.domain.ids import AllocationId
from quota.store.checkpoints import at_rest, write
from quota.store.database import Database
from quota.store.history import unhurried
from quota.store.unit_of_work import SqlTransaction
from quota.store.verify_since import verify_since
from tests import ledgers
from tests.bench.ledger_rounds import AMOUNT, Load, ledger_round

ACCOUNTS: Final = 1000
_KEY: Final = b"key of the bench" * 4
_AT_ONCE: Final = 250_000  # holds a transaction; four entries each
_READS: Final = 2_000
_ID: Final = "'past-' || CAST(100000000 + i AS TEXT)"
_ACCOUNT: Final = "'account-' || CAST(i % 1000 AS TEXT)"
_HOLDS: Final = (
    "INSERT INTO hold (id, kind, state, subject, actor, project_id, account_id, unit, amount, charged, next_seq, line_count, "
    "limit_count, placed_us, lease_until_us, charged_to_us, closed_us, body_hash, details, epoch) "
    "SELECT {id}, 'request', 'settled', {id}, :actor, 'project-1', {account}, 'gpu_ms', 1000, 1000, 1, 1, 0, 0, 0, 0, 0, '', '{{}}', 1 "
    "FROM {numbers}"
)
_USAGES: Final = (
    "INSERT INTO usage_record (source, event_id, hold_id, seq, from_us, to_us, quantity, amount, overrun, estimated, payload, "
    "payload_hash, link) SELECT 'past', {id}, {id}, 0, 0, 0, 1000, 1000, 0, {false}, '{{}}', '', :link FROM {numbers}"
)
_ENTRIES: Final = (
    "INSERT INTO entry (link, txn_id, account_id, bucket, amount, hold_id, usage_ref, kind, at_us, actor, contra) "
    "SELECT :link, CASE WHEN m.charge THEN 'u\\:past:' ELSE 'h:' END || {id}, {account}, m.bucket, -1000, {id}, "
    "CASE WHEN m.charge THEN 'past:' || {id} END, CASE WHEN m.charge THEN 'charge' ELSE 'hold' END, 0, :actor, m.contra FROM {numbers}, "
    "(SELECT {false} AS charge, 'available' AS bucket, 'held' AS contra UNION ALL SELECT {true}, 'held', 'charged') m"
)
_SERIES: Final = {
    True: "(WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last) SELECT i FROM n) n",
    False: "generate_series(CAST(:first AS BIGINT), :last) AS n(i)",
}


@dataclass(frozen=True)
class Cost:
    """Of reading one balance, and of a proof from the checkpoint."""

    balance_us: float
    verify_s: float
    findings: int


def _patient(connection: Connection) -> None:
    """Lift PostgreSQL's time limits; SQLite has none, and keeps its temporary storage within a transaction that writes."""
    if connection.dialect.name != "sqlite":
        unhurried(connection)


def grow(database: Database, books: ledgers.Books, entries: int, first: int = 0) -> int:
    """Add a past of `entries` entries, two a hold; the number of holds that it has."""
    last = first + entries // 2
    with database.writing() as connection:
        _patient(connection)
        epoch = "INSERT INTO ledger_epoch (writer, started_us, links, head_hash) VALUES ('past', 0, 1, '') RETURNING id"
        link = "INSERT INTO ledger_link (epoch, n, prev_hash, hash, entries, usages) VALUES (:epoch, 1, '', '', 0, 0) RETURNING id"
        epoch_id = connection.execute(text(epoch)).scalar_one()
        link_id = connection.execute(text(link), {"epoch": epoch_id}).scalar_one()
    words = {"id": _ID, "account": _ACCOUNT, "numbers": _SERIES[database.is_sqlite]}
    words |= {"true": "1", "false": "0"} if database.is_sqlite else {"true": "TRUE", "false": "FALSE"}
    for begin in range(first, last, _AT_ONCE):
        values = {"first": begin, "last": min(begin + _AT_ONCE, last) - 1, "link": link_id, "actor": books.person.id}
        with database.writing() as connection:
            _patient(connection)
            for statement in (_HOLDS, _USAGES, _ENTRIES):
                connection.execute(text(statement.format(**words)), values)
    with database.writing() as connection:
        _patient(connection)
        connection.execute(
            text(
                "UPDATE account SET charged = s.charged FROM (SELECT account_id, SUM(charged) AS charged FROM hold "
                "GROUP BY account_id) s WHERE account.id = s.account_id"
            )
        )
        connection.execute(text("ANALYZE"))
    return last


def cost(database: Database, books: ledgers.Books, since_s: float) -> Cost:
    """Sign a checkpoint, let the ledger work for `since_s`, then measure."""
    with at_rest(database) as connection:
        write(database, connection, _KEY, ledgers.NOW)
    asyncio.run(ledger_round(database, books, Load(64, accounts=ACCOUNTS), since_s))
    times_s = []
    with database.reading() as connection:
        accounts = SqlTransaction(connection).accounts
        for number in range(_READS):
            began_s = time.perf_counter()
            found = accounts.get(AllocationId(f"account-{number % ACCOUNTS}"))
            times_s.append(time.perf_counter() - began_s)
            assert found is not None
            assert found.balance.charged % AMOUNT == 0
    began_s = time.perf_counter()
    proof = verify_since(database, _KEY)
    return Cost(statistics.median(times_s) * 1e6, time.perf_counter() - began_s, len(proof.findings))
