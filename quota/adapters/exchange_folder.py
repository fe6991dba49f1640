"""Bundles on disk, content-addressed: `quota.service.exchange_ports.Objects` in the data folder's `exchange/`.

Invariants: what is answered for was fsynced, then linked under its name, then its folder fsynced, so that neither kill -9 nor a power
cut loses it; nobody comes to bytes by naming their hash, only by sending them; two parts of one upload are never written at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from quota.domain.bundle import read_manifest
from quota.domain.errors import Invalid, Unavailable
from quota.domain.exchange import Stored
from quota.service.exchange_ports import TooLarge

_WRITE_BYTES: Final = 1024 * 1024


class ExchangeFolder:
    """`uploads/` for what is on its way, `objects/` for what is stored."""

    def __init__(self, folder: Path) -> None:
        self._uploads, self._objects = folder / "uploads", folder / "objects"
        for one in (folder, self._uploads, self._objects):
            one.mkdir(mode=0o700, exist_ok=True, parents=True)
        self._turns: dict[str, asyncio.Lock] = {}

    async def received(self, upload_id: str) -> int:
        """How many bytes of an upload are on disk."""
        return await asyncio.to_thread(_size, self._uploads / upload_id)

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes], limit: int) -> int | None:
        """Write on from `offset`; None where the upload goes on elsewhere. Raises TooLarge, Unavailable."""
        path = self._uploads / upload_id
        async with self._turns.setdefault(upload_id, asyncio.Lock()):
            if offset != await asyncio.to_thread(_size, path):
                return None
            with _disk():
                descriptor = await asyncio.to_thread(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                return await self._written(descriptor, offset, chunks, limit)
            finally:
                # What came is kept although the sender may have gone: the next part begins after it.
                with suppress(OSError):
                    await asyncio.to_thread(os.fsync, descriptor)
                os.close(descriptor)

    async def keep(self, upload_id: str, sha256: str) -> Stored:
        """Put a complete upload under its hash. Raises Invalid where it is no bundle, or not the one announced."""
        async with self._turns.setdefault(upload_id, asyncio.Lock()):
            return await asyncio.to_thread(self._keep, self._uploads / upload_id, sha256)

    async def drop(self, upload_id: str) -> None:
        """Forget an upload's bytes."""
        self._turns.pop(upload_id, None)
        with suppress(OSError):
            await asyncio.to_thread(os.unlink, self._uploads / upload_id)

    def path(self, sha256: str) -> Path:
        """Where the bytes of a stored bundle are."""
        return self._objects / sha256[:2] / sha256

    async def _written(self, descriptor: int, size: int, chunks: AsyncIterator[bytes], limit: int) -> int:
        waiting = bytearray()
        async for chunk in chunks:
            waiting += chunk
            if size + len(waiting) > limit:
                raise TooLarge(limit_bytes=limit)
            if len(waiting) >= _WRITE_BYTES:
                size += await _write(descriptor, bytes(waiting))
                waiting.clear()
        if waiting:
            size += await _write(descriptor, bytes(waiting))
        with _disk():
            await asyncio.to_thread(os.fsync, descriptor)
        return size

    def _keep(self, upload: Path, sha256: str) -> Stored:
        target = self.path(sha256)
        with _disk():
            try:
                with upload.open("rb") as source:
                    if hashlib.file_digest(source, "sha256").hexdigest() != sha256:
                        raise Invalid([("sha256", "other_bytes")])
                    source.seek(0)
                    manifest = read_manifest(source)
                    os.fsync(source.fileno())
            except Invalid:
                upload.unlink(missing_ok=True)
                raise
            target.parent.mkdir(mode=0o700, exist_ok=True)
            with suppress(FileExistsError):
                os.link(upload, target)
            for folder in (target.parent, self._objects):
                _sync(folder)
            return Stored(sha256, target.stat().st_size, manifest.notebooks)


async def _write(descriptor: int, content: bytes) -> int:
    def whole() -> int:
        done = 0
        while done < len(content):  # bounded: each write takes something or raises
            done += os.write(descriptor, content[done:])
        return done

    with _disk():
        return await asyncio.to_thread(whole)


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the exchange's folder: {error.strerror}", retry_after_s=10) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
