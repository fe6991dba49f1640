"""A ledger moves from SQLite to PostgreSQL whole and proved, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from quota import cli
from quota.domain.hold import Hold, HoldState
from quota.domain.ids import AllocationId, PersonId
from quota.store.database import Database, open_database
from quota.store.migrate import migrate
from quota.store.move import MoveRefused, move
from quota.store.tables import metadata
from quota.store.unit_of_work import SqlTransaction
from quota.store.verify import verify
from tests import ledgers
from tests.integration.postgres import Postgres
from tests.integration.store.test_history import fill, hash_of


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Database]:
    """A SQLite ledger with a bit of everything; nobody else has it open."""
    opened = ledgers.sqlite_database(tmp_path)
    fill(opened)
    opened.close()
    yield opened
    opened.close()


@pytest.fixture
def target(postgres: Postgres) -> Iterator[Database]:
    """A PostgreSQL database without any table."""
    opened = open_database(postgres.new_database())
    yield opened
    opened.close()


def rows(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.reading() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr)
            for table in metadata.sorted_tables
        }


def tables_of(database: Database) -> list[str]:
    with database.reading() as connection:
        return inspect(connection).get_table_names()


def test_every_row_arrives_with_the_same_hash_and_verifies(source: Database, target: Database) -> None:
    before = rows(source)
    moved = move(source, target)
    assert rows(target) == before
    assert rows(source) == before
    assert hash_of(target) == hash_of(source) == moved
    assert verify(target) == []


def test_the_ledger_goes_on_where_it_was_moved_to(source: Database, target: Database) -> None:
    move(source, target)
    with target.reading() as connection:
        actor = PersonId(connection.execute(text("SELECT id FROM person")).scalar_one())
        person = SqlTransaction(connection).people.by_id(actor)
    assert person is not None
    books = ledgers.Books(target, person, (AllocationId("account-0"),))
    answers = ledgers.run(target, lambda ledger: ledger.place_hold(books.order(30, hold_id="hold-0030")))
    ledgers.adjust(target, actor, "adjust-2", books.accounts[0], 5)
    with target.writing() as connection:
        ledgers.register(SqlTransaction(connection), "newcomer")
    assert [one.state for one in answers if isinstance(one, Hold)] == [HoldState.HELD]
    assert verify(target) == []


@pytest.mark.parametrize("how", ["migrated", "foreign"])
def test_a_target_with_any_table_is_refused_and_left_alone(source: Database, target: Database, how: str) -> None:
    if how == "migrated":
        migrate(target)
    else:
        with target.writing() as connection:
            connection.execute(text("CREATE TABLE theirs (id BIGINT)"))
    before = tables_of(target)
    with pytest.raises(MoveRefused, match="not empty"):
        move(source, target)
    assert tables_of(target) == before


def test_a_ledger_that_somebody_has_open_does_not_move(source: Database, target: Database) -> None:
    other = open_database(source.url.render_as_string())
    with other.reading() as connection:  # idle in the pool afterwards: still open
        connection.execute(text("SELECT 1"))
    with pytest.raises(MoveRefused, match="in use"):
        move(source, target)
    other.close()
    assert tables_of(target) == []
    move(source, target)


def test_a_ledger_that_does_not_verify_leaves_the_target_empty(source: Database, target: Database) -> None:
    with source.writing() as connection:
        connection.execute(text("UPDATE account SET charged = charged + 1 WHERE id = 'account-0'"))
    with pytest.raises(MoveRefused, match="account account-0"):
        move(source, target)
    assert tables_of(target) == []


def test_a_row_that_postgresql_cannot_hold_leaves_the_target_empty(source: Database, target: Database) -> None:
    with source.writing() as connection:
        connection.execute(text("UPDATE project SET title = char(70, 0)"))
    with pytest.raises(MoveRefused, match="project"):
        move(source, target)
    assert tables_of(target) == []


def test_an_older_schema_is_to_be_migrated_first(tmp_path: Path, target: Database) -> None:
    old = open_database(f"sqlite:///{tmp_path / 'old.sqlite'}")
    migrate(old, "0001")
    with pytest.raises(MoveRefused, match="commons migrate"):
        move(old, target)
    assert tables_of(target) == []


def test_a_ledger_moves_one_way_only(source: Database, tmp_path: Path) -> None:
    with pytest.raises(MoveRefused, match="from SQLite to PostgreSQL"):
        move(source, ledgers.sqlite_database(tmp_path))


def test_the_command_moves_and_names_the_next_step(
    source: Database,
    target: Database,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "portal.toml").write_text(f'[quota]\ndatabase = "{source.url.render_as_string()}"\n')
    monkeypatch.setenv("COMMONS_PORTAL_FILE", str(tmp_path / "portal.toml"))
    monkeypatch.setenv("COMMONS_DATA", str(tmp_path))
    secret = target.url.set(password="hush").render_as_string(hide_password=False)
    assert cli.main(["ledger", "move", secret]) == 2
    assert "hush" not in capsys.readouterr().err
    url = target.url.render_as_string()
    assert cli.main(["ledger", "move", url]) == 0
    said = capsys.readouterr().out.splitlines()
    assert cli.main(["ledger", "hash"]) == 0
    assert capsys.readouterr().out.splitlines() == said[:1]
    assert "quota.database" in said[1]
    assert cli.main(["ledger", "move", url]) == 1
    assert "not empty" in capsys.readouterr().err
