"""What the exchange needs: bytes on disk under their own hash, and rows that say whose they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from quota.domain.errors import QuotaError
from quota.domain.exchange import (
    Assignment,
    Dates,
    Grade,
    Release,
    Stored,
    Submission,
    UploadKind,
    UploadOrder,
)
from quota.domain.ids import PersonId, ProjectId


class TooLarge(QuotaError):
    """More bytes than were announced, or than the site takes."""

    code = "too_large"


class Objects(Protocol):
    """Bytes, content-addressed. What is answered for is on disk: fsynced, then linked under its name.

    All raise Unavailable where the disk takes nothing.
    """

    async def received(self, upload_id: str) -> int:
        """How many bytes of an upload are on disk; 0 for one that never began."""

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes], limit: int) -> int | None:
        """Write on from `offset`, at most up to `limit` bytes altogether; how many are on disk then.

        None where it goes on elsewhere than at `offset`. Raises TooLarge.
        """

    async def keep(self, upload_id: str, sha256: str) -> Stored:
        """Put a complete upload under its hash, after a look into it; the upload itself stays until `drop`.

        Raises Invalid where it is no bundle, or not the one announced: it begins again at 0.
        """

    async def drop(self, upload_id: str) -> None:
        """Forget an upload's bytes; a hint."""

    def path(self, sha256: str) -> Path:
        """Where the bytes of a stored bundle are."""


@dataclass(frozen=True, slots=True)
class CourseFile:
    """A file of a course's folder as it was opened: `chunks` are `size_bytes` altogether, or raise Unavailable."""

    name: str
    size_bytes: int
    modified_s: int
    chunks: Iterator[bytes]


class CourseFiles(Protocol):
    """What those who teach keep in a course's folder on the portal's machine, and in no row."""

    def files(self, slug: str) -> Iterator[CourseFile]:
        """Sources, configuration, and the gradebook as it is when this returns; each has to be read before the next.

        Plain files below the folder alone, whatever links lie there; nothing where no folder is. Raises Unavailable where it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class UploadRow:
    """An upload as announced; `done_at`: its bundle is stored and its row written."""

    order: UploadOrder
    project_id: ProjectId
    person_id: PersonId
    made_at: datetime
    done_at: datetime | None


class ExchangeRows(Protocol):
    def upload(self, upload_id: str) -> UploadRow | None: ...
    def add_upload(self, row: UploadRow) -> None: ...
    def finish_upload(self, upload_id: str, at: datetime) -> None: ...
    def forget_uploads(self, person_id: PersonId, before: datetime) -> Sequence[str]:
        """Remove this person's unfinished uploads that are older; their ids."""

    def open_uploads(self, person_id: PersonId) -> int: ...
    def add_release(self, row: UploadRow, bundle: Stored, at: datetime) -> None:
        """Write a release down, and make it what its name stands for, with its dates."""

    def assignment(self, project_id: ProjectId, name: str) -> Assignment | None: ...
    def assignments(self, project_id: ProjectId) -> Sequence[Assignment]:
        """What is released now, by name."""

    def releases(self, project_id: ProjectId) -> Sequence[Release]:
        """All that was ever released, withdrawn or replaced since, by name and number."""

    def set_dates(self, project_id: ProjectId, name: str, dates: Dates) -> None: ...
    def withdraw(self, project_id: ProjectId, name: str, at: datetime) -> bool:
        """Take an assignment back: nobody fetches or submits it any more; False where it is not out."""

    def add_submission(self, row: UploadRow, bundle: Stored, at: datetime, due_at: datetime | None) -> None: ...
    def submission(self, submission_id: str) -> Submission | None: ...
    def submissions(
        self, project_id: ProjectId, *, assignment: str | None, person_id: PersonId | None, newest_only: bool
    ) -> Sequence[Submission]:
        """By assignment, user name and number; `newest_only`: each person's last one."""

    def add_feedback(self, row: UploadRow, bundle: Stored, at: datetime) -> None: ...
    def kept(self, kind: UploadKind, upload_id: str) -> tuple[Stored, datetime] | None:
        """What a finished upload of this kind became, and when."""

    def put_grades(self, project_id: ProjectId, grades: Sequence[Grade], by: PersonId | None) -> None: ...
    def grades(self, project_id: ProjectId, person_id: PersonId | None) -> Sequence[Grade]:
        """By assignment and user name."""
