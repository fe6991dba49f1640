"""The writer's wire: rows are written in their order, however many; what is not as demanded ends the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from quota.store import statements as sql
from quota.store.database import Database, dedicated
from quota.store.wire import InFlight, Interference, PostgresWire, Rows, SqliteWire, Statement, Wire, open_wire
from quota.store.working_set import Entry
from tests.ledgers import open_books, sqlite_database

_COLUMNS = "link, txn_id, account_id, bucket, amount, hold_id, usage_ref, kind, at_us, actor, contra"


def test_entries_are_written_as_they_were_planned(database: Database) -> None:
    entries: list[Entry] = []
    for number in range(1_100):  # more than one statement takes
        hold, amount = f"hold-{number}", 2**62 - number
        entries.append((f"h:{number}", "account-0", "available", -amount, hold, None, "hold", number, "person", "held"))
        entries.append((f"u:{number}", "account-1", "held", -7, hold, "a:b", "charge", number, "person", "charged"))
    wire = open_wire(database)
    wire.begin()
    wire.insert(sql.ADD_ENTRIES, entries, (5,))
    wire.confirm()
    wire.commit()
    wire.close()
    with database.reading() as connection:
        written = connection.execute(text(f"SELECT {_COLUMNS} FROM entry ORDER BY seq"))
        assert [tuple(row) for row in written] == [(5, *entry) for entry in entries]


_ENTRY: Entry = ("h:1", "account-0", "held", 1, "hold-1", None, "hold", 1, "person", "available")
_USAGE = ("bench", "event-1", "hold-1", 0, 0, 0, 1, 1, 0, 0, "{}", "hash")


_ISOLATION = Statement("SELECT current_setting('transaction_isolation') FROM {rows} k", Rows({"id": "text"}))


def _usage(wire: Wire) -> None:
    wire.insert(sql.ADD_USAGES, [_USAGE], (1,))


def _settles_no_hold(wire: Wire) -> None:
    wire.update(sql.SETTLE_HOLDS, [("no-hold", 1, 1, 0, 0, 0, 0, 1)])


def _settles_no_hold_and_repeats_a_usage(wire: Wire) -> None:
    _settles_no_hold(wire)
    _usage(wire)


def _reads_behind_a_usage_that_is_there(wire: Wire) -> None:
    _usage(wire)
    wire.select(sql.HOLDS, [["hold-1"]])


def _breaks_a_check_and_goes_on(wire: Wire) -> None:
    wire.insert(sql.ADD_ENTRIES, [(*_ENTRY[:2], "no-bucket", *_ENTRY[3:])], (1,))
    _usage(wire)


def _between_entries(wire: Wire, change: Callable[[Wire], None]) -> None:
    wire.insert(sql.ADD_ENTRIES, [_ENTRY], (1,))
    change(wire)
    wire.insert(sql.ADD_ENTRIES, [_ENTRY], (1,))
    wire.confirm()


@pytest.mark.parametrize(
    "change", [_usage, _settles_no_hold, _settles_no_hold_and_repeats_a_usage, _reads_behind_a_usage_that_is_there]
)
def test_a_batch_that_was_overtaken_writes_nothing_and_the_next_goes_on(
    database: Database, change: Callable[[Wire], None]
) -> None:
    wire = open_wire(database)
    wire.begin()
    _usage(wire)
    wire.confirm()
    wire.commit()
    wire.begin()
    with pytest.raises(Interference):
        _between_entries(wire, change)
    wire.rollback()
    assert _entries(database) == 0
    wire.begin()
    wire.insert(sql.ADD_ENTRIES, [_ENTRY], (1,))
    wire.confirm()
    wire.commit()
    wire.close()
    assert _entries(database) == 1


def test_what_postgresql_rejects_is_told_and_nothing_behind_it_is_written(
    new_postgres_database: Callable[[], Database],
) -> None:
    database = new_postgres_database()
    wire = open_wire(database)
    wire.begin()
    with pytest.raises(psycopg.errors.CheckViolation):
        _between_entries(wire, _breaks_a_check_and_goes_on)
    wire.rollback()
    wire.begin()
    _usage(wire)  # its key is new: it was skipped
    wire.confirm()
    wire.commit()
    wire.close()
    assert _entries(database) == 0
    database.close()


def test_a_sites_own_isolation_level_is_not_the_writers(new_postgres_database: Callable[[], Database]) -> None:
    database = new_postgres_database()
    with database.writing() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'"))
    connection = dedicated(database)
    assert isinstance(connection, psycopg.Connection)
    wire = PostgresWire(connection)
    wire.begin()
    assert [tuple(row) for row in wire.select(_ISOLATION, [["any"]])] == [("read committed",)]
    wire.rollback()
    wire.close()
    database.close()


def test_changes_that_nobody_confirmed_are_not_committed(new_postgres_database: Callable[[], Database]) -> None:
    database = new_postgres_database()
    wire = open_wire(database)
    wire.begin()
    _usage(wire)
    with pytest.raises(AssertionError):
        wire.commit()
    wire.rollback()
    wire.close()
    database.close()


def _sent(wire: Wire, change: Callable[[Wire], None]) -> None:
    wire.begin()
    change(wire)
    wire.send()


def _entry(wire: Wire) -> None:
    wire.insert(sql.ADD_ENTRIES, [_ENTRY], (1,))


def test_the_next_batch_goes_with_commit_and_counts_with_its_own(
    new_postgres_database: Callable[[], Database],
) -> None:
    database = new_postgres_database()
    wire = open_wire(database)
    _sent(wire, _entry)
    _sent(wire, _entry)
    with pytest.raises(AssertionError):
        wire.commit()  # nobody looked at the guards
    wire.confirm()
    assert _entries(database) == 0
    wire.commit()
    assert _entries(database) == 1
    with pytest.raises(AssertionError):
        wire.commit()
    wire.confirm()
    assert _entries(database) == 1
    wire.commit()
    with pytest.raises(AssertionError):
        wire.commit()  # there is no third
    wire.close()
    assert _entries(database) == 2
    database.close()


def test_a_batch_that_has_to_read_waits_for_the_one_before_it(new_postgres_database: Callable[[], Database]) -> None:
    database = new_postgres_database()
    wire = open_wire(database)
    _sent(wire, _entry)
    with pytest.raises(InFlight):
        _sent(wire, _reads_behind_a_usage_that_is_there)
    wire.forget()
    wire.confirm()
    wire.commit()
    wire.begin()
    assert wire.select(_USAGES, [["event-1"]]) == []  # nor was it sent with that COMMIT
    wire.commit()
    wire.close()
    assert _entries(database) == 1
    database.close()


def test_what_stood_behind_a_batch_that_failed_is_not_written(new_postgres_database: Callable[[], Database]) -> None:
    database = new_postgres_database()
    wire = open_wire(database)
    _sent(wire, _settles_no_hold)
    _sent(wire, _entry)
    with pytest.raises(Interference):
        wire.confirm()
    wire.rollback()
    _sent(wire, _usage)
    wire.confirm()
    wire.commit()
    wire.close()
    assert _entries(database) == 0
    database.close()


_USAGES = Statement("SELECT u.event_id FROM {rows} k JOIN usage_record u ON u.event_id = k.id", Rows({"id": "text"}))


def _entries(database: Database) -> int:
    with database.reading() as connection:
        return int(connection.execute(text("SELECT count(*) FROM entry")).scalar_one())


def _move(wire: Wire, accounts: Sequence[str], held: int, charged: int) -> None:
    wire.update(sql.MOVE_ACCOUNTS, [(account, held, charged, 1, 0, 0, 0) for account in accounts])
    wire.confirm()


def test_one_row_is_changed_and_read_as_several_are(database: Database) -> None:
    one, *two = open_books(database, 100, 100, 100).accounts
    wire = open_wire(database)
    for accounts in ([one], two):
        wire.begin()
        _move(wire, accounts, 60, 5)
        _move(wire, accounts, -60, 60)
        wire.commit()
        wire.begin()
        with pytest.raises(Interference):
            _move(wire, accounts, 36, 0)  # 35 are left
        wire.rollback()
    wire.begin()
    alone = wire.select(sql.LOCK_ACCOUNTS, [[one]])
    others = wire.select(sql.LOCK_ACCOUNTS, [[account] for account in two])
    wire.commit()
    wire.close()
    assert [row[0] for row in (*alone, *others)] == [one, *two]
    assert {tuple(row)[1:] for row in others} == {tuple(alone[0])[1:]}
    assert tuple(alone[0])[5:8] == (100, 65, 0)


def test_one_row_makes_no_temporary_table_of_sqlite(tmp_path: Path) -> None:
    connection = dedicated(sqlite_database(tmp_path))
    wire = SqliteWire(connection)
    ran: list[str] = []
    connection.set_trace_callback(ran.append)

    def tables_made(statement: Statement, rows: int) -> int:
        ran.clear()
        wire.select(statement, [[None] * len(statement.rows.columns)] * rows)
        return sum(step[1] == "OpenEphemeral" for step in connection.execute(f"EXPLAIN {ran[-1]}"))

    guarded = (sql.MOVE_ACCOUNTS, sql.MOVE_LIMITS, sql.SETTLE_HOLDS, sql.CHANGE_HOLDS, sql.MOVE_HEAD)
    for statement in (sql.LOCK_ACCOUNTS, *guarded):
        assert tables_made(statement, 1) == 0
        assert tables_made(statement, 2) > 0
    connection.close()
