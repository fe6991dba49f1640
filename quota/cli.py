"""The quota service's own commands: `commons verify | migrate | balance | export | ledger …`, on the database itself, no service needed.

`verify` re-proves every balance from the entries, names each row that differs and then exits 1. Amounts leave as integers in the
unit's smallest step; `balance` also shows them as people read them. `export` writes statement lines, `ledger export` the entries,
`ledger archive` signed files of months (`archive_command`).
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from quota.adapters import anchors
from quota.adapters.checkpoint_key import make_key, read_key, replace_key, retired_keys
from quota.api.views import instant
from quota.archive_command import add_archive_command, run_ledger_archive
from quota.domain.errors import Unavailable, WrongState
from quota.domain.messages import unit_amount_text
from quota.domain.project import Allocation, Project
from quota.main import open_ledger_database
from quota.service.ports import StatementLine
from quota.settings import SettingsError, database_from_environment
from quota.store.checkpoints import hash_of, turned_back
from quota.store.database import Database, open_database
from quota.store.grants import GrantRefused
from quota.store.history import LedgerHash, ledger_hash, postings, unhurried
from quota.store.instants import from_us
from quota.store.migrate import NotTheOwner, migrate
from quota.store.move import MoveRefused, move
from quota.store.unit_of_work import SqlStore
from quota.store.verify_since import Proof, make_checkpoint, verify_all, verify_since

_PAGE: Final = 500
_COLUMNS: Final = (
    "project", "seq", "at", "kind", "allocation_id", "unit", "delta_awarded", "delta_held", "delta_charged", "actor", "hold_id",
    "from", "to", "quantity", "estimated", "code", "reason",
)  # fmt: skip
_POSTING_COLUMNS: Final = (
    "seq", "link", "txn_id", "account_id", "bucket", "amount", "hold_id", "usage_ref", "kind", "at", "actor",
)  # fmt: skip
# The full-width signs are what some spreadsheets take for the plain ones.
_FORMULA_STARTS: Final = frozenset("=+-@\t\r\n＝＋－＠")

Row = Mapping[str, object]
Keys = TypeVar("Keys")


def run_verify(database: Database, options: argparse.Namespace) -> int:
    """Re-prove every balance, from the newest checkpoint where there is one; 1 and the rows named on a difference."""
    key, retired = _key(read_key, options.data), _key(retired_keys, options.data)
    if options.all or key is None:
        proof = verify_all(database, key or b"", retired)
    else:
        proof = verify_since(database, key, retired)
    proof.findings.extend(turned_back(database, {one.checkpoint: one.hash for one in _anchors(options.data)}))
    return _said(
        proof, "the ledger verifies" + (f", from checkpoint {proof.checkpoint} on" if proof.checkpoint else "")
    )


def run_checkpoint(database: Database, options: argparse.Namespace) -> int:
    """Prove what came since the last checkpoint and sign a new one; 1 and the rows named where something differs."""
    if options.new_key:  # the last thing that the old key is good for: to tell which checkpoints it signed
        proof = verify_all(database, _key(make_key, options.data), _key(retired_keys, options.data))
        if proof.findings:
            return _said(proof, "")
    key = _key(replace_key if options.new_key else make_key, options.data)
    try:
        proof = make_checkpoint(database, key, datetime.now(UTC), _key(retired_keys, options.data))
    except WrongState as error:
        print(f"commons: {error}", file=sys.stderr)
        return 1
    if not proof.findings:
        _anchor(database, options.data, proof.checkpoint)
    return _said(proof, f"checkpoint {proof.checkpoint} is made and signed")


def _anchor(database: Database, data: Path, checkpoint: int) -> None:
    with database.reading() as connection:
        hash_ = hash_of(connection, checkpoint)
    assert hash_ is not None
    try:
        anchors.keep(data, anchors.Anchor(checkpoint, hash_, datetime.now(UTC).isoformat()))
    except (OSError, ValueError) as error:
        raise SettingsError([f"commons: the checkpoint is made, but not anchored: {error}"]) from error


def _anchors(data: Path) -> list[anchors.Anchor]:
    try:
        return anchors.read(data)
    except (OSError, ValueError) as error:
        raise SettingsError([f"commons: the anchors cannot be used: {error}"]) from error


def _key(get: Callable[[Path], Keys], data: Path) -> Keys:
    try:
        return get(data)
    except (OSError, ValueError) as error:
        raise SettingsError([f"commons: the key of the checkpoints cannot be used: {error}"]) from error


def _said(proof: Proof, well: str) -> int:
    for difference in proof.findings:
        print(difference, file=sys.stderr)
    print(f"{len(proof.findings)} differences" if proof.findings else well)
    return 1 if proof.findings else 0


def run_migrate(database: Database, options: argparse.Namespace) -> int:
    """Bring the database to the newest schema, as its owner where one is named; 1 and the reason where that cannot be."""
    try:
        if options.owner is None:
            migrate(database)
        else:
            _migrate_as_owner(database, options.owner)
    except (NotTheOwner, GrantRefused) as error:
        print(f"commons: {error}", file=sys.stderr)
        return 1
    print("the database is at the newest schema")
    return 0


def _migrate_as_owner(database: Database, url: str) -> None:
    if database.url.username is None:
        raise GrantRefused("portal.toml: quota.database names no user: write postgresql+psycopg://USER@…")
    owner = _other_database("migrate --owner", url)
    try:
        if (owner.url.host, owner.url.database) != (database.url.host, database.url.database):
            raise GrantRefused("the owner's URL names another database than portal.toml: quota.database")
        migrate(owner, grant_to=database.url.username)
    finally:
        owner.close()


def _other_database(command: str, url: str) -> Database:
    """A database named on the command line. Raises SettingsError."""
    try:
        found = open_database(url)
    except ValueError as error:
        raise SettingsError([f"commons {command}: {error}"]) from None
    if found.url.password is not None:
        raise SettingsError([f"commons {command}: a command line is no place for a password; put it into ~/.pgpass"])
    return found


def run_balance(database: Database, options: argparse.Namespace) -> int:
    """Print each allocation's balance."""

    async def work() -> None:
        async for project, allocation in _allocations(database):
            print(_balance_line(project, allocation, as_json=options.json))

    asyncio.run(work())
    return 0


