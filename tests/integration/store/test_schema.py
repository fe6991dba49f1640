"""The migrations and what the database itself enforces."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from quota.domain.course import Course
from quota.domain.exchange import Stored, UploadKind, UploadOrder
from quota.domain.hold import Charged, Hold
from quota.domain.ids import HoldId, PersonId, ProjectId
from quota.domain.project import Project, ProjectState
from quota.service.exchange_ports import UploadRow
from quota.store.accounts import write_entries
from quota.store.database import Database, open_database
from quota.store.instants import to_us
from quota.store.migrate import migrate
from quota.store.tables import APPEND_ONLY, metadata
from quota.store.unit_of_work import SqlTransaction
from quota.store.verify import verify
from quota.store.verify_since import make_checkpoint
from tests import ledgers
from tests.waiting import PATIENCE_S

_MIGRATE = (
    "import sys; from quota.store.database import open_database; from quota.store.migrate import migrate; "
    "sys.stdin.readline(); migrate(open_database(sys.argv[1]))"
)


def test_the_migrated_schema_is_the_metadata(database: Database) -> None:
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_every_check_of_the_metadata_is_in_the_database(database: Database) -> None:
    wanted = {
        (table.name, str(one.name)) for table in metadata.tables.values() for one in table.constraints
        if isinstance(one, CheckConstraint)
    }  # fmt: skip
    with database.reading() as connection:
        found = {
            (table, str(one["name"]))
            for table in metadata.tables
            for one in inspect(connection).get_check_constraints(table)
        }
    assert {name.removeprefix(f"ck_{table}_") for table, name in wanted} <= {
        name.removeprefix(f"ck_{table}_") for table, name in found
    }
    assert len(found) == len(wanted)


def test_processes_that_start_at_once_migrate_once(empty_url: str) -> None:
    starting = [
        subprocess.Popen([sys.executable, "-c", _MIGRATE, empty_url], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in starting:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in starting:
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors.decode()
    database = open_database(empty_url)
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM audit_head")).scalar_one() == 1
    migrate(database)
    database.close()


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("verb", ["UPDATE {table} SET {column} = {column}", "DELETE FROM {table}"])
def test_what_is_written_can_be_neither_changed_nor_deleted(database: Database, table: str, verb: str) -> None:
    _fill(database)
    column = next(iter(metadata.tables[table].columns)).name
    with pytest.raises(DBAPIError, match="append-only"), database.writing() as connection:
        connection.execute(text(verb.format(table=table, column=column)))


_ENTRY = (
    "INSERT INTO entry (link, txn_id, account_id, bucket, amount, kind, at_us, actor, contra) "
    "VALUES (1, 't', 'a', '{bucket}', 1, 'k', 1, 'p', '{contra}')"
)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE account SET held = awarded - charged + 1 WHERE id = 'account-0'",
        "UPDATE account SET charged = -1 WHERE id = 'account-0'",
        "UPDATE account SET overdraft_used = 1 WHERE id = 'account-0'",
        "UPDATE hold SET charged = amount + 1",
        "UPDATE hold_line SET charged = amount + 1",
        "UPDATE hold SET state = 'lost'",
        "INSERT INTO entry (link, txn_id, account_id, bucket, amount, kind, at_us, actor) VALUES (1, 't', 'a', 'lost', 1, 'k', 1, 'p')",
        _ENTRY.format(bucket="held", contra="held"),
        _ENTRY.format(bucket="held", contra="pool"),
        _ENTRY.format(bucket="pool", contra="held"),
        _ENTRY.format(bucket="held", contra="lost"),
        "INSERT INTO limit_counter (id, kind, subject, unit, cap, held) VALUES ('l', 'member', 'm', 'tokens', 1, 2)",
    ],
)
def test_the_database_itself_refuses_rows_that_break_a_promise(database: Database, change: str) -> None:
    _fill(database)
    with pytest.raises(DBAPIError), database.writing() as connection:
        connection.execute(text(change))


def test_a_ledger_of_an_older_version_goes_on_after_its_migration(empty_url: str) -> None:
    """Version 2 wrote a hold's first line as a row; it follows from the hold now, until a second comes."""
    database = open_database(empty_url)
    migrate(database, "0007")
    books = ledgers.open_books(database, 100)
    with database.writing() as connection:
        for hold_id in ("hold-0001", "hold-0002"):
            _place_as_then(connection, books, hold_id)
        connection.execute(text("INSERT INTO hold_line SELECT id, '', 'hold', amount, charged, placed_us FROM hold"))
    migrate(database)
    assert verify(database) == []
    if database.is_sqlite:  # the schema's text was changed beneath the rows
        with database.reading() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).all() == [("ok",)]
    answers = ledgers.run(
        database,
        lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-1", 4)),
        lambda ledger: ledger.top_up(HoldId("hold-0001"), "more", 4, ledgers.NOW, ledgers.NOW),
        lambda ledger: ledger.charge(ledgers.usage("hold-0002", "event-2", 40)),  # beyond it
        lambda ledger: ledger.settle(HoldId("hold-0001"), ledgers.NOW),
        lambda ledger: ledger.settle(HoldId("hold-0002"), ledgers.NOW),
    )
    assert [type(one) for one in answers] == [Charged, Hold, Charged, Hold, Hold]
    assert verify(database) == []
    database.close()


