"""A local session's folder (docs/reference/runtime.md): the order, the record and the deadline, read and written. Standard library only.

Invariant: a reader never takes a broken or missing file for an end. `read` gives a whole record or raises, and only a recorded end
or a runner that is provably gone (other boot, or no process with that pid and start) counts as ended.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from spawners import processes

ORDER: Final = "order.json"
ENVIRONMENT: Final = "environment.json"
RECORD: Final = "record.json"
DEADLINE: Final = "deadline"
STOP: Final = "stop.json"
LOG: Final = "log"

_HOLD_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_INSTANT_MS: Final = re.compile(rb"\s*([0-9]{1,15})\s*")  # 15 digits reach beyond the year 30,000


class EndReason(StrEnum):
    """Why a session ended."""

    EXITED = "exited"
    STOPPED = "stopped"
    DEADLINE = "deadline"
    NEVER_STARTED = "never_started"


class RecordError(Exception):
    """The folder does not say what became of the session.

    RecordError
    ├── RecordMissing      there is no such file (yet)
    └── RecordUnreadable   it cannot be read, or is not what the runner writes
    """


class RecordMissing(RecordError):
    """The file does not exist."""


class RecordUnreadable(RecordError):
    """The file exists and makes no sense."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the runner is asked to run. `runtime_ms` sets the deadline where no file `deadline` was written beforehand;
    `kernels_folder` goes with the session."""

    hold_id: str
    user: str
    server_name: str
    profile: str
    argv: tuple[str, ...]
    cwd: str
    port: int
    stop_grace_s: int = 60
    runtime_ms: int | None = None
    kernels_folder: str = ""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What the runner wrote down. Instants are UTC milliseconds since the epoch."""

    hold_id: str
    user: str
    server_name: str
    runner_pid: int
    runner_started: int
    boot_id: str
    child_pid: int
    port: int
    started_at_ms: int
    last_alive_ms: int
    ended_at_ms: int | None = None
    exit_status: int | None = None
    end_reason: EndReason | None = None
    stop_reason: str | None = None  # who or what asked for the stop, in the words of the one who asked

    @property
    def ended(self) -> bool:
        """Whether the runner recorded an end."""
        return self.ended_at_ms is not None


def is_hold_id(text: str) -> bool:
    """Whether this can be a hold's id and a folder's name."""
    return _HOLD_ID.fullmatch(text) is not None


def session_folder(sessions: Path, hold_id: str) -> Path:
    """Name a session's folder; raises ValueError for an id that is no plain name."""
    if not is_hold_id(hold_id):
        raise ValueError("a hold's id is 1 to 64 letters, digits, hyphens or underscores")
    return sessions / hold_id


def read(folder: Path) -> SessionRecord:
    """Read the record; raises RecordMissing or RecordUnreadable."""
    content = _read_object(folder / RECORD)
    try:
        return SessionRecord(
            hold_id=_text(content, "hold_id"),
            user=_text(content, "user"),
            server_name=_text(content, "server_name"),
            runner_pid=_integer(content, "runner_pid"),
            runner_started=_integer(content, "runner_started"),
            boot_id=_text(content, "boot_id"),
            child_pid=_integer(content, "child_pid"),
            port=_integer(content, "port"),
            started_at_ms=_integer(content, "started_at_ms"),
            last_alive_ms=_integer(content, "last_alive_ms"),
            ended_at_ms=_integer_or_none(content, "ended_at_ms"),
            exit_status=_integer_or_none(content, "exit_status"),
            end_reason=None if content.get("end_reason") is None else EndReason(_text(content, "end_reason")),
            stop_reason=None if content.get("stop_reason") is None else _text(content, "stop_reason"),
        )
    except ValueError as error:
        raise RecordUnreadable(f"{folder / RECORD}: {error}") from error


def read_order(folder: Path) -> Order:
    """Read the order; raises RecordMissing or RecordUnreadable."""
    content = _read_object(folder / ORDER)
    argv = content.get("argv")
    try:
        if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
            raise ValueError("argv is no list of words")
        return Order(
            hold_id=_text(content, "hold_id"),
            user=_text(content, "user"),
            server_name=_text(content, "server_name"),
            profile=_text(content, "profile"),
            argv=tuple(argv),
            cwd=_text(content, "cwd"),
            port=_integer(content, "port"),
            stop_grace_s=_integer({"stop_grace_s": 60, **content}, "stop_grace_s"),
            runtime_ms=_integer_or_none(content, "runtime_ms"),
            kernels_folder=_text({"kernels_folder": "", **content}, "kernels_folder"),
        )
    except ValueError as error:
        raise RecordUnreadable(f"{folder / ORDER}: {error}") from error


def read_deadline_ms(folder: Path) -> int | None:
    """Read the deadline; None where there is none or the file makes no sense."""
    try:
        match = _INSTANT_MS.fullmatch((folder / DEADLINE).read_bytes())
    except OSError:
        return None
    return int(match[1]) if match else None


def write_deadline(folder: Path, deadline_ms: int) -> None:
    """Replace the deadline; the runner follows within a second."""
    write_durably(folder / DEADLINE, f"{deadline_ms}\n".encode("ascii"))


def read_stop(folder: Path) -> tuple[str | None, int | None]:
    """Why and with how many seconds of grace to stop; (None, None) where nobody said, or the file makes no sense."""
    try:
        content = _read_object(folder / STOP)
        return _text(content, "reason"), _integer(content, "grace_s")
    except (RecordError, ValueError):
        return None, None


def write_stop(folder: Path, reason: str, grace_s: int) -> None:
    """Tell the runner how to stop; it reads this when it gets SIGTERM."""
    write_durably(folder / STOP, json.dumps({"reason": reason, "grace_s": grace_s}).encode())


def write_record(folder: Path, record: SessionRecord) -> None:
    """Replace the record; when this returns it survives a power cut."""
    write_durably(folder / RECORD, json.dumps(asdict(record)).encode())


def write_order(folder: Path, order: Order) -> None:
    """Write the order."""
    write_durably(folder / ORDER, json.dumps(asdict(order)).encode())


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file atomically and fsync it and its folder; readers see the old or the new content, never a part."""
    draft = path.with_name(f"{path.name}.tmp")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600 for a reader that starts afterwards; a power cut may lose it, and ends its reader, too."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)


def is_alive(record: SessionRecord) -> bool:
    """Whether the runner that writes this record still runs; a zombie does not."""
    return record.boot_id == processes.boot_id() and processes.is_running(record.runner_pid, record.runner_started)


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RecordMissing(str(path)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RecordUnreadable(f"{path}: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise RecordUnreadable(f"{path}: is no JSON object")
    return content


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _integer(content: Mapping[str, Any], name: str) -> int:
    value = content.get(name)
    if type(value) is not int:  # True is an int to isinstance
        raise ValueError(f"{name} is no integer")
    return value


def _integer_or_none(content: Mapping[str, Any], name: str) -> int | None:
    return None if content.get(name) is None else _integer(content, name)