def run_export(database: Database, options: argparse.Namespace) -> int:
    """Print every statement line, as CSV or JSON lines."""

    async def work() -> None:
        write = _csv_writer(_COLUMNS) if options.csv else _json_line
        async for project in _projects(database):
            async for line in _lines(database, project):
                write(_row(project, line))

    asyncio.run(work())
    return 0


def run_ledger_export(database: Database, options: argparse.Namespace) -> int:
    """Print every entry, oldest first, a line for each bucket that it moves, as CSV or JSON lines."""
    write = _csv_writer(_POSTING_COLUMNS) if options.csv else _json_line
    for values in postings(database):
        at = from_us(values["at_us"]).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # exact: the hash is made over it
        write({name: at if name == "at" else values[name] for name in _POSTING_COLUMNS})
    return 0


def run_ledger_hash(database: Database, _options: argparse.Namespace) -> int:
    """Print the hash over entries, holds and usage records, and how many there are."""
    with database.reading() as connection:
        unhurried(connection)
        found = ledger_hash(connection)
    print(_hash_line(found))
    return 0


def run_ledger_move(database: Database, options: argparse.Namespace) -> int:
    """Copy the ledger into an empty PostgreSQL; 1 and the reason where it is left as it was."""
    target = _other_database("ledger move", options.url)
    try:
        moved = move(database, target)
    except MoveRefused as error:
        print(f"commons: {error}", file=sys.stderr)
        return 1
    finally:
        target.close()
    print(_hash_line(moved))
    print("the ledger was moved and verifies; name it in portal.toml before the next start: quota.database")
    return 0


