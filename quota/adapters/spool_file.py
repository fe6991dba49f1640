"""The spool as a file: `quota.service.ledger_ports.Spool` in a folder of its own, which may lie on another disk than the ledger.

Invariants: a change that was kept survives kill -9 and power loss (fdatasync before the answer); room for all of them is
allocated when the file is made, so that a disk that fills up later does not matter; the file never grows. A record is
`generation, length, CRC-32, JSON`; the generation moves on once nothing is pending, which empties the file by one small write. One
process at a time owns the file (flock).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from quota.domain.errors import Unavailable
from quota.domain.hold import Usage
from quota.domain.ids import HoldId
from quota.service.ledger_ports import SpooledChange, SpooledVerb

log = logging.getLogger("quota.spool")
SIZE_BYTES: Final = 16 * 1024 * 1024
_HEADER: Final = struct.Struct(">8sQ")  # magic, generation
_RECORD: Final = struct.Struct(">QII")  # generation, length, CRC-32
_MAGIC: Final = b"cc-spool"


class Taken(Unavailable):
    """Another process has this spool."""


class SpoolFile:
    """`usage.spool` in `folder`, and `set-aside.jsonl` beside it for what a person must look at. Close it at the end."""

    def __init__(self, folder: Path, size_bytes: int = SIZE_BYTES, lock_within_s: float = 10) -> None:
        """Open or make the file and read what is pending. Raises Unavailable where that cannot be done, Taken if another process has it."""
        self._size_bytes = size_bytes
        self._aside = folder / "set-aside.jsonl"
        self._turn = threading.Lock()
        self._pending: deque[SpooledChange] = deque()
        path = folder / "usage.spool"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"the spool {path} cannot be opened: {error.strerror}") from error
        try:
            _lock(self._fd, path, lock_within_s)
            self._generation, self._end = self._load()
        except BaseException:
            os.close(self._fd)
            raise
        if self._pending:
            log.warning("%d changes wait in the spool", len(self._pending))

    def close(self) -> None:
        """Let go of the file; what is pending stays in it."""
        with self._turn:
            os.close(self._fd)

    async def keep(self, change: SpooledChange) -> None:
        """Write a change down; returns once it is on disk. Raises Unavailable where it is full or the disk takes nothing."""
        await asyncio.to_thread(self._keep, change)

    def pending(self) -> Sequence[SpooledChange]:
        """What is kept and not done, oldest first."""
        with self._turn:
            return list(self._pending)

    async def done(self, change: SpooledChange) -> None:
        """Forget the oldest change; once nothing is pending, the file is empty again."""
        await asyncio.to_thread(self._done, change)

    async def set_aside(self, change: SpooledChange, why: str) -> None:
        """Move the oldest change to `set-aside.jsonl`, one JSON object a line. Raises Unavailable where that cannot be written."""
        await asyncio.to_thread(self._set_aside, change, why)

    def _keep(self, change: SpooledChange) -> None:
        data = json.dumps(_plain(change), separators=(",", ":")).encode()
        with self._turn:
            record = _RECORD.pack(self._generation, len(data), zlib.crc32(data)) + data
            if self._end + len(record) > self._size_bytes:
                raise Unavailable("the spool is full")
            self._write(record, self._end)
            self._end += len(record)
            self._pending.append(change)

    def _done(self, change: SpooledChange) -> None:
        with self._turn:
            assert self._pending[0] == change
            if len(self._pending) == 1:
                self._write(_HEADER.pack(_MAGIC, self._generation + 1), 0)
                self._generation += 1
                self._end = _HEADER.size
            self._pending.popleft()

    def _set_aside(self, change: SpooledChange, why: str) -> None:
        line = json.dumps({**_plain(change), "why": why}).encode() + b"\n"
        try:
            fd = os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise Unavailable(f"{self._aside} cannot be written: {error.strerror}") from error
        self._done(change)

    def _write(self, data: bytes, at: int) -> None:
        try:
            written = os.pwrite(self._fd, data, at)
            os.fdatasync(self._fd)
        except OSError as error:
            raise Unavailable(f"the spool cannot be written: {error.strerror}") from error
        if written != len(data):
            raise Unavailable("the spool cannot be written: no room on its disk")

    def _load(self) -> tuple[int, int]:
        """Read what is pending; the generation and the end of the last whole record."""
        content = os.pread(self._fd, self._size_bytes, 0)
        magic, generation = _HEADER.unpack_from(content) if len(content) >= _HEADER.size else (b"", 0)
        if magic != _MAGIC:
            if any(content):
                raise Unavailable("the spool is no spool, or damaged: move it away after looking at it")
            generation = 1
            self._allocate()
            self._write(_HEADER.pack(_MAGIC, generation), 0)
            return generation, _HEADER.size
        end = _HEADER.size
        while (found := _record_at(content, end, generation)) is not None:
            self._pending.append(_change(json.loads(found)))
            end += _RECORD.size + len(found)
        return generation, end

    def _allocate(self) -> None:
        try:
            os.posix_fallocate(self._fd, 0, self._size_bytes)
            os.fsync(self._fd)
        except OSError as error:
            log.warning(
                "no room is set apart for the spool (%s): it works as long as its disk has some", error.strerror
            )


def _lock(fd: int, path: Path, within_s: float) -> None:
    """Take the file; a process that is just stopping gets a moment to let go."""
    end_s = time.monotonic() + within_s
    while True:  # bounded by the deadline
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end_s:
                raise Taken(f"another process has the spool {path}") from None
            time.sleep(0.1)


def _record_at(content: bytes, at: int, generation: int) -> bytes | None:
    """The record's JSON; None where nothing, something older or something torn stands."""
    if len(content) < at + _RECORD.size:
        return None
    found, length, crc = _RECORD.unpack_from(content, at)
    data = content[at + _RECORD.size : at + _RECORD.size + length]
    return data if found == generation and len(data) == length and zlib.crc32(data) == crc else None


def _plain(change: SpooledChange) -> dict[str, Any]:
    usage = change.usage
    return {
        "verb": change.verb.value,
        "hold_id": change.hold_id,
        "at": change.at.isoformat(),
        "reason": change.reason,
        "usage": None
        if usage is None
        else {
            "source": usage.source,
            "event_id": usage.event_id,
            "from_at": usage.from_at.isoformat(),
            "to_at": usage.to_at.isoformat(),
            "quantity": usage.quantity,
            "amount": usage.amount,
            "estimated": usage.estimated,
            "payload": dict(usage.payload),
        },
    }


def _change(plain: dict[str, Any]) -> SpooledChange:
    hold_id, said = HoldId(plain["hold_id"]), plain["usage"]
    usage = None
    if said is not None:
        usage = Usage(
            said["source"],
            said["event_id"],
            hold_id,
            datetime.fromisoformat(said["from_at"]),
            datetime.fromisoformat(said["to_at"]),
            said["quantity"],
            said["amount"],
            said["estimated"],
            said["payload"],
        )
    at = datetime.fromisoformat(plain["at"])
    return SpooledChange(SpooledVerb(plain["verb"]), hold_id, at, usage, plain["reason"])
