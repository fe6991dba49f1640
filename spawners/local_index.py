"""Which local sessions may still run, by person: so that a start does not read every session folder ever made.

`running/<home name>/<hold id>` is an empty file beside `sessions/`. Invariants: it is made after the session's folder and before
its runner, so that a session that runs is always listed; it is removed only where the session is provably over. A data folder
from before this index is indexed once.
"""

import contextlib
import os
from pathlib import Path
from typing import Final
from urllib.parse import quote

from spawners import processes, records
from spawners.delegate import BackendUnreachable
from spawners.records import RecordError, RecordMissing, RecordUnreadable, SessionRecord
from spawners.session_traits import HOLD_VARIABLE, RunningSession

FOLDER: Final = "running"


def home_name(user: str) -> str:
    """Name a person's home folder: to the hub a name is any text, as a folder it may neither climb nor hide."""
    quoted = quote(user, safe="@+=")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


class RunningIndex:
    """The index of one data folder."""

    def __init__(self, data: Path) -> None:
        self._sessions = data / "sessions"
        self._root = data / FOLDER

    def add(self, user: str, hold_id: str) -> None:
        """List a session whose folder was just made."""
        self._made()
        folder = self._root / home_name(user)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / hold_id).touch(mode=0o600)

    def find_running(self, user: str, server_name: str) -> RunningSession | None:
        """The newest session of (user, server name) whose runner lives; what is over leaves the index.

        Raises OSError or BackendUnreachable where a session cannot be judged.
        """
        self._made()
        newest: SessionRecord | None = None
        for hold_id in self._listed(user):
            record = self._alive(user, hold_id)
            if record is None or (record.user, record.server_name) != (user, server_name):
                continue
            if newest is None or record.started_at_ms > newest.started_at_ms:
                newest = record
        if newest is None:
            return None
        profile = ""
        with contextlib.suppress(RecordError):
            profile = records.read_order(records.session_folder(self._sessions, newest.hold_id)).profile
        return RunningSession(newest.hold_id, profile)

    def _listed(self, user: str) -> list[str]:
        try:
            return os.listdir(self._root / home_name(user))
        except FileNotFoundError:
            return []

    def _alive(self, user: str, hold_id: str) -> SessionRecord | None:
        """The record of a session that lives; None where it is over or has no process yet."""
        folder = self._sessions / hold_id
        try:
            record = records.read(folder)
        except RecordMissing:
            if self._sessions.is_dir() and not folder.exists():
                self._drop(user, hold_id)
            return None
        except RecordUnreadable as error:
            if processes.any_marked(HOLD_VARIABLE, hold_id):
                raise BackendUnreachable(str(error)) from error
            return None
        if record.ended or not records.is_alive(record):
            self._drop(user, hold_id)
            return None
        return record

    def _drop(self, user: str, hold_id: str) -> None:
        (self._root / home_name(user) / hold_id).unlink(missing_ok=True)

    def _made(self) -> None:
        """Index what an older portal left, once. Raises OSError where that cannot be read: it may run."""
        if self._root.is_dir():
            return
        draft = self._root.with_name(f"{FOLDER}.tmp")
        draft.mkdir(mode=0o700, exist_ok=True)
        try:
            folders = list(self._sessions.iterdir())
        except FileNotFoundError:
            folders = []
        for folder in folders:
            with contextlib.suppress(RecordError):
                user = draft / home_name(records.read_order(folder).user)
                user.mkdir(mode=0o700, exist_ok=True)
                (user / folder.name).touch(mode=0o600)
        try:
            draft.rename(self._root)
        except OSError:
            if not self._root.is_dir():  # else another process was faster
                raise
