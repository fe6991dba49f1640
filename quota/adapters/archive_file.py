"""A month's archive as a file: gzip, one JSON object a line, a signed header first, then rows that each carry a check of their own.

Invariants: a file has its name only when it is whole and on the disk; the header's hash covers the digest of every row and the hash of
the month before; a row's check covers the row and the check before it, so that the row that was changed, removed or moved is named.
Nothing here is larger in memory than a row.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import hmac
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import orjson

from quota.domain.month import Month

FORMAT: Final = "commons ledger archive 1"
TABLES: Final = ("ledger_link", "entry", "usage_record", "adjustment", "refund")
_CHECK: Final = 16  # characters of a row's check: it tells where, the digest tells whether
_TAIL: Final = len(b',"check":"') + _CHECK + len(b'"}')
_LONGEST: Final = 16 * 2**20
_KINDS: Final = {
    "month": str, "previous": dict | None, "checkpoint": dict, "start": dict, "left": dict | None, "rows": dict,
    "digest": str, "hash": str, "signature": str,
}  # fmt: skip
_UNREADABLE: Final = (OSError, EOFError, zlib.error)


class BadArchive(Exception):
    """The file is no archive that anything can be proved of; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself. `left`: where rows of later months begin that its checkpoint covers already."""

    month: str
    previous: Mapping[str, str] | None
    checkpoint: Mapping[str, Any]
    start: Mapping[str, int]
    left: Mapping[str, int] | None
    rows: Mapping[str, int]
    first: Mapping[str, Any] | None
    last: Mapping[str, Any] | None
    digest: str
    hash: str = ""
    signature: str = ""
    format: str = FORMAT

    def said(self) -> dict[str, Any]:
        """Everything but the hash and the signature."""
        return {name: value for name, value in asdict(self).items() if name not in ("hash", "signature")}

    def made_over(self) -> str:
        """The hash over what it says."""
        return hashlib.sha256(orjson.dumps(self.said(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def signed_with(self, key: bytes) -> bool:
        """Whether whoever has the key signed this hash."""
        return hmac.compare_digest(_sign(key, self.hash).encode(), self.signature.encode())


@dataclass(frozen=True, slots=True)
class Line:
    """A row as it stands in a file; `flaw` where it is not what was written there. No table: it cannot be read as a row."""

    table: str
    values: Mapping[str, Any]
    flaw: str | None


@dataclass
class Tally:
    """What a header says of rows, counted while they go by."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    first: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, table: str, values: Mapping[str, Any], line: bytes) -> None:
        """Count a row that stands as `line` in the file."""
        self.rows[table] = self.rows.get(table, 0) + 1
        self.digest.update(line)
        if table == "ledger_link":
            self.last = {name: values.get(name) for name in ("id", "epoch", "n", "hash")}
            self.first = self.first or self.last


def name_of(month: str) -> str:
    return f"ledger-{month}.jsonl.gz"


def key_of(table: str, values: Mapping[str, Any]) -> str:
    """What names a row, to people and among its like."""
    if table == "usage_record":
        return f"{values.get('source')}:{values.get('event_id')}"
    return str(values.get("seq" if table == "entry" else "id"))


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Be the only one who writes archives there; the folder is made where it is missing. Raises BadArchive, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadArchive(f"{folder}: another run writes archives there") from None
        yield
    finally:
        os.close(fd)


class MonthFile:
    """Takes rows, then a header; until `put` gives it its name there is nothing but files that the next run removes."""

    def __init__(self, folder: Path, month: str) -> None:
        self.path = folder / name_of(month)
        self.tally = Tally()
        self._rows_part = folder / f".{name_of(month)}.rows"
        self._part = folder / f".{name_of(month)}.part"
        self._check = ""

    def __enter__(self) -> MonthFile:
        self._raw = _new(self._rows_part)
        self._zip = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0)
        return self

    def __exit__(self, *_why: object) -> None:
        with suppress(OSError):  # what could not be written was said before
            self._zip.close()
        with suppress(OSError):
            self._raw.close()
        self._rows_part.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)

    def add(self, table: str, values: Mapping[str, Any]) -> None:
        """Append a row."""
        body = orjson.dumps({"table": table, **values})
        self._check = _check(self._check, body)
        line = b'%b,"check":"%b"}\n' % (body[:-1], self._check.encode())
        self.tally.add(table, values, line)
        self._zip.write(line)

    def put(self, header: Header, key: bytes) -> Header:
        """Sign, bring everything to the disk, and only then give the file its name. Raises OSError."""
        made = header.made_over()
        signed = _with(header, made, _sign(key, made))
        self._zip.close()
        self._raw.flush()
        with _new(self._part) as part, self._rows_part.open("rb") as rows:
            head = orjson.dumps(asdict(signed), option=orjson.OPT_SORT_KEYS)
            part.write(gzip.compress(head + b"\n", mtime=0))  # a member of its own: what is unpacked is one text
            shutil.copyfileobj(rows, part, 2**20)
            part.flush()
            os.fsync(part.fileno())
        self._part.replace(self.path)
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return signed


