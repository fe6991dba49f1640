"""Checkpoints: `verify` starts from the newest, finds what was changed since, and `--all` finds what was changed before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from quota.domain.ids import HoldId
from quota.store.checkpoints import hash_of, newest, turned_back
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.tables import APPEND_ONLY
from quota.store.verify import findings, verify
from quota.store.verify_since import findings_since, make_checkpoint, verify_all, verify_since
from tests import ledgers
from tests.ledgers import NOW, Books

KEY = b"k" * 64
LIMIT = "day"


def step(books: Books, name: str) -> None:
    """A bit of everything under ids of `name`; its hold stays open."""
    database, actor, open_hold, done = books.database, books.person.id, f"{name}-0001", f"{name}-0002"
    ledgers.run(
        database,
        lambda ledger: ledger.place_hold(books.order(40, hold_id=open_hold)),
        lambda ledger: ledger.charge(ledgers.usage(open_hold, f"{name}-1", 5)),
        lambda ledger: ledger.place_hold(books.order(30, hold_id=done)),
        lambda ledger: ledger.top_up(HoldId(done), "more", 4, NOW, NOW),
        lambda ledger: ledger.charge(ledgers.usage(done, f"{name}-2", 50)),
        lambda ledger: ledger.settle(HoldId(done), NOW),
        lambda ledger: ledger.place_hold(books.order(10**9, hold_id=f"{name}-0003")),
    )
    ledgers.refund(database, actor, f"{name}-refund", done, 6)
    ledgers.refund(database, actor, f"{name}-too-much", done, 600)
    for number, delta in enumerate((5, -3)):
        ledgers.adjust(database, actor, f"{name}-adjust-{number}", books.accounts[0], delta)


def books_with_a_past(database: Database) -> Books:
    """A past, a checkpoint, and what came since."""
    books = ledgers.open_books(database, 1000, 1000)
    step(books, "before")
    assert make_checkpoint(database, KEY, NOW).findings == []
    step(books, "after")
    ledgers.run(
        database,
        lambda ledger: ledger.charge(ledgers.usage("before-0001", "late-1", 7, minute=3)),
        lambda ledger: ledger.top_up(HoldId("before-0001"), "more", 9, NOW, NOW),
        lambda ledger: ledger.withdraw(HoldId("before-0001"), "more", NOW),
    )
    ledgers.refund(database, books.person.id, "late-refund", "before-0002", 3)
    ledgers.reverse(database, books.person.id, "late-reversal", "before-adjust-0")
    return books


@pytest.fixture
def books(database: Database) -> Books:
    return books_with_a_past(database)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Books that tests change and roll back."""
    if request.param == "sqlite":
        database = ledgers.sqlite_database(tmp_path_factory.mktemp("books"))
    else:
        database = request.getfixturevalue("new_postgres_database")()
    books_with_a_past(database)
    yield database
    database.close()


def change(connection: Connection, sql: str) -> None:
    """Change history as its owner could: without the triggers that keep honest programs honest."""
    for table in APPEND_ONLY:
        on_sqlite = connection.dialect.name == "sqlite"
        for name in [f"{table}_no_update", f"{table}_no_delete"] if on_sqlite else [f"{table}_no_change"]:
            connection.execute(text(f"DROP TRIGGER {name}" + ("" if on_sqlite else f" ON {table}")))
    assert connection.execute(text(sql)).rowcount >= 1


@contextmanager
def changed(database: Database, sql: str) -> Iterator[Connection]:
    """A transaction in which history was changed, rolled back at the end."""
    with database.writer.connect() as connection, connection.begin() as transaction:
        change(connection, sql)
        yield connection
        transaction.rollback()


def test_honest_books_verify_from_the_checkpoint_and_from_the_first_entry(books: Books) -> None:
    database = books.database
    assert verify_since(database, KEY).findings == []
    assert verify_since(database, KEY).checkpoint == 1
    assert verify_all(database, KEY).findings == []
    assert verify(database) == []
    second = make_checkpoint(database, KEY, NOW + timedelta(days=30))
    assert (second.checkpoint, second.findings) == (2, [])
    step(books, "later")
    assert verify_since(database, KEY) == type(second)(2, [])
    assert verify_all(database, KEY).findings == []


