"""What the host keeps of a container's session beside its labels: deadline, pauses, why it was stopped. One fsynced file a session.

Invariant: a file is replaced whole and is on disk before anything acts on it; a file that cannot be read is an error and never
"no deadline". Labels cannot change, so an extension is written here. Times are UTC milliseconds.
"""

import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from spawners import records

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class SessionFileUnreadable(Exception):
    """A file is there and makes no sense."""


@dataclass(frozen=True, slots=True)
class SessionFile:
    """One session. `pauses` are [from, to] pairs, `to` None while it is paused; `ready`: its notebook server
    has answered, so that it counts as started."""

    hold_id: str
    deadline_ms: int | None = None
    end_reason: str = ""
    pauses: tuple[tuple[int, int | None], ...] = field(default_factory=tuple)
    ready: bool = False

    def paused_ms(self, now_ms: int) -> int:
        """How long it was paused until now."""
        return sum((now_ms if to is None else to) - since for since, to in self.pauses)

    @property
    def is_paused(self) -> bool:
        """Whether the last pause has no end."""
        return bool(self.pauses) and self.pauses[-1][1] is None

    def due_ms(self, now_ms: int) -> int | None:
        """When it has to stop, pauses added; None while it has no deadline or is paused."""
        if self.deadline_ms is None or self.is_paused:
            return None
        return self.deadline_ms + self.paused_ms(now_ms)

    def paused(self, at_ms: int) -> "SessionFile":
        """Paused at this instant; told twice, it is one pause."""
        if self.is_paused or any(since == at_ms for since, _ in self.pauses):
            return self
        return replace(self, pauses=(*self.pauses, (at_ms, None)))

    def resumed(self, at_ms: int) -> "SessionFile":
        """Going on at this instant; without a pause nothing changes."""
        if not self.is_paused:
            return self
        return replace(self, pauses=(*self.pauses[:-1], (self.pauses[-1][0], max(at_ms, self.pauses[-1][0]))))


class SessionFiles:
    """The folder of files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self, hold_id: str) -> SessionFile:
        """The session's file; a fresh one where there is none. Raises SessionFileUnreadable."""
        try:
            content = json.loads(self._path(hold_id).read_bytes())
            return _checked(hold_id, content)
        except FileNotFoundError:
            return SessionFile(hold_id)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SessionFileUnreadable(f"{self._path(hold_id)}: {type(error).__name__}: {error}") from error

    def write(self, file: SessionFile) -> None:
        """Replace the session's file."""
        records.write_durably(self._path(file.hold_id), json.dumps(asdict(file)).encode())

    def remove(self, hold_id: str) -> None:
        """Forget a session whose container is gone."""
        self._path(hold_id).unlink(missing_ok=True)

    def all_ids(self) -> list[str]:
        """Every session that has a file."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def _path(self, hold_id: str) -> Path:
        if not _ID.fullmatch(hold_id):
            raise ValueError("a hold's id is 1 to 64 letters, digits, hyphens or underscores")
        return self._folder / f"{hold_id}.json"


def _checked(hold_id: str, content: dict[str, Any]) -> SessionFile:
    deadline = content["deadline_ms"]
    if content["hold_id"] != hold_id or not (deadline is None or type(deadline) is int):
        raise ValueError("another session, or no instant")
    pauses = tuple((int(since), None if to is None else int(to)) for since, to in content["pauses"])
    return SessionFile(hold_id, deadline, str(content["end_reason"]), pauses, content.get("ready") is True)
