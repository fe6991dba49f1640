"""Bundles: an uncompressed tar of plain files. What comes from the portal is checked again before a byte is written.

The same files make the same bytes, so that a repeated upload is the same upload.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import unicodedata
from pathlib import Path


class BundleError(ValueError):
    """A bundle that cannot be made, or must not be unpacked."""


def pack(folder: Path, pattern: str = "*") -> bytes:
    """The files below `folder` whose names fit, in the order of their paths."""
    made = io.BytesIO()
    paths = sorted(path for path in folder.rglob(pattern) if path.is_file() and not path.is_symlink())
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            name = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    if not paths:
        raise BundleError(f"there is nothing in {folder}")
    return made.getvalue()


def unpack(content: bytes, folder: Path, *, only_missing: bool = False) -> None:
    """Write a bundle's files below `folder`: all of them or none. `only_missing` leaves what is there as it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".commons-", dir=folder.parent) as fresh:
        _write(content, Path(fresh))
        for source in sorted(path for path in Path(fresh).rglob("*") if path.is_file()):
            target = folder / source.relative_to(fresh)
            if only_missing and target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target)


def replace(content: bytes, folder: Path, **more: str) -> None:
    """Make `folder` hold a bundle's files and the texts of `more` (a file's name with `__` for `.`), and nothing else."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".commons-", dir=folder.parent) as place:
        fresh = Path(place) / "fresh"
        fresh.mkdir()
        _write(content, fresh)
        for name, text in more.items():
            (fresh / name.replace("__", ".")).write_text(text, encoding="utf-8")
        if folder.exists():
            os.rename(folder, Path(place) / "old")
        os.rename(fresh, folder)


def _write(content: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            parts = member.name.split("/")
            plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None
            if not plain or "\\" in member.name or any(part in ("", ".", "..") for part in parts):
                raise BundleError("the portal sent something that is no plain file")
            source = archive.extractfile(member)
            assert source is not None
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())
