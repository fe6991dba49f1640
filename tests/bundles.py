"""Bundles for tests, good and hostile."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping


def tar(files: Mapping[str, bytes], **changes: object) -> bytes:
    """A plain tar of these files; `changes` are set on every member, e.g. type=tarfile.SYMTYPE."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            for name, value in changes.items():
                setattr(member, name, value)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
