"""A ledger that revision 0015 wrote (commit 37d415c), an entry a bucket: after the migration it proves itself as it stands, and goes on.

`ledger_0015.json`: its rows, its hash, its statement and the archive of its month, as that version made them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, Table, text

from quota.archiving import archive
from quota.domain.hold import Charged, Hold
from quota.domain.ids import HoldId
from quota.store.database import Database, open_database
from quota.store.history import ledger_hash
from quota.store.migrate import migrate
from quota.store.statement import statement_lines
from quota.store.tables import metadata
from quota.store.verify import verify
from quota.store.verify_since import make_checkpoint, verify_all, verify_since
from tests import ledgers
from tests.integration.store.archive_books import JULY, JUNE, KEY, MORNING, used
from tests.integration.store.test_archive import KEYS, MAY, OF_JUNE, flaws
from tests.integration.store.test_checkpoints import change

WRITTEN: dict[str, Any] = json.loads((Path(__file__).parent / "ledger_0015.json").read_text())


@pytest.fixture
def migrated(empty_url: str) -> Iterator[Database]:
    database = open_database(empty_url)
    migrate(database, "0015")
    with database.writing() as connection:
        made = MetaData()
        tables = [Table(table.name, made, autoload_with=connection) for table in metadata.sorted_tables]
        for table in reversed(tables):
            if connection.execute(table.select().limit(1)).first() is not None:  # what the migrations wrote
                connection.execute(table.delete())
        for table in tables:
            if table.name in WRITTEN["tables"]:
                connection.execute(table.insert(), WRITTEN["tables"][table.name])
        if not database.is_sqlite:
            for name, column in (("entry", "seq"), ("ledger_link", "id"), ("ledger_epoch", "id"), ("checkpoint", "id")):
                highest = f"(SELECT max({column}) FROM {name})"
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', '{column}'), {highest})"))
    migrate(database)
    yield database
    database.close()


def _archived(folder: Path) -> Path:
    folder.mkdir()
    for name, content in WRITTEN["archive"].items():
        (folder / name).write_bytes(base64.b64decode(content))
    return folder


def _statement(database: Database, limit: int = 100, before: int | None = None) -> list[Any]:
    with database.reading() as connection:
        return list(statement_lines(connection, ledgers.PROJECT, before=before, limit=limit))


def test_it_proves_itself_as_it_stands(migrated: Database, tmp_path: Path) -> None:
    assert verify(migrated) == []
    assert (verify_since(migrated, KEY).checkpoint, verify_since(migrated, KEY).findings) == (1, [])
    assert verify_all(migrated, KEY).findings == []
    with migrated.reading() as connection:
        assert ledger_hash(connection).hex == WRITTEN["hash"]
    moved = [[line.kind, line.delta_awarded, line.delta_held, line.delta_charged] for line in _statement(migrated)]
    assert moved == WRITTEN["statement"]
    folder = _archived(tmp_path / "archive")
    assert flaws(folder, migrated) == []
    assert [one.how for one in archive(migrated, folder, KEYS, JULY, MAY)] == ["is there already, and the same"]


def test_it_goes_on(migrated: Database, tmp_path: Path) -> None:
    order = ledgers.known_books(migrated).order(40, hold_id="overrun-again")._replace(at=JUNE + timedelta(days=2))
    later = JUNE + timedelta(days=3)
    answers = ledgers.run(
        migrated,
        lambda ledger: ledger.place_hold(order),
        lambda ledger: ledger.charge(used("overrun-again", "within-again", later, 30)),
        lambda ledger: ledger.settle(
            HoldId("overrun-again"), later, used("overrun-again", "beyond-again", later + timedelta(hours=1), 15)
        ),
    )
    assert [type(one) for one in answers] == [Hold, Charged, Hold]
    assert verify(migrated) == []
    assert verify_since(migrated, KEY).findings == []
    whole = _statement(migrated)
    assert [(line.delta_held, line.delta_charged) for line in whole[:3]] == [(-10, 15), (-30, 30), (40, 0)]
    for limit in (1, 2, 3, 5):
        paged: list[Any] = []
        while page := _statement(migrated, limit, paged[-1].seq if paged else None):
            paged += page
        assert paged == whole
    assert make_checkpoint(migrated, KEY, JULY + MORNING).findings == []
    folder = _archived(tmp_path / "archive")
    written = archive(migrated, folder, KEYS, JULY + timedelta(days=1), OF_JUNE)
    assert [one.how for one in written] == ["is there already", "is written"]
    assert flaws(folder, migrated) == []


@pytest.mark.parametrize(
    "corruption",
    [
        "DELETE FROM entry WHERE txn_id = 'u:session:within' AND bucket = 'held'",
        "UPDATE entry SET contra = 'held' WHERE txn_id = 'u:session:within' AND bucket = 'charged'",
        "UPDATE entry SET amount = amount + 1 WHERE txn_id = 'u:session:beyond' AND bucket = 'available'",
    ],
)
def test_an_old_side_that_was_changed_is_found(migrated: Database, corruption: str) -> None:
    with migrated.writing() as connection:
        change(connection, corruption)
    assert "entry" in {one.table for one in verify(migrated)}
    assert "entry" in {one.table for one in verify_all(migrated, KEY).findings}


def test_an_old_pair_made_into_one_entry_is_found(migrated: Database) -> None:
    with migrated.writing() as connection:
        change(connection, "UPDATE entry SET contra = 'charged' WHERE txn_id = 'u:session:within' AND bucket = 'held'")
        connection.execute(text("DELETE FROM entry WHERE txn_id = 'u:session:within' AND bucket = 'charged'"))
    assert "entry" in {one.table for one in verify(migrated)}