def read_header(path: Path) -> Header:
    """The header as it stands there. Raises BadArchive."""
    try:
        with gzip.open(path, "rb") as file:
            said = orjson.loads(file.readline(_LONGEST))
        header = Header(**said)
        if not all(isinstance(getattr(header, name), kind) for name, kind in _KINDS.items()):
            raise TypeError
        Month.read(header.month)
    except _UNREADABLE as error:
        raise BadArchive(f"the header cannot be read ({type(error).__name__})") from None
    except (ValueError, TypeError):  # bad JSON is a ValueError, too
        raise BadArchive("the first line is no header of an archive") from None
    if header.format != FORMAT:
        raise BadArchive("is of another kind or of a newer version")
    return header


def lines(path: Path, tally: Tally | None = None) -> Iterator[Line]:
    """Every row of a file. Raises BadArchive, naming the last row that could be read, where it breaks off."""
    where, check = "the header", ""
    try:
        with gzip.open(path, "rb") as file:
            file.readline(_LONGEST)
            while raw := file.readline(_LONGEST):
                line, check = _line(raw, check)
                if tally is not None:
                    tally.add(line.table, line.values, raw)
                if line.table:
                    where = f"{line.table} {key_of(line.table, line.values)}"
                yield line
    except _UNREADABLE as error:
        raise BadArchive(f"breaks off after {where} ({type(error).__name__})") from None


def flaws(path: Path, header: Header, keys: Sequence[bytes]) -> Iterator[str]:
    """What is wrong with a file, told from the file and the keys alone: the newest key first, retired ones after it."""
    if header.hash != header.made_over():
        yield "the header is not what its hash was made over"
    elif not any(header.signed_with(key) for key in keys):
        yield "the header is not signed with the key of this data folder"
    tally = Tally()
    try:
        for line in lines(path, tally):
            if line.flaw is not None:
                yield f"{line.table} {key_of(line.table, line.values)}: {line.flaw}" if line.table else line.flaw
    except BadArchive as error:
        yield str(error)
    for table in sorted({*tally.rows, *header.rows} - {""}):
        if tally.rows.get(table, 0) != header.rows.get(table, 0):
            yield f"{table}: {tally.rows.get(table, 0)} rows, the header says {header.rows.get(table, 0)}"
    if (tally.first, tally.last) != (header.first, header.last):
        yield "does not begin or end with the link that the header names"
    if tally.digest.hexdigest() != header.digest:
        yield "the rows are not those that were signed"


def _line(raw: bytes, before: str) -> tuple[Line, str]:
    """A row and the check that it states: from there on the rows after it are checked, whatever is wrong with it."""
    try:
        said = orjson.loads(raw)
        table, check = said.pop("table"), said.pop("check")
        if not isinstance(check, str) or table not in TABLES:
            raise TypeError
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return Line("", {}, "a line is no row"), before
    body = raw[: -_TAIL - 1] + b"}"
    told = raw[-_TAIL - 1 :] == b',"check":"%b"}\n' % check.encode()
    if not told or check != _check(before, body):
        return Line(table, said, "was changed, or what stood before it is gone"), check
    return Line(table, said, None), check


def _check(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + body).hexdigest()[:_CHECK]


def _sign(key: bytes, hash_: str) -> str:
    return hmac.new(key, f"commons archive {hash_}".encode(), hashlib.sha256).hexdigest()


def _with(header: Header, hash_: str, signature: str) -> Header:
    return Header(**(asdict(header) | {"hash": hash_, "signature": signature}))


def _new(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")
