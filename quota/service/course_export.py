"""A course's data to take away, for its instructors, also after its end: one tar of tables and of every bundle.

Invariants: an instructor gets it and nobody else; what is in it is what one transaction saw, and bundles never change; it is written
as it is read, so that its size costs no memory. The gradebook and the sources are files of the course's folder and not in it.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from quota.domain.course import Course, CoursePerson
from quota.domain.exchange import Assignment, Grade, Submission
from quota.service.callers import Caller
from quota.service.courses import taught_by
from quota.service.exchange import objects_of
from quota.service.exchange_ports import Objects
from quota.service.ports import Transaction
from quota.service.services import Services

_CHUNK_BYTES: Final = 256 * 1024
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the archive: its bytes, or where they lie."""

    name: str
    content: bytes | Path


@dataclass(frozen=True, slots=True)
class Archive:
    """A course's archive, not yet written."""

    slug: str
    made_at: datetime
    entries: Sequence[Entry]

    def chunks(self) -> Iterator[bytes]:
        """The tar, piece by piece."""
        for entry in self.entries:
            info = tarfile.TarInfo(f"{self.slug}/{entry.name}")
            info.mtime, info.mode = int(self.made_at.timestamp()), 0o600
            info.size = len(entry.content) if isinstance(entry.content, bytes) else entry.content.stat().st_size
            yield info.tobuf(tarfile.PAX_FORMAT)
            yield from (entry.content,) if isinstance(entry.content, bytes) else _read(entry.content)
            yield bytes(-info.size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)


async def archive(services: Services, caller: Caller, slug: str) -> Archive:
    """Everything that the portal keeps of a course. Raises Unknown('course'), Forbidden, Unavailable."""
    objects, at = objects_of(services), services.clock.now()

    def work(tx: Transaction) -> Archive:
        course = taught_by(tx, caller, slug)
        people = tx.courses.people(course.project_id)
        released = tx.exchange.assignments(course.project_id)
        received = tx.exchange.submissions(course.project_id, assignment=None, person_id=None, newest_only=False)
        grades = tx.exchange.grades(course.project_id, None)
        tables = [
            Entry("course.json", _terms(course)),
            Entry("people.csv", _people(people)),
            Entry("assignments.csv", _assignments(released)),
            Entry("submissions.csv", _submissions(received)),
            Entry("grades.csv", _grades(grades)),
        ]
        return Archive(slug, at, [*tables, *_bundles(objects, released, received)])

    return await services.store.read(work)


def _bundles(objects: Objects, released: Sequence[Assignment], received: Sequence[Submission]) -> Iterator[Entry]:
    for one in released:
        yield Entry(f"released/{one.name}.tar", objects.path(one.bundle.sha256))
    for sent in received:
        place = f"{sent.assignment}/{sent.hub_name}/{sent.number}.tar"
        yield Entry(f"submitted/{place}", objects.path(sent.bundle.sha256))
        if sent.feedback is not None:
            yield Entry(f"feedback/{place}", objects.path(sent.feedback.sha256))


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _terms(course: Course) -> bytes:
    terms = {
        "name": course.slug,
        "title": course.title,
        "starts_at": _iso(course.starts_at),
        "ends_at": _iso(course.over_at),
        "zone": course.zone,
        "gpu_ms_each": course.gpu_ms_each,
        "tokens_each": course.tokens_each,
    }
    return json.dumps(terms, ensure_ascii=False, indent=2).encode() + b"\n"


def _people(people: Sequence[CoursePerson]) -> bytes:
    rows = ((one.hub_name, one.display_name, one.role.value, _iso(one.since)) for one in people)
    return _table(("user_name", "display_name", "role", "since"), rows)


def _assignments(released: Sequence[Assignment]) -> bytes:
    rows = (
        (
            one.name,
            _iso(one.released_at),
            _when(one.dates.due_at),
            _when(one.dates.closes_at),
            one.bundle.sha256,
        )
        for one in released
    )
    return _table(("assignment", "released_at", "due_at", "closes_at", "sha256"), rows)


def _submissions(received: Sequence[Submission]) -> bytes:
    rows = (
        (
            one.assignment,
            one.hub_name,
            one.number,
            _iso(one.received_at),
            _when(one.due_at),
            "late" if one.late else "",
            one.id,
            one.bundle.sha256,
        )
        for one in received
    )
    return _table(
        ("assignment", "user_name", "number", "received_at", "due_at", "late", "submission_id", "sha256"), rows
    )


def _grades(grades: Sequence[Grade]) -> bytes:
    rows = (
        (
            one.assignment,
            one.hub_name,
            one.score_milli / 1000,
            one.max_milli / 1000,
            one.late_penalty_milli / 1000,
            _iso(one.graded_at),
        )
        for one in grades
    )
    return _table(("assignment", "user_name", "score", "max", "late_penalty", "graded_at"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """CSV that no spreadsheet takes for formulas."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(head)
    for row in rows:
        writer.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in row])
    return ("\ufeff" + out.getvalue()).encode()


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _when(at: datetime | None) -> str:
    return "" if at is None else _iso(at)
