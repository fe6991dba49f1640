"""The ledger's archive: one signed file a month, written out of the ledger and compared with it.

Invariant: a month is written after the month before it, out of rows that the hash chains prove up to a signed checkpoint; what is
there already and says something else is never overwritten. The rows stay in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from quota.adapters.archive_file import (
    BadArchive,
    Header,
    MonthFile,
    Tally,
    flaws,
    folder_locked,
    name_of,
    read_header,
)
from quota.domain.month import Month
from quota.store.database import Database
from quota.store.history import unhurried
from quota.store.month_rows import ORIGIN, Covered, Covering, MonthRows, Place, covering

_NAMED: Final = 20  # findings of one month; more tell nothing more


class ArchiveRefused(Exception):
    """A month is not archived; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Written:
    """A month's file: what it says, and whether it was made now, signed anew, or stood there already."""

    header: Header
    path: Path
    how: str


@dataclass(frozen=True, slots=True)
class Keys:
    """The key that signs, and those that signed before it."""

    key: bytes
    retired: Sequence[bytes] = ()

    @property
    def all(self) -> Sequence[bytes]:
        return [self.key, *self.retired]


def archive(
    database: Database, folder: Path, keys: Keys, now: datetime, until: Month | None = None
) -> Iterator[Written]:
    """Write every month that is over and covered and has no file yet, up to `until`, which is compared where it has one.

    Raises ArchiveRefused, BadArchive, OSError, Unavailable; what was written before stays.
    """
    if until is not None and until.ends > now:
        raise ArchiveRefused(f"{until} is not over yet: months end at midnight UTC")
    with folder_locked(folder), database.reading() as connection:
        unhurried(connection)
        found = _covering(connection, keys)
        wanted = Month.of(now).previous if until is None else until
        _must_be_covered(found, wanted, asked=until is not None)
        previous: Header | None = None
        for covered in found.months:
            if covered.month > wanted:
                break
            written = _one(connection, folder, keys, covered, previous, again=covered.month == until)
            previous = written.header
            yield written
    last = found.months[-1].month if found.months else None
    if found.first is not None and found.first <= wanted and (last is None or last < wanted):
        raise ArchiveRefused(
            f"no checkpoint covers {found.first if last is None else last.next} yet: "
            "run `commons checkpoint` after the month's end, then this again"
        )


def _must_be_covered(found: Covering, wanted: Month, *, asked: bool) -> None:
    if found.first is None:
        raise ArchiveRefused(
            "no checkpoint covers any row of the ledger yet: run `commons checkpoint` after the month's end, then this again"
        )
    if asked and wanted < found.first:
        raise ArchiveRefused(f"{wanted} is before the ledger's first row, which is of {found.first}")


def _covering(connection: Connection, keys: Keys) -> Covering:
    found = covering(connection, keys.key, keys.retired)
    if found.wrong:
        raise ArchiveRefused(
            "\n".join([*map(str, found.wrong), "the checkpoints are not in order: run `commons verify --all`"])
        )
    return found


def _one(
    connection: Connection, folder: Path, keys: Keys, covered: Covered, previous: Header | None, *, again: bool
) -> Written:
    path = folder / name_of(str(covered.month))
    found = _there(path, keys, covered, previous) if path.exists() else None
    if found is not None and found.signed_with(keys.key) and not again:
        return Written(found, path, "is there already")
    start = _start(previous)
    rows = MonthRows(connection, covered, start)
    with MonthFile(folder, str(covered.month)) as file:
        for table, values in rows:
            file.add(table, values)
        if rows.findings:
            named = [str(one) for one in rows.findings[:_NAMED]]
            raise ArchiveRefused("\n".join([*named, f"{covered.month} does not verify: no archive is signed"]))
        header = _header(covered, previous, start, rows.left, file.tally)
        if found is None:
            return Written(file.put(header, keys.key), path, "is written")
        wrong = next(flaws(path, found, keys.all), None)
        if wrong is None and found.said() != header.said():
            wrong = "says something else than the ledger"
        if wrong is not None:
            raise ArchiveRefused(f"{path}: {wrong}; it is left as it is: look at it with --check")
        if found.signed_with(keys.key):
            return Written(found, path, "is there already, and the same")
        return Written(file.put(header, keys.key), path, "is signed anew")


def _there(path: Path, keys: Keys, covered: Covered, previous: Header | None) -> Header:
    """The header of a file that stands where a month belongs. Raises ArchiveRefused where it is not that month's."""
    try:
        found = read_header(path)
    except BadArchive as error:
        raise ArchiveRefused(f"{path}: {error}; it is left as it is") from None
    if found.hash != found.made_over() or not any(found.signed_with(key) for key in keys.all):
        raise ArchiveRefused(f"{path}: is not signed with the key of this data folder; it is left as it is")
    if (found.month, found.previous, found.checkpoint) != (
        str(covered.month),
        _named(previous),
        checkpoint_of(covered),
    ):
        raise ArchiveRefused(f"{path}: is of another month or ledger, or follows another file; it is left as it is")
    return found


def _header(covered: Covered, previous: Header | None, start: Place, left: Place | None, tally: Tally) -> Header:
    return Header(
        month=str(covered.month),
        previous=_named(previous),
        checkpoint=checkpoint_of(covered),
        start=start._asdict(),
        left=None if left is None else left._asdict(),
        rows=tally.rows,
        first=tally.first,
        last=tally.last,
        digest=tally.digest.hexdigest(),
    )


def _named(previous: Header | None) -> Mapping[str, str] | None:
    return None if previous is None else {"month": previous.month, "hash": previous.hash}


def checkpoint_of(covered: Covered) -> Mapping[str, Any]:
    """What a header says of the checkpoint that covers its month."""
    seal = covered.seal
    return {"id": seal.id, "at_us": seal.at_us, "hash": seal.hash, "last_link": seal.cut.link, "last_seq": seal.cut.seq}


def _start(previous: Header | None) -> Place:
    """Where a month's rows can begin: where the month before left some, or behind its checkpoint."""
    if previous is None:
        return ORIGIN
    if previous.left is not None:
        return Place(**previous.left)
    return Place(previous.checkpoint["last_link"] + 1, previous.checkpoint["last_seq"] + 1)
