"""`commons ledger archive`: writes a signed file for each month that is over, or proves such files (`--check`)."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from quota.adapters.archive_file import BadArchive, Header, name_of
from quota.adapters.checkpoint_key import read_key, retired_keys
from quota.archive_check import check
from quota.archiving import ArchiveRefused, Keys, archive
from quota.domain.month import Month
from quota.settings import SettingsError
from quota.store.database import Database

FOLDER: Final = "archive"
_WHAT: Final = {"entry": "entries", "usage_record": "usage records", "adjustment": "adjustments", "refund": "refunds"}


def add_archive_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`archive`, among the commands of `commons ledger`."""
    to = commands.add_parser("archive", help="write each month that is over into a signed file; or prove such files")
    to.add_argument("--folder", type=Path, help="where the files are; archive/ of the data folder where not named")
    to.add_argument(
        "--month", type=_month, metavar="YYYY-MM", help="up to this month, which is compared where it has a file"
    )
    to.add_argument(
        "--check",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="prove these files, or all of the folder; exits 1 on a difference",
    )
    to.add_argument("--alone", action="store_true", help="with --check: without the ledger")
    to.set_defaults(command="ledger archive")


def run_ledger_archive(database: Database, options: argparse.Namespace) -> int:
    """Write or prove; 1 and the reason where a month cannot be archived or a file is not what it should be."""
    keys, folder = _keys(options.data), options.folder or options.data / FOLDER
    if options.check is not None:
        return _check(database, options, keys, folder)
    if keys is None:
        print("commons: there is no checkpoint yet, and no key: run `commons checkpoint` first", file=sys.stderr)
        return 1
    try:
        for written in archive(database, folder, keys, datetime.now(UTC), options.month):
            print(f"{written.path.name} {written.how}: {_counts(written.header)}\n  {written.header.hash}")
    except (ArchiveRefused, BadArchive) as error:
        print(f"commons: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"commons: {error.filename or folder}: {error.strerror}; what was whole before is kept", file=sys.stderr)
        return 1
    print("every month that is over is archived" if options.month is None else f"archived up to {options.month}")
    return 0


def _check(database: Database, options: argparse.Namespace, keys: Keys | None, folder: Path) -> int:
    if keys is None:
        print("commons: secrets/checkpoint_key of the data folder is missing: nothing can be proved", file=sys.stderr)
        return 1
    files = options.check or sorted(folder.glob(name_of("*")))
    wrong = 0
    for path, problem in check(files, keys, None if options.alone else database, whole=not options.check):
        print(f"{path.name}: {problem}", file=sys.stderr)
        wrong += 1
    if not files:
        print(f"commons: {folder}: there is no archive", file=sys.stderr)
        return 1
    by_what = "by themselves" if options.alone else "by themselves and against the ledger"
    print(f"{wrong} differences" if wrong else f"{len(files)} files verify {by_what}")
    return 1 if wrong else 0


def _keys(data: Path) -> Keys | None:
    try:
        key = read_key(data)
        return None if key is None else Keys(key, retired_keys(data))
    except (OSError, ValueError) as error:
        raise SettingsError([f"commons: the key of the checkpoints cannot be used: {error}"]) from error


def _counts(header: Header) -> str:
    return ", ".join(f"{header.rows[table]:,} {what}" for table, what in _WHAT.items())


def _month(word: str) -> Month:
    try:
        return Month.read(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
