"""The ledger's export and hash: every entry once, safe for a spreadsheet; one hash for one history, on either engine."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from quota import cli
from quota.domain.ids import HoldId, PersonId
from quota.store import history
from quota.store.database import Database
from quota.store.history import LedgerHash, ledger_hash
from quota.store.unit_of_work import SqlTransaction
from tests import ledgers
from tests.ledgers import NOW

ACTOR = PersonId("person-0001")


def fill(database: Database) -> None:
    """Books with a deposit, an adjustment, holds, usage, a settlement and a refusal; the same ids every time."""
    books = ledgers.open_books(database, 0)
    with database.writing() as connection:
        SqlTransaction(connection).accounts.deposit(
            "award-0001", books.accounts[0], 100, actor=ACTOR, at=NOW, code="award", params={"title": "Fold"}
        )
    ledgers.adjust(database, ACTOR, "adjust-1", books.accounts[0], 5)
    orders = [books.order(amount, hold_id=f"hold-{amount:04}") for amount in (20, 500)]
    ledgers.run(
        database,
        lambda ledger: ledger.place_hold(orders[0]._replace(actor=ACTOR)),
        lambda ledger: ledger.place_hold(orders[1]._replace(actor=ACTOR)),
        lambda ledger: ledger.charge(ledgers.usage("hold-0020", "=event-1", 5)),
        lambda ledger: ledger.settle(HoldId("hold-0020"), NOW, ledgers.usage("hold-0020", "Event-2", 7, minute=1)),
    )


def hash_of(database: Database) -> LedgerHash:
    with database.reading() as connection:
        return ledger_hash(connection)


def command(*words: str, database: Database) -> int:
    options = cli._parser().parse_args(words)
    return cli.COMMANDS[options.command](database, options)


def test_the_export_holds_every_entry_once_whatever_the_page(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database)
    monkeypatch.setattr(history, "_PAGE", 3)
    assert command("ledger", "export", "--json", database=database) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with database.reading() as connection:
        sides = connection.execute(text("SELECT seq, bucket, amount FROM posting ORDER BY seq, amount")).all()
    assert [row["seq"] for row in rows] == [row.seq for row in sides]
    assert sorted((row["seq"], row["bucket"], row["amount"]) for row in rows) == sorted(map(tuple, sides))
    assert len({row["seq"] for row in rows}) < len(rows)
    assert sum(row["amount"] for row in rows) == 0
    assert rows[0]["at"] == "2026-05-01T12:00:00.000000Z"


def test_the_csv_runs_no_formula(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database)
    with database.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO entry (link, txn_id, account_id, bucket, amount, kind, at_us, actor) "
                "VALUES (1, '=1+1', '@sum', 'held', -5, 'hold', 0, '＝cmd')"
            )
        )
    assert command("ledger", "export", "--csv", database=database) == 0
    last = list(csv.DictReader(capsys.readouterr().out.splitlines()))[-1]
    assert (last["txn_id"], last["account_id"], last["actor"], last["amount"]) == ("'=1+1", "'@sum", "'＝cmd", "-5")


def test_one_history_has_one_hash_on_either_engine(
    tmp_path: Path, new_postgres_database: Callable[[], Database], capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = ledgers.sqlite_database(tmp_path), new_postgres_database()
    fill(here)
    fill(there)
    assert hash_of(here) == hash_of(there)
    assert command("ledger", "hash", database=there) == 0
    found = hash_of(here)
    assert capsys.readouterr().out == f"{found.hex}  {found.entries} entries, 2 holds, 2 usage records\n"
    here.close()
    there.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE hold SET lease_until_us = lease_until_us + 1 WHERE id = 'hold-0500'",
        "UPDATE hold SET state = 'expired', refusal_code = NULL WHERE id = 'hold-0500'",
        "DELETE FROM hold WHERE id = 'hold-0500'",
        "INSERT INTO entry (link, txn_id, account_id, bucket, amount, kind, at_us, actor) "
        "VALUES (1, 't', 'account-0', 'held', 1, 'hold', 0, 'a')",
        "INSERT INTO usage_record (source, event_id, hold_id, seq, from_us, to_us, quantity, amount, overrun, estimated, "
        "payload, payload_hash, link) VALUES ('s', 'e', 'hold-0500', 0, 0, 0, 0, 0, 0, false, '{}', '', 1)",
    ],
)
def test_whatever_changes_in_the_history_changes_its_hash(database: Database, change: str) -> None:
    fill(database)
    before = hash_of(database)
    assert hash_of(database) == before
    with database.writing() as connection:
        assert connection.execute(text(change)).rowcount == 1
    assert hash_of(database).hex != before.hex
