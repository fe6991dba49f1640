"""Deadlines of sessions that no runner watches (containers): one fsynced file a hold, read by the host's watchdog. Standard library only.

`<hold id>.json` in the watchdog's folder, written before the session may run and at each extension (labels of a container cannot change).
Invariant: what was written survives a power cut; within one boot the deadline is counted on CLOCK_BOOTTIME, so that a changed wall clock
neither cuts a session short nor lets it run on; after a reboot the wall clock counts.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from spawners import processes, records

SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a session ends: SIGTERM at `deadline_ms` (UTC), SIGKILL `grace_s` later. `kind` names who can end `target`."""

    hold_id: str
    kind: str
    target: str
    deadline_ms: int
    grace_s: int = 60
    boot_id: str = ""
    boottime_ms: int = 0  # the same instant on CLOCK_BOOTTIME of that boot

    def left_ms(self) -> int:
        """Milliseconds until the deadline; negative once it has passed."""
        if self.boot_id == processes.boot_id():
            return self.boottime_ms - _boottime_ms()
        return self.deadline_ms - time.time_ns() // 10**6


def write(folder: Path, deadline: Deadline) -> None:
    """Set or move a session's deadline; when this returns it survives a power cut. Raises OSError."""
    now_ms = time.time_ns() // 10**6
    on_boottime = _boottime_ms() + deadline.deadline_ms - now_ms
    content = {**asdict(deadline), "boot_id": processes.boot_id(), "boottime_ms": on_boottime}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    records.write_durably(_path(folder, deadline.hold_id), json.dumps(content).encode())


def read(folder: Path, hold_id: str) -> Deadline | None:
    """A session's deadline; None where there is none. Raises OSError or ValueError for a file that makes no sense."""
    try:
        content = json.loads(_path(folder, hold_id).read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(content, dict) or content.get("hold_id") != hold_id:
        raise ValueError(f"the deadline of {hold_id} makes no sense")
    texts = {name: content.get(name) for name in ("kind", "target", "boot_id")}
    numbers = {name: content.get(name) for name in ("deadline_ms", "grace_s", "boottime_ms")}
    if not all(isinstance(one, str) for one in texts.values()) or not all(type(one) is int for one in numbers.values()):
        raise ValueError(f"the deadline of {hold_id} makes no sense")
    return Deadline(hold_id=hold_id, **texts, **numbers)  # type: ignore[arg-type]


def remove(folder: Path, hold_id: str) -> None:
    """Forget a session that is over."""
    _path(folder, hold_id).unlink(missing_ok=True)


def hold_ids(folder: Path) -> Iterator[str]:
    """Every hold that has a deadline."""
    if folder.is_dir():
        yield from sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def _path(folder: Path, hold_id: str) -> Path:
    return records.session_folder(folder, hold_id).with_suffix(SUFFIX)


def _boottime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 10**6