COMMANDS: Final[Mapping[str, Callable[[Database, argparse.Namespace], int]]] = {
    "verify": run_verify,
    "checkpoint": run_checkpoint,
    "migrate": run_migrate,
    "balance": run_balance,
    "export": run_export,
    "ledger archive": run_ledger_archive,
    "ledger export": run_ledger_export,
    "ledger hash": run_ledger_hash,
    "ledger move": run_ledger_move,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exits 2 where the settings or the database cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        url, options.data = database_from_environment()
        database = open_ledger_database(url, options.data)
        try:
            return _run(options, database)
        finally:
            database.close()
    except SettingsError as error:
        print("\n".join(error.lines), file=sys.stderr)
    except Unavailable as error:
        print(f"commons: {error}", file=sys.stderr)
    return 2


def _run(options: argparse.Namespace, database: Database) -> int:
    try:
        status = COMMANDS[options.command](database, options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="commons", description="Commands on the ledger.")
    commands = parser.add_subparsers(dest="command", required=True)
    verifying = commands.add_parser(
        "verify", help="re-prove every balance since the checkpoint; exits 1 on a difference"
    )
    verifying.add_argument("--all", action="store_true", help="from the first entry on, checkpoints included")
    signing = commands.add_parser("checkpoint", help="prove what came since the last checkpoint, and sign a new one")
    signing.add_argument("--new-key", action="store_true", help="prove everything and sign with a key made now")
    migrating = commands.add_parser("migrate", help="bring the database to the newest schema")
    migrating.add_argument(
        "--owner",
        metavar="URL",
        help="the schema's owner on PostgreSQL; portal.toml's user then gets the service's rights",
    )
    balance = commands.add_parser("balance", help="each allocation: awarded, charged, held, available")
    balance.add_argument("--json", action="store_true", help="JSON lines")
    export = commands.add_parser("export", help="every statement line, as JSON lines")
    export.add_argument("--csv", action="store_true", help="as CSV with a header")
    ledger = commands.add_parser("ledger", help="the ledger's entries themselves")
    _add_ledger_commands(ledger.add_subparsers(dest="ledger_command", required=True))
    return parser


def _add_ledger_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export",
        help="every entry, oldest first, a line for each bucket that it moves (both have its seq), as JSON lines",
    )
    form = export.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON lines (the default)")
    form.add_argument("--csv", action="store_true", help="as CSV with a header")
    export.set_defaults(command="ledger export")
    hash_ = commands.add_parser("hash", help="SHA-256 over entries, holds and usage records; the same on either engine")
    hash_.set_defaults(command="ledger hash")
    to = commands.add_parser("move", help="copy the ledger from SQLite into an empty PostgreSQL database")
    to.add_argument("url", metavar="URL", help="postgresql+psycopg://…, without a password")
    to.set_defaults(command="ledger move")
    add_archive_command(commands)


def _hash_line(found: LedgerHash) -> str:
    return f"{found.hex}  {found.entries} entries, {found.holds} holds, {found.usages} usage records"


async def _projects(database: Database) -> AsyncIterator[Project]:
    store = SqlStore(database)
    after: str | None = None
    while page := await _page_of_projects(store, after):
        for project in page:
            yield project
        after = page[-1].slug


async def _page_of_projects(store: SqlStore, after: str | None) -> Sequence[Project]:
    return await store.read(lambda tx: tx.projects.search("", after=after, limit=_PAGE))


async def _allocations(database: Database) -> AsyncIterator[tuple[Project, Allocation]]:
    store = SqlStore(database)
    async for project in _projects(database):
        for allocation in await _allocations_of(store, project):
            yield project, allocation


async def _allocations_of(store: SqlStore, project: Project) -> Sequence[Allocation]:
    return await store.read(lambda tx: tx.accounts.of_project(project.id))


async def _lines(database: Database, project: Project) -> AsyncIterator[StatementLine]:
    store = SqlStore(database)
    before: int | None = None
    while page := await _page_of_lines(store, project, before):
        for line in page:
            yield line
        before = page[-1].seq


async def _page_of_lines(store: SqlStore, project: Project, before: int | None) -> Sequence[StatementLine]:
    return await store.read(lambda tx: tx.accounts.statement(project.id, before=before, limit=_PAGE))


def _balance_line(project: Project, allocation: Allocation, *, as_json: bool) -> str:
    balance = allocation.balance
    amounts = {
        "awarded": balance.awarded,
        "charged": balance.charged,
        "held": balance.held,
        "available": balance.available,
    }
    if as_json:
        return json.dumps(
            {"project": project.slug, "allocation_id": allocation.id, "unit": balance.unit.value, **amounts}
        )
    shown = "  ".join(f"{name} {unit_amount_text(balance.unit, amount)}" for name, amount in amounts.items())
    return f"{project.slug}  {shown}"


def _row(project: Project, line: StatementLine) -> Row:
    return {
        "project": project.slug,
        "seq": line.seq,
        "at": instant(line.at),
        "kind": line.kind,
        "allocation_id": line.allocation_id,
        "unit": line.unit.value,
        "delta_awarded": line.delta_awarded,
        "delta_held": line.delta_held,
        "delta_charged": line.delta_charged,
        "actor": line.actor,
        "hold_id": line.hold_id,
        "from": instant(line.from_at),
        "to": instant(line.to_at),
        "quantity": line.quantity,
        "estimated": line.estimated,
        "code": line.code,
        "reason": line.reason,
    }


def _json_line(row: Row) -> None:
    print(json.dumps(row, ensure_ascii=False))


def _csv_writer(columns: Sequence[str]) -> Callable[[Row], None]:
    writer = csv.DictWriter(sys.stdout, columns)
    writer.writeheader()

    def write(row: Row) -> None:
        writer.writerow({name: _not_a_formula(value) for name, value in row.items()})

    return write


def _not_a_formula(value: object) -> object:
    """Text that a spreadsheet would run as a formula is quoted."""
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA_STARTS else value


if __name__ == "__main__":
    sys.exit(main())