_SEQ = "(SELECT {which}(seq) FROM entry WHERE kind = '{kind}')"
_FIRST = _SEQ.format(which="min", kind="charge")
_LAST = _SEQ.format(which="max", kind="charge")
SINCE = [
    (f"UPDATE entry SET amount = amount + 1 WHERE seq = {_LAST}", "entry"),
    (f"UPDATE entry SET actor = 'somebody' WHERE seq = {_LAST}", "entry"),
    (f"DELETE FROM entry WHERE seq = {_LAST}", "entry"),
    (f"UPDATE entry SET contra = NULL WHERE seq = {_LAST}", "entry"),
    (f"UPDATE entry SET contra = 'available' WHERE seq = {_LAST}", "entry"),
    (f"UPDATE entry SET bucket = contra, contra = bucket, amount = -amount WHERE seq = {_LAST}", "entry"),
    ("UPDATE account SET charged = charged + 1 WHERE id = 'account-0'", "account"),
    ("UPDATE account SET awarded = awarded + 1 WHERE id = 'account-1'", "account"),
    ("UPDATE hold SET amount = amount + 1 WHERE id = 'after-0001'", "hold"),
    ("UPDATE hold SET charged = charged - 1 WHERE id = 'after-0002'", "hold"),
    ("UPDATE hold SET charged = charged - 1 WHERE id = 'before-0001'", "hold"),
    ("UPDATE hold SET state = 'released' WHERE id = 'before-0001'", "account"),
    ("UPDATE hold_line SET amount = amount + 1 WHERE hold_id = 'after-0002' AND line_id = ''", "hold"),
    ("DELETE FROM hold_line WHERE hold_id = 'after-0002' AND line_id = 'more'", "hold"),
    ("UPDATE usage_record SET quantity = quantity + 1 WHERE event_id = 'after-1'", "entry"),
    ("UPDATE usage_record SET amount = amount + 1 WHERE event_id = 'late-1'", "usage_record"),
    ("DELETE FROM usage_record WHERE event_id = 'after-2'", "entry"),
    ("DELETE FROM ledger_link WHERE id = (SELECT max(id) FROM ledger_link)", "ledger_epoch"),
    ("DELETE FROM adjustment WHERE id = 'after-adjust-0'", "adjustment"),
    ("UPDATE adjustment SET delta = delta + 1 WHERE id = 'after-adjust-0'", "adjustment"),
    ("UPDATE refund SET amount = amount - 1 WHERE id = 'late-refund'", "refund"),
    ("DELETE FROM refund WHERE id = 'late-refund'", "refund"),
    ("INSERT INTO refund SELECT 'forged-refund', hold_id, account_id, amount, actor, at_us, reason, awarded_before, "
     "charged_before, held_before, refusal_code, refusal_params, body_hash FROM refund WHERE id = 'late-refund'", "refund"),
    ("DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)", "audit_head"),
    ("UPDATE audit SET reason = 'another' WHERE seq = (SELECT max(seq) FROM audit)", "audit"),
    ("UPDATE checkpoint SET last_seq = last_seq + 1", "checkpoint"),
    ("UPDATE checkpoint SET signature = hash", "checkpoint"),
]  # fmt: skip
BEFORE = [
    (f"UPDATE entry SET actor = 'somebody' WHERE seq = {_FIRST}", "entry"),
    (f"UPDATE entry SET amount = amount + 1 WHERE seq = {_FIRST}", "entry"),
    (f"DELETE FROM entry WHERE seq = {_FIRST}", "entry"),
    (f"UPDATE entry SET contra = 'available' WHERE seq = {_FIRST}", "entry"),
    ("DELETE FROM ledger_link WHERE id = (SELECT min(id) FROM ledger_link)", "entry"),
    ("UPDATE usage_record SET quantity = quantity + 1 WHERE event_id = 'before-2'", "entry"),
    ("UPDATE audit SET reason = 'another' WHERE seq = 1", "audit"),
]


