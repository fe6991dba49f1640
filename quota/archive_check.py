"""Proves the files of the ledger's archive: each by itself, one after the other, and against the ledger.

Invariant: nothing is changed, and no more than a link's rows of either side is in memory. What is wrong is named by its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from quota.adapters.archive_file import BadArchive, Header, Line, flaws, key_of, lines, read_header
from quota.archiving import Keys, checkpoint_of
from quota.domain.month import Month
from quota.store.database import Database
from quota.store.history import unhurried
from quota.store.month_rows import Covered, MonthRows, Place, covering

_NAMED: Final = 20  # flaws of one file; more tell nothing more


def check(files: Sequence[Path], keys: Keys, database: Database | None, *, whole: bool) -> Iterator[tuple[Path, str]]:
    """What is wrong with each file, by itself, with the order of the months, and against the ledger where one is given.

    `whole`: the files are all there are, so that none may be missing at their beginning.
    Raises Unavailable. At most so many flaws of one file are named.
    """
    headers: dict[Path, Header] = {}
    for path in files:
        try:
            headers[path] = read_header(path)
        except BadArchive as error:
            yield path, str(error)
            continue
        for number, flaw in enumerate(flaws(path, headers[path], keys.all)):
            if number == _NAMED:
                yield path, "more is wrong"
                break
            yield path, flaw
    ordered = sorted(headers.items(), key=lambda one: one[1].month)
    if whole and ordered and (before := ordered[0][1].previous) is not None:
        yield ordered[0][0], f"{before.get('month')}: missing before {ordered[0][1].month}"
    yield from _gaps(ordered)
    if database is not None and ordered:
        with database.reading() as connection:
            unhurried(connection)
            yield from _against(connection, keys, ordered)


def _gaps(ordered: Sequence[tuple[Path, Header]]) -> Iterator[tuple[Path, str]]:
    for (_, before), (path, header) in pairwise(ordered):
        missing = Month.read(before.month).next
        if header.month == before.month:
            yield path, f"{header.month} is here twice"
        elif str(missing) != header.month:
            last = Month.read(header.month).previous
            yield path, f"{missing if missing == last else f'{missing} to {last}'}: missing before {header.month}"
        elif header.previous != {"month": before.month, "hash": before.hash}:
            yield path, f"does not follow the file of {before.month}"


def _against(connection: Connection, keys: Keys, ordered: Sequence[tuple[Path, Header]]) -> Iterator[tuple[Path, str]]:
    found = covering(connection, keys.key, keys.retired)
    for one in found.wrong:
        yield ordered[0][0], f"the ledger: {one}"
    known = {str(one.month): one for one in found.months}
    for path, header in ordered:
        covered = known.get(header.month)
        if covered is None:
            yield path, f"the ledger has no checkpoint that covers {header.month}, or begins later"
            continue
        for number, flaw in enumerate(_differences(connection, covered, path, header)):
            if number == _NAMED:
                yield path, "more differs"
                break
            yield path, flaw


def _differences(connection: Connection, covered: Covered, path: Path, header: Header) -> Iterator[str]:
    if dict(header.checkpoint) != checkpoint_of(covered):
        yield f"names another checkpoint than the ledger's {covered.seal.id}"
    try:
        start = Place(int(header.start["link"]), int(header.start["seq"]))
        left = None if header.left is None else Place(int(header.left["link"]), int(header.left["seq"]))
    except (KeyError, TypeError, ValueError):
        yield "the header does not say where its rows begin"
        return
    rows = MonthRows(connection, covered, start)
    yield from _compared(lines(path), rows)
    yield from (f"the ledger: {one}" for one in rows.findings)
    if left != rows.left:
        yield "the header does not say where the rows of later months begin"


def _compared(written: Iterator[Line], rows: MonthRows) -> Iterator[str]:
    """Both sides link by link, in the order of the links."""
    theirs = _by_link((line.table, line.values) for line in _readable(written))
    ours = _by_link(rows)
    file, ledger = next(theirs, None), next(ours, None)
    while file is not None or ledger is not None:
        if ledger is None or (file is not None and file[0] < ledger[0]):
            assert file is not None
            yield from (f"{one}: the ledger does not have it" for one in file[1])
            file = next(theirs, None)
        elif file is None or ledger[0] < file[0]:
            yield from (f"{one}: is missing in the file" for one in ledger[1])
            ledger = next(ours, None)
        else:
            yield from _of_link(file[1], ledger[1])
            file, ledger = next(theirs, None), next(ours, None)


def _readable(written: Iterator[Line]) -> Iterator[Line]:
    try:
        yield from (line for line in written if line.table)
    except BadArchive:
        return  # said already of the file alone


def _by_link(rows: Any) -> Iterator[tuple[int, dict[str, Mapping[str, Any]]]]:
    """Rows under the link that they belong to; a correction belongs to the entries before it."""
    at = 0

    def link(row: tuple[str, Mapping[str, Any]]) -> int:
        nonlocal at
        table, values = row
        named = values.get("id" if table == "ledger_link" else "link")
        at = named if isinstance(named, int) else at
        return at

    for number, group in groupby(rows, key=link):
        yield number, {f"{table} {key_of(table, values)}": values for table, values in group}


def _of_link(file: Mapping[str, Mapping[str, Any]], ledger: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name in file.keys() - ledger.keys():
        yield f"{name}: the ledger does not have it"
    for name, values in ledger.items():
        if name not in file:
            yield f"{name}: is missing in the file"
            continue
        for column, value in values.items():
            if file[name].get(column) != value:
                yield f"{name}: the file says {column} {file[name].get(column)!r}, the ledger {value!r}"
        if file[name].keys() - values.keys():
            yield f"{name}: the file says more than the ledger"
