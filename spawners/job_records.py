"""What the portal wrote down about a Slurm session before it was submitted: one file a session in `$COMMONS_DATA/slurm/`.

JupyterHub saves a spawner's state only after `start()` returned, and a job may wait for days before that. So the session is on disk
before its job can exist, and whatever the hub forgets (or its database loses) is read from here: the job is adopted and never
submitted twice. A session whose end was seen leaves `ended/<hold id>.json`: `{"hold_id", "job_id", "reason", "status"}`, without its
credential. Invariant: a file that is there and cannot be read is an outage (OSError), never "no session".
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from spawners import records

FOLDER: Final = "slurm"
ENDED: Final = "ended"


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One session. Instants are UTC milliseconds; `api_token` is the hub's credential of the session's server."""

    hold_id: str
    user: str
    server_name: str
    profile: str
    cluster: str
    login: str
    account: str
    runtime_s: int
    gpus: int
    submitted_at_ms: int
    api_token: str = field(repr=False)
    job_id: int = 0  # 0: submitted, and Slurm's answer is not known
    port: int = 0  # 0: not told yet
    address: str = ""
    deadline_ms: int = 0  # 0: the runtime from the job's true start
    cancelled: bool = False  # its owner does not want it any more: a job that appears late is ended


class RecordBroken(OSError):
    """A session's file makes no sense: nothing is known about the session."""


class JobRecords:
    """The folder."""

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER

    def write(self, record: JobRecord) -> None:
        """Make or replace a session's file; when this returns it survives a power cut."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        records.write_durably(self._path(record.hold_id), json.dumps(asdict(record)).encode())

    def read(self, hold_id: str) -> JobRecord | None:
        """A session's file; None where there is none. Raises OSError where it cannot be read."""
        try:
            return _parse(self._path(hold_id).read_bytes())
        except FileNotFoundError:
            return None

    def forget(self, hold_id: str) -> None:
        """Remove the file of a session that never was."""
        self._path(hold_id).unlink(missing_ok=True)

    def end(self, record: JobRecord, reason: str, status: int) -> None:
        """Keep that a session is over, and why."""
        folder = self._folder / ENDED
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {"hold_id": record.hold_id, "job_id": record.job_id, "reason": reason, "status": status}
        records.write_durably(folder / self._path(record.hold_id).name, json.dumps(content).encode())
        self.forget(record.hold_id)

    def end_reason(self, hold_id: str) -> str | None:
        """Why a session ended; None for one that has not, or never was. Raises OSError."""
        try:
            found = json.loads((self._folder / ENDED / self._path(hold_id).name).read_bytes())
            return str(found["reason"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return ""

    def of(self, user: str, server_name: str) -> list[JobRecord]:
        """Every session of this person and server name that has not ended, the newest first. Raises OSError."""
        found = [record for record in self.all() if (record.user, record.server_name) == (user, server_name)]
        return sorted(found, key=lambda record: -record.submitted_at_ms)

    def all(self) -> Iterator[JobRecord]:
        """Every session. Raises OSError."""
        if not self._folder.exists():
            return
        for path in self._folder.glob("*.json"):
            try:
                yield _parse(path.read_bytes())
            except FileNotFoundError:
                continue  # it ended just now

    def _path(self, hold_id: str) -> Path:
        if not records.is_hold_id(hold_id):
            raise ValueError("a hold's id is 1 to 64 letters, digits, hyphens or underscores")
        return self._folder / f"{hold_id}.json"


def _parse(content: bytes) -> JobRecord:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        values = None
    record = record_from(values) if isinstance(values, dict) else None
    if record is None:
        raise RecordBroken("a Slurm session's file makes no sense")
    return record


def record_from(values: Mapping[str, Any]) -> JobRecord | None:
    """Make a record of what `asdict` wrote; None where that is not it."""
    known = {one.name: one.type for one in fields(JobRecord)}
    if not all(name in known and type(value) is known[name] for name, value in values.items()):
        return None
    try:
        return JobRecord(**values)
    except TypeError:  # something is missing
        return None