@pytest.mark.parametrize(("sql", "table"), SINCE)
def test_what_was_changed_since_the_checkpoint_is_found_from_it(kept: Database, sql: str, table: str) -> None:
    with changed(kept, sql) as connection:
        base, wrong = newest(connection, KEY)
        found = [*wrong, *findings_since(connection, base)]
        assert table in {one.table for one in found}, found


@pytest.mark.parametrize(("sql", "table"), BEFORE)
def test_what_was_changed_before_the_checkpoint_is_found_by_reading_all(kept: Database, sql: str, table: str) -> None:
    with changed(kept, sql) as connection:
        found = list(findings(connection))
        assert table in {one.table for one in found}, found


def test_of_books_that_do_not_verify_no_checkpoint_is_made(books: Books) -> None:
    with books.database.writing() as connection:
        change(connection, "UPDATE account SET charged = charged + 1 WHERE id = 'account-0'")
    assert make_checkpoint(books.database, KEY, NOW).findings != []
    with books.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM checkpoint")).scalar_one() == 1


def test_a_checkpoint_of_somebody_without_the_key_is_not_believed(books: Books) -> None:
    """Rows changed and the checkpoint made to fit: the signature gives it away, and the proof starts further back."""
    database = books.database
    assert make_checkpoint(database, b"another key" * 8, NOW).findings != []
    proof = verify_since(database, b"another key" * 8)
    assert (proof.checkpoint, proof.findings[0].table) == (0, "checkpoint")


def test_a_checkpoint_that_lies_about_the_past_is_found_by_reading_all(database: Database) -> None:
    """Signed with the key, over an entry that was changed before: only the entries can say."""
    books = ledgers.open_books(database, 100)
    step(books, "before")
    make_checkpoint(database, KEY, NOW)
    with database.writing() as connection:
        change(connection, f"UPDATE entry SET amount = amount + 1 WHERE seq = {_FIRST}")
    assert verify_since(database, KEY).findings == []
    assert any(one.table == "checkpoint" for one in verify_all(database, KEY).findings)


def test_a_tail_cut_off_with_every_trace_of_it_is_found_by_the_anchor(kept: Database) -> None:
    """Whoever removes the newest checkpoint leaves books that verify from the one before; what was anchored elsewhere tells."""
    with kept.reading() as connection:
        anchored = {1: str(hash_of(connection, 1))}
    assert turned_back(kept, anchored) == []
    with changed(kept, "DELETE FROM checkpoint WHERE id = 1") as connection:
        assert newest(connection, KEY)[1] == []
        assert list(findings_since(connection, newest(connection, KEY)[0])) == []
        assert hash_of(connection, 1) is None
    assert [(one.table, one.row) for one in turned_back(kept, {**anchored, 2: "gone"})] == [("checkpoint", "2")]
    assert [one.row for one in turned_back(kept, {1: "another"})] == ["1"]


def test_checkpoints_made_while_writers_write_are_true(books: Books) -> None:
    """No entry that is under way may fall behind the cut."""
    database = books.database
    made: list[object] = []

    async def write() -> None:
        async with LedgerStore(database) as one, LedgerStore(database) as another:
            for number in range(30):
                holds = [books.order(1, hold_id=f"race-{number:04}-{n}", account=n % 2) for n in range(6)]
                await asyncio.gather(*((one, another)[n % 2].place_hold(order) for n, order in enumerate(holds)))

    writing = threading.Thread(target=lambda: asyncio.run(write()))
    writing.start()
    while writing.is_alive() or not made:
        proof = make_checkpoint(database, KEY, NOW)
        assert proof.findings == []
        made.append(proof)
    writing.join()
    assert verify_since(database, KEY).findings == []
    assert verify_all(database, KEY).findings == []
