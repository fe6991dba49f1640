"""Ends containers for the host's watchdog (`spawners.watchdog.Ender`), over the engine's own socket: the helper may be away.

Invariant: an engine that does not answer, and a paused container, is an OSError: tried again, nothing concluded.
"""

import http.client
import json
import socket
from dataclasses import replace
from typing import Any, Final

from spawners.session_files import SessionFiles, SessionFileUnreadable

DEADLINE_S: Final = 20


class ContainerEnder:
    """Targets are container names; why a container was ended is written to its session's file first."""

    def __init__(self, engine: str, files: SessionFiles) -> None:
        self._engine = engine
        self._files = files

    def terminate(self, target: str) -> None:
        """SIGTERM to the session's first program; a second one changes nothing."""
        self._require_unpaused(target)
        self._note(target)
        self._call("POST", f"/containers/{target}/kill?signal=SIGTERM")

    def kill(self, target: str) -> None:
        """SIGKILL."""
        self._require_unpaused(target)
        self._note(target)
        self._call("POST", f"/containers/{target}/kill?signal=SIGKILL")

    def gone(self, target: str) -> bool:
        """Whether the engine says that it has ended, or has no such."""
        found = self._call("GET", f"/containers/{target}/json")
        return found is None or str(found["State"]["Status"]) in ("exited", "dead", "removing")

    def _require_unpaused(self, target: str) -> None:
        found = self._call("GET", f"/containers/{target}/json")
        if found is not None and found["State"]["Status"] == "paused":
            raise OSError("it is paused: its end waits until it goes on")

    def _note(self, target: str) -> None:
        hold_id = target.removeprefix("cc-")
        try:
            file = self._files.read(hold_id)
            if not file.end_reason:
                self._files.write(replace(file, end_reason="deadline"))
        except (SessionFileUnreadable, OSError):
            return  # on a full disk the session is ended all the same

    def _call(self, method: str, path: str) -> dict[str, Any] | None:
        """One call; None for "no such" and "not running". Raises OSError."""
        connection = _Connection(self._engine)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status in (404, 409):
                return None
            if answer.status >= 400:
                raise OSError(f"the engine answered {answer.status}: {text[:200]!r}")
            found = json.loads(text) if text.strip() else {}
            return found if isinstance(found, dict) else {}
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"the engine answered something unknown: {type(error).__name__}") from error
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(self._path)
