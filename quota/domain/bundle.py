"""What is exchanged in a course is a bundle: an uncompressed tar of regular files, nothing else.

Invariants: an uncompressed archive is as large as what is in it, so that no size lies; a path is relative, has no part that leads
elsewhere, and stands once; links, devices, sparse files and whatever else a tar may carry are refused. Whoever unpacks checks again.
Source: POSIX.1-2001 pax interchange format.
"""

from __future__ import annotations

import re
import tarfile
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Final

from quota.domain.errors import Invalid

FILES_MAX: Final = 2000
PATH_BYTES_MAX: Final = 400
PART_BYTES_MAX: Final = 150
DEPTH_MAX: Final = 12
_NOTEBOOK: Final = ".ipynb"
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f\\\\\ud800-\udfff]")
_PLAIN: Final = (tarfile.REGTYPE, tarfile.AREGTYPE)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds: paths with their sizes, in the archive's order."""

    files: tuple[tuple[str, int], ...]

    @property
    def notebooks(self) -> tuple[str, ...]:
        """Names of the notebooks at the top, without `.ipynb`: what nbgrader calls notebook ids."""
        names = (path.removesuffix(_NOTEBOOK) for path, _ in self.files if path.endswith(_NOTEBOOK) and "/" not in path)
        return tuple(sorted(names))


def read_manifest(source: IO[bytes]) -> Manifest:
    """The manifest of a bundle that may be hostile. Raises Invalid; reads headers only."""
    files: list[tuple[str, int]] = []
    try:
        end = _checked_end(source)
        with tarfile.open(fileobj=source, mode="r:") as archive:
            for member in archive:
                if member.type not in _PLAIN or member.sparse is not None or _is_sparse(member.pax_headers):
                    raise Invalid([("bundle", "not_a_plain_file")])
                if not 0 <= member.offset_data + member.size <= end:
                    raise Invalid([("bundle", "not_a_bundle")])
                files.append((member.name, member.size))
                if len(files) > FILES_MAX:
                    raise Invalid([("bundle", "too_many_files")])
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError):
        raise Invalid([("bundle", "not_a_bundle")]) from None
    if not files:
        raise Invalid([("bundle", "required")])
    _check_paths([path for path, _ in files])
    return Manifest(tuple(files))


def is_path(path: str) -> bool:
    """Whether `path` stays inside the folder that it is unpacked into, on every system."""
    parts = path.split("/")
    return (
        0 < len(path.encode("utf-8", "replace")) <= PATH_BYTES_MAX
        and len(parts) <= DEPTH_MAX
        and _FORBIDDEN.search(path) is None
        and unicodedata.normalize("NFC", path) == path
        and all(part not in ("", ".", "..") and len(part.encode()) <= PART_BYTES_MAX for part in parts)
    )


def _checked_end(source: IO[bytes]) -> int:
    """Where the archive ends; what was cut off has no two empty blocks there."""
    end = source.seek(0, 2)
    source.seek(max(0, end - 2 * tarfile.BLOCKSIZE))
    if end % tarfile.BLOCKSIZE or source.read() != bytes(2 * tarfile.BLOCKSIZE):
        raise Invalid([("bundle", "not_a_bundle")])
    source.seek(0)
    return end


def _is_sparse(headers: Mapping[str, str]) -> bool:
    return any(name.startswith("GNU.sparse") for name in headers)


def _check_paths(paths: list[str]) -> None:
    if not all(is_path(path) for path in paths):
        raise Invalid([("bundle", "path_leads_elsewhere")])
    known = set(paths)
    folders = {path.rsplit("/", depth)[0] for path in paths for depth in range(1, path.count("/") + 1)}
    if len(known) != len(paths) or known & folders:
        raise Invalid([("bundle", "path_stands_twice")])
