"""Courses' folders on the portal's machine, where formgraders work, read for taking them away: `quota.service.exchange_ports.CourseFiles`.

Invariants: plain files below the course's own folder alone, opened one component at a time without following a link; the gradebook is a copy
that SQLite makes (sqlite.org/backup.html), so that it is whole while somebody grades, also after a kill; no file is held in memory.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from quota.domain.errors import Unavailable
from quota.service.exchange_ports import CourseFile

_SOURCES: Final = "source"
_CONFIG: Final = "nbgrader_config.py"
_GRADEBOOK: Final = "gradebook.db"
_CHUNK_BYTES: Final = 256 * 1024
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class CourseFolders:
    """`folder` has one of each course, by its name; `locked_s`: how long somebody may write a gradebook before this gives up."""

    def __init__(self, folder: Path, *, locked_s: float = 30) -> None:
        self._folder = folder
        self._locked_s = locked_s

    def files(self, slug: str) -> Iterator[CourseFile]:
        """Sources, configuration and a copy of the gradebook. Raises Unavailable."""
        place = self._folder / slug
        with _disk():
            try:
                course = os.open(place, _FOLDER)
            except FileNotFoundError:
                return iter(())
            try:
                return _all(place, _copy_of_gradebook(course, self._locked_s))
            finally:
                os.close(course)


def _all(place: Path, gradebook: BinaryIO | None) -> Iterator[CourseFile]:
    with _disk():
        if gradebook is not None:
            with gradebook:
                yield _opened(_GRADEBOOK, gradebook)
        course = os.open(place, _FOLDER)
        try:
            yield from _plain("", [_CONFIG], course)
            for path, folders, names, folder in os.fwalk(_SOURCES, onerror=_unreadable, dir_fd=course):
                folders.sort()
                yield from _plain(f"{path}/", sorted(names), folder)
        finally:
            os.close(course)


def _plain(path: str, names: Sequence[str], folder: int) -> Iterator[CourseFile]:
    """Those of `names` that are plain files: a link, a pipe or a device is none."""
    for name in names:
        if not _is_plain(name, folder):
            continue
        try:
            file = os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb")
        except FileNotFoundError:  # removed meanwhile
            continue
        with file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                yield _opened(path + name, file)


def _is_plain(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _opened(name: str, file: BinaryIO) -> CourseFile:
    found = os.fstat(file.fileno())
    return CourseFile(name, found.st_size, int(found.st_mtime), _chunks(name, file, found.st_size))


def _chunks(name: str, file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """As many bytes as were there when it was opened, also of a file that grows."""
    left = size_bytes
    while left:
        with _disk():
            chunk = file.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise Unavailable(f"{name} became shorter while it was read", retry_after_s=10)
        left -= len(chunk)
        yield chunk


def _copy_of_gradebook(course: int, locked_s: float) -> BinaryIO | None:
    """A whole copy in a file without a name; None where there is none. What a killed grader left half written is rolled back first."""
    if not _is_plain(_GRADEBOOK, course):
        return None
    with tempfile.TemporaryDirectory(prefix="gradebook-") as place:
        copy = Path(place) / _GRADEBOOK
        source = f"file:/proc/self/fd/{course}/{_GRADEBOOK}?mode=rw"
        with (
            closing(sqlite3.connect(source, uri=True, timeout=locked_s, isolation_level=None)) as original,
            closing(sqlite3.connect(copy)) as target,
        ):
            original.execute("BEGIN")  # backup by itself would wait for a lock without end; a look has a deadline
            original.execute("SELECT count(*) FROM sqlite_master").fetchone()
            original.backup(target)
        return copy.open("rb")


def _unreadable(error: OSError) -> None:
    """Of a folder that was removed meanwhile, or of a course that has no sources yet, nothing is missing."""
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"the course's folder cannot be read: {error}", retry_after_s=10) from error