def _place_as_then(connection: Connection, books: ledgers.Books, hold_id: str) -> None:
    """A hold of 30, its entries a bucket each."""
    account, person, at_us = books.accounts[0], books.person.id, to_us(ledgers.NOW)
    connection.execute(
        text(
            "INSERT INTO hold (id, kind, state, subject, actor, project_id, account_id, unit, amount, charged, next_seq, line_count, "
            "limit_count, placed_us, lease_until_us, body_hash, details, epoch) VALUES (:id, 'session', 'held', 'researcher/', :actor, "
            ":project, :account, 'gpu_ms', 30, 0, 0, 1, 0, :at, :at, '', '{}', 1)"
        ),
        {"id": hold_id, "actor": person, "project": ledgers.PROJECT, "account": account, "at": at_us},
    )
    sides = (("available", -30), ("held", 30))
    write_entries(
        connection, [(f"h:{hold_id}", account, *side, hold_id, None, "hold", at_us, person) for side in sides]
    )
    moved = text("UPDATE account SET held = held + 30, version = version + 1 WHERE id = :id")
    connection.execute(moved, {"id": account})


def _fill(database: Database) -> None:
    """One row at least in every append-only table."""
    books = ledgers.open_books(database, 100)
    ledgers.adjust(database, books.person.id, "adjust-1", books.accounts[0], 5)
    ledgers.run(database, lambda ledger: ledger.place_hold(books.order(10, hold_id="hold-0001")))
    ledgers.run(database, lambda ledger: ledger.top_up(HoldId("hold-0001"), "more", 4, ledgers.NOW, ledgers.NOW))
    ledgers.run(database, lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-1", 4)))
    ledgers.refund(database, books.person.id, "refund-1", "hold-0001", 3)
    assert make_checkpoint(database, b"key of the tests" * 4, ledgers.NOW).findings == []
    _fill_exchange(database, books.person.id)


def _fill_exchange(database: Database, person: PersonId) -> None:
    project = ProjectId("project-of-a-course")
    with database.writing() as connection:
        tx = SqlTransaction(connection)
        tx.projects.add(Project(project, "course", "Course", ProjectState.ACTIVE, ledgers.NOW), person)
        ends = ledgers.NOW + timedelta(days=1)
        tx.courses.add(Course(project, "course", "Course", ledgers.NOW, ends, "UTC", None, None, ledgers.NOW))
        for number, kind in enumerate(UploadKind):
            order = UploadOrder(f"upload-000{number}", "course", kind, "ps1", 1, "0" * 64, submission_id="upload-0001")
            row = UploadRow(order, project, person, ledgers.NOW, None)
            tx.exchange.add_upload(row)
            add = {
                UploadKind.RELEASE: tx.exchange.add_release,
                UploadKind.SUBMISSION: lambda row, kept, at: tx.exchange.add_submission(row, kept, at, None),
                UploadKind.FEEDBACK: tx.exchange.add_feedback,
            }[kind]
            add(row, Stored("0" * 64, 1), ledgers.NOW)
