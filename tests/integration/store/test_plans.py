"""How PostgreSQL looks up what a batch changes: by key, however many holds are open."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text

from quota.domain.ids import new_id
from quota.store import statements as sql
from quota.store.database import Database, dedicated
from quota.store.wire import PostgresWire, Rows, Statement
from tests import ledgers

BATCH = 250
OPEN = 3_000


@pytest.mark.parametrize("statement", [sql.CHANGE_HOLDS, sql.SETTLE_HOLDS], ids=["change", "settle"])
def test_a_change_of_holds_reads_the_holds_that_change_and_no_other(
    new_postgres_database: Callable[[], Database], statement: Statement
) -> None:
    database = new_postgres_database()
    books = ledgers.open_books(database, 10**9)
    _insert(database, books, [new_id() for _ in range(OPEN)], "settled")
    with database.writing() as connection:
        connection.execute(text("ANALYZE hold"))  # no hold is open, as far as PostgreSQL's statistics go
    ids = [new_id() for _ in range(OPEN)]
    _insert(database, books, ids, "held")
    wire = PostgresWire(dedicated(database))
    wire.begin()
    before = _rows_read(wire)
    wire.update(statement, [_settled(hold_id, statement) for hold_id in ids[:BATCH]])
    wire.confirm()
    read = _rows_read(wire) - before
    wire.rollback()
    wire.close()
    database.close()
    assert read <= 2 * BATCH, f"{read} rows of {OPEN} open holds were read for {BATCH} changes"


def _insert(database: Database, books: ledgers.Books, ids: list[str], state: str) -> None:
    rows = [{"id": hold_id, "account": str(books.accounts[0]), "state": state} for hold_id in ids]
    with database.writing() as connection:
        connection.execute(text(_HOLD), rows)


_HOLD = (
    "INSERT INTO hold (id, kind, state, subject, actor, project_id, account_id, unit, amount, charged, next_seq, line_count, "
    "limit_count, placed_us, lease_until_us, body_hash, details, epoch) VALUES "
    "(:id, 'request', :state, 's', 'a', 'p', :account, 'tokens', 10, 0, 0, 1, 0, 1, 2, '', '{}', 1)"
)


def _settled(hold_id: str, statement: Statement) -> tuple[object, ...]:
    """The hold settled with all of its ten, in the statement's columns."""
    values = {
        "id": hold_id, "state": "settled", "amount": 10, "charged": 10, "next_seq": 1, "line_count": 1, "lease_until_us": 2,
        "charged_to_us": 1, "closed_us": 1, "close_reason": None, "seen_next_seq": 0, "seen_line_count": 1, "seen_amount": 10,
        "limit_count": 0,
    }  # fmt: skip
    return tuple(values[name] for name in statement.rows.columns)


_READ = Statement(
    "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM {rows} k, pg_stat_xact_user_tables WHERE relname = k.id",
    Rows({"id": "text"}),
)


def _rows_read(wire: PostgresWire) -> int:
    """Rows of `hold` that this transaction fetched through an index or by reading the table."""
    return int(wire.select(_READ, [["hold"]])[0][0])
