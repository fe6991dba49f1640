"""A course's data to take away, for its instructors, also after its end: one tar of tables, every bundle, sources and gradebook.

Invariants: an instructor gets it and nobody else; tables and bundles are what one transaction saw, and bundles never change; it is written
as it is read, so that its size costs no memory; what cannot be read breaks it off instead of being left out.
"""

from __future__ import annotations

import asyncio
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
from quota.domain.exchange import Grade, Release, Submission
from quota.service.callers import Caller
from quota.service.courses import taught_by
from quota.service.exchange import objects_of
from quota.service.exchange_ports import CourseFile, Objects
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
    """A course's archive, not yet written; `chunks` can be had once."""

    slug: str
    made_at: datetime
    entries: Sequence[Entry]
    files: Iterator[CourseFile]

    def chunks(self) -> Iterator[bytes]:
        """The tar, piece by piece. Raises Unavailable."""
        made_s = int(self.made_at.timestamp())
        for entry in self.entries:
            content = entry.content
            if isinstance(content, bytes):
                yield from self._member(CourseFile(entry.name, len(content), made_s, iter((content,))))
            else:
                yield from self._member(CourseFile(entry.name, content.stat().st_size, made_s, _read(content)))
        for file in self.files:
            yield from self._member(file)
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _member(self, file: CourseFile) -> Iterator[bytes]:
        info = tarfile.TarInfo(f"{self.slug}/{file.name}")
        info.size, info.mtime, info.mode = file.size_bytes, file.modified_s, 0o600
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from file.chunks
        yield bytes(-file.size_bytes % tarfile.BLOCKSIZE)


async def archive(services: Services, caller: Caller, slug: str) -> Archive:
    """Everything that the portal keeps of a course, its folder included. Raises Unknown('course'), Forbidden, Unavailable."""
    objects, at = objects_of(services), services.clock.now()

    def work(tx: Transaction) -> Sequence[Entry]:
        course = taught_by(tx, caller, slug)
        people = tx.courses.people(course.project_id)
        released = tx.exchange.releases(course.project_id)
        received = tx.exchange.submissions(course.project_id, assignment=None, person_id=None, newest_only=False)
        grades = tx.exchange.grades(course.project_id, None)
        tables = [
            Entry("course.json", _terms(course)),
            Entry("people.csv", _people(people)),
            Entry("assignments.csv", _assignments(released)),
            Entry("submissions.csv", _submissions(received)),
            Entry("grades.csv", _grades(grades)),
        ]
        return [*tables, *_bundles(objects, released, received)]

    entries, folders = await services.store.read(work), services.course_files
    files = iter(()) if folders is None else await asyncio.to_thread(folders.files, slug)
    return Archive(slug, at, entries, files)


def _bundles(objects: Objects, released: Sequence[Release], received: Sequence[Submission]) -> Iterator[Entry]:
    for one in released:
        yield Entry(f"released/{one.name}/{one.number}.tar", objects.path(one.bundle.sha256))
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


def _assignments(released: Sequence[Release]) -> bytes:
    rows = (
        (
            one.name,
            one.number,
            _iso(one.released_at),
            _when(one.dates.due_at),
            _when(one.dates.closes_at),
            _when(one.withdrawn_at),
            one.bundle.sha256,
        )
        for one in released
    )
    return _table(("assignment", "number", "released_at", "due_at", "closes_at", "withdrawn_at", "sha256"), rows)


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
