"""`verify` names the row of any corruption that somebody with the database's password could leave."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from quota.domain.ids import HoldId
from quota.store.database import Database
from quota.store.tables import APPEND_ONLY
from quota.store.verify import verify
from tests import ledgers

_LAST_ENTRY = "(SELECT max(seq) FROM entry)"
CORRUPTIONS = [
    ("UPDATE account SET held = held - 1 WHERE id = 'account-0'", "account", "account-0"),
    ("UPDATE account SET awarded = awarded + 1 WHERE id = 'account-0'", "account", "account-0"),
    ("UPDATE hold SET amount = amount + 1 WHERE id = 'hold-0001'", "hold", "hold-0001"),
    ("UPDATE hold SET state = 'released' WHERE id = 'hold-0002'", "hold", "hold-0002"),
    ("UPDATE hold SET next_seq = 0 WHERE id = 'hold-0001'", "hold", "hold-0001"),
    ("DELETE FROM hold WHERE id = 'hold-0002'", "hold_line", "hold-0002"),
    ("UPDATE hold_line SET amount = amount + 1 WHERE hold_id = 'hold-0002' AND line_id = ''", "hold_line", "hold-0002"),
    ("DELETE FROM hold_line WHERE hold_id = 'hold-0002' AND line_id = ''", "hold", "hold-0002"),
    ("INSERT INTO hold_line VALUES ('hold-0001', '', 'hold', 20, 12, 0, NULL)", "hold", "hold-0001"),
    ("DELETE FROM usage_record WHERE event_id = 'event-1'", "entry", "session:event-1"),
    ("UPDATE usage_record SET amount = amount + 1 WHERE event_id = 'event-1'", "usage_record", "session:event-1"),
    ("UPDATE usage_record SET quantity = quantity + 1 WHERE event_id = 'event-1'", "entry", ""),
    ("UPDATE usage_record SET from_us = from_us + 60000000, to_us = to_us + 60000000 WHERE event_id = 'event-1'",
     "usage_record", "session:event-"),
    (f"UPDATE entry SET amount = amount + 1 WHERE seq = {_LAST_ENTRY}", "entry", "14 to 14"),
    (f"UPDATE entry SET amount = amount + 1 WHERE seq = {_LAST_ENTRY}", "refund", "refund-1"),
    (f"UPDATE entry SET contra = 'held' WHERE seq = {_LAST_ENTRY}", "entry", "14 to 14"),
    (f"UPDATE entry SET bucket = contra, contra = bucket, amount = -amount WHERE seq = {_LAST_ENTRY}", "entry", "14 to 14"),
    (f"UPDATE entry SET contra = 'held' WHERE seq = {_LAST_ENTRY}", "account", "account-0"),
    (f"UPDATE entry SET contra = NULL WHERE seq = {_LAST_ENTRY}", "entry", "f:refund-1"),
    ("UPDATE entry SET amount = amount + 1 WHERE txn_id = 'a:adjust-1' AND bucket = 'available'", "entry", "a:adjust-1"),
    (f"UPDATE entry SET actor = 'somebody' WHERE seq = {_LAST_ENTRY}", "entry", "14 to 14"),
    (f"UPDATE entry SET at_us = at_us + 1 WHERE seq = {_LAST_ENTRY}", "entry", "14 to 14"),
    (f"DELETE FROM entry WHERE seq = {_LAST_ENTRY}", "entry", "none"),
    (f"DELETE FROM entry WHERE seq = {_LAST_ENTRY}", "refund", "refund-1"),
    ("UPDATE entry SET account_id = 'nobody' WHERE seq = (SELECT min(seq) FROM entry)", "entry", ""),
    ("DELETE FROM ledger_link WHERE id = (SELECT max(id) FROM ledger_link)", "ledger_epoch", ""),
    ("DELETE FROM ledger_link WHERE id = (SELECT min(id) FROM ledger_link)", "entry", ""),
    ("UPDATE adjustment SET delta = delta + 1 WHERE id = 'adjust-1'", "adjustment", "adjust-1"),
    ("UPDATE adjustment SET delta = delta - 1 WHERE reverses IS NOT NULL", "adjustment", "reverse-1"),
    ("DELETE FROM adjustment WHERE id = 'adjust-2'", "entry", ""),
    ("UPDATE refund SET amount = amount + 1 WHERE id = 'refund-1'", "refund", "refund-1"),
    ("UPDATE refund SET hold_id = 'hold-0002' WHERE id = 'refund-1'", "refund", "refund-1"),
    ("DELETE FROM refund WHERE id = 'refund-1'", "entry", ""),
    ("UPDATE audit SET reason = 'another' WHERE seq = 1", "audit", "1"),
    ("DELETE FROM audit WHERE seq = 1", "audit", "2"),
    ("DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)", "audit_head", "1"),
]  # fmt: skip


@pytest.fixture
def corruptible(database: Database) -> Database:
    """Books with a bit of everything, and without the triggers that keep honest programs honest."""
    books = ledgers.open_books(database, 100)
    for number, delta in enumerate((5, -3), start=1):
        ledgers.adjust(database, books.person.id, f"adjust-{number}", books.accounts[0], delta)
    ledgers.run(
        database,
        lambda ledger: ledger.place_hold(books.order(20, hold_id="hold-0001")),
        lambda ledger: ledger.place_hold(books.order(10, hold_id="hold-0002")),
        lambda ledger: ledger.top_up(HoldId("hold-0002"), "more", 4, ledgers.NOW, ledgers.NOW),
        lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-1", 5)),
        lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-2", 7, minute=1)),
    )
    ledgers.reverse(database, books.person.id, "reverse-1", "adjust-1")
    ledgers.refund(database, books.person.id, "refund-1", "hold-0001", 6)
    with database.writing() as connection:
        for table in APPEND_ONLY:
            if database.is_sqlite:
                connection.execute(text(f"DROP TRIGGER {table}_no_update"))
                connection.execute(text(f"DROP TRIGGER {table}_no_delete"))
            else:
                connection.execute(text(f"DROP TRIGGER {table}_no_change ON {table}"))
    return database


def test_books_that_nobody_touched_verify(corruptible: Database) -> None:
    assert verify(corruptible) == []


@pytest.mark.parametrize(("change", "table", "row"), CORRUPTIONS)
def test_each_corruption_is_found_and_its_row_named(corruptible: Database, change: str, table: str, row: str) -> None:
    with corruptible.writing() as connection:
        assert connection.execute(text(change)).rowcount == 1
    found = verify(corruptible)
    assert any(one.table == table and row in one.row for one in found), found
