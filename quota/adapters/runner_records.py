"""Evidence of local sessions: the folders that their runners write (docs/reference/runtime.md).

Invariant: a missing folder is a positive "nothing"; a folder that cannot be read, or says what cannot be, is Unavailable and
never an end. A record without an end counts as ended at its last sign of life only where its runner is provably gone: another
boot, or no process with that pid and start.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from quota.domain.errors import Unavailable
from quota.domain.ids import HoldId, is_id
from quota.domain.session import EndReason, Evidence, Seen, Unreachable
from quota.service.session_ports import Asked

SETTLED: Final = "settled"  # an empty file in a session's folder: the ledger has charged and closed it
RETENTION_S: Final = 7 * 86_400.0  # how long a settled session's folder, its log among it, is kept
_PRUNE_EVERY_S: Final = 3600.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT_MS_MAX: Final = 253_402_300_799_999  # the last millisecond of the year 9999
_DEAD: Final = frozenset("ZX")  # /proc/PID/stat's states of a process that runs no more


log = logging.getLogger("quota.evidence")


class RunnerRecords:
    """Reads `sessions/<hold id>/record.json`; `proc` is /proc but in tests."""

    def __init__(self, sessions: Path, proc: Path = Path("/proc"), retention_s: float = RETENTION_S) -> None:
        self._sessions = sessions
        self._proc = proc
        self._retention_s = retention_s
        self._prune_at = 0.0

    async def read(self, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        """What the sessions' runners wrote down; a folder that makes no sense is Unreachable."""
        return await asyncio.to_thread(lambda: {one.hold_id: self._seen(one.hold_id) for one in asked})

    async def settled(self, hold_ids: Sequence[HoldId]) -> None:
        """Mark these folders, and remove those that were marked longer ago than the retention; looked for once an hour."""
        await asyncio.to_thread(self._settled, hold_ids)

    def _settled(self, hold_ids: Sequence[HoldId]) -> None:
        try:
            for hold_id in hold_ids:
                if is_id(hold_id) and (self._sessions / hold_id).is_dir():
                    (self._sessions / hold_id / SETTLED).touch(mode=0o600)
            if time.monotonic() >= self._prune_at:
                self._prune_at = time.monotonic() + _PRUNE_EVERY_S
                self._prune()
        except OSError as error:  # a full disk or a folder that went: the next one is marked or removed again
            log.warning("settled sessions could not be tidied: %s", error)

    def _prune(self) -> None:
        """Only what was settled, long ago: a folder without the mark is evidence that somebody may still need."""
        before = time.time() - self._retention_s
        for mark in self._sessions.glob(f"*/{SETTLED}"):
            if mark.stat().st_mtime < before:
                shutil.rmtree(mark.parent, ignore_errors=True)

    def _seen(self, hold_id: HoldId) -> Seen:
        if not is_id(hold_id):
            return None
        try:
            return self._read(hold_id)
        except Unavailable as error:
            return Unreachable(str(error))

    def _read(self, hold_id: HoldId) -> Evidence | None:
        folder = self._sessions / hold_id
        record = self._record(folder)
        if record is None:
            if not self._sessions.is_dir():  # an unmounted disk proves nothing
                raise Unavailable(f"{self._sessions} is not there")
            return Evidence(hold_id, None, None, None) if folder.is_dir() else None
        if record.get("ended_at_ms") is None and not self._runner_lives(record):
            # It may have written its end and gone between the two looks.
            record = self._record(folder) or record
            if record.get("ended_at_ms") is None:
                return _lost(hold_id, record)
        return _evidence(hold_id, record)

    def _record(self, folder: Path) -> dict[str, object] | None:
        path = folder / "record.json"
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise Unavailable(f"{path} cannot be read: {type(error).__name__}") from error
        if not isinstance(record, dict) or record.get("hold_id") != folder.name:
            raise Unavailable(f"{path} is no record of this session")
        return record

    def _runner_lives(self, record: dict[str, object]) -> bool:
        pid, started, boot_id = record.get("runner_pid"), record.get("runner_started"), record.get("boot_id")
        if type(pid) is not int or type(started) is not int or not isinstance(boot_id, str):
            raise Unavailable("the record does not name its runner")
        try:
            # A machine that does not tell its boot proves nothing: there, FileNotFoundError is an outage as any other.
            if (self._proc / "sys/kernel/random/boot_id").read_text().strip() != boot_id.strip():
                return False
            stat = self._stat(pid)
        except (OSError, ValueError) as error:
            raise Unavailable(f"/proc cannot be read: {type(error).__name__}") from error
        if stat is None:
            return False
        fields = stat.rpartition(")")[2].split()  # the command may hold spaces and brackets: count from its end
        return len(fields) > 19 and fields[0] not in _DEAD and fields[19] == str(started)

    def _stat(self, pid: int) -> str | None:
        """The process's line in /proc, None where there is no such process."""
        try:
            return (self._proc / str(pid) / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None


def _evidence(hold_id: HoldId, record: dict[str, object]) -> Evidence:
    reason = _reason(record.get("end_reason"))
    if reason is EndReason.NEVER_STARTED:
        return Evidence(hold_id, None, None, None, reason)
    started_at, alive_at = _instant(record, "started_at_ms"), _instant(record, "last_alive_ms")
    if alive_at < started_at:
        raise Unavailable("the record's last sign of life is before its start")
    if record.get("ended_at_ms") is None:
        return Evidence(hold_id, started_at, alive_at, None)
    # Proof of life after a recorded end would be a contradiction; what was proved counts.
    ended_at = max(_instant(record, "ended_at_ms"), alive_at)
    return Evidence(
        hold_id, started_at, alive_at, ended_at, reason or EndReason.EXITED, note=_text(record, "stop_reason")
    )


def _lost(hold_id: HoldId, record: dict[str, object]) -> Evidence:
    seen = _evidence(hold_id, record)
    return Evidence(hold_id, seen.started_at, seen.alive_at, seen.alive_at, EndReason.LOST)


def _text(record: dict[str, object], name: str) -> str:
    value = record.get(name)
    return value[:200] if isinstance(value, str) else ""


def _reason(value: object) -> EndReason | None:
    if value is None:
        return None
    try:
        return EndReason(str(value))
    except ValueError as error:
        raise Unavailable("the record gives an unknown reason for its end") from error


def _instant(record: dict[str, object], name: str) -> datetime:
    value = record.get(name)
    if type(value) is not int or not 0 <= value <= _INSTANT_MS_MAX:
        raise Unavailable(f"the record's {name} is no instant")
    return _EPOCH + timedelta(milliseconds=value)
