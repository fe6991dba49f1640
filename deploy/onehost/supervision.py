"""Starts supervisord and talks to it.

Invariant: the supervisor runs in a session of its own, so that Ctrl-C reaches the launcher only; it inherits the data folder's
lock and dies with the launcher (PR_SET_PDEATHSIG). Source: https://supervisord.org/api.html, prctl(2).
"""

import contextlib
import http.client
import os
import socket
import subprocess
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, cast

from deploy.onehost.data_folder import write_whole
from deploy.onehost.programs import GROUP, Site, clean_environment, render

ANSWER_DEADLINE_S: Final = 10.0
STOP_DEADLINE_S: Final = 25.0


class ProgramState(StrEnum):
    """supervisord's own states of a program."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class Status:
    """One program as the supervisor sees it; `pid` is 0 where there is no process."""

    name: str
    state: ProgramState
    pid: int


class SupervisorSilent(Exception):
    """The supervisor does not answer (not yet, or not any more)."""


class Supervisor:
    """One supervisord process and its socket."""

    def __init__(self, site: Site, lock: int) -> None:
        self._site = site
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the supervisor, which starts every program."""
        data = self._site.data
        configuration = data.run / "supervisord.conf"
        write_whole(configuration, render(self._site))
        supervisord = self._site.environment.venv / "bin" / "supervisord"
        with (data.logs / "supervisord.out").open("wb") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", str(supervisord), "-n", "-c", str(configuration)],
                cwd=data.run,
                env=clean_environment(self._site, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(self._lock,),
                start_new_session=True,
                umask=0o077,
            )

    @property
    def is_running(self) -> bool:
        """Whether the supervisor's process is there."""
        return self._process is not None and self._process.poll() is None

    def statuses(self) -> dict[str, Status]:
        """Every program's state by name. Raises SupervisorSilent."""
        with self._calls() as server:
            answer = cast(list[dict[str, Any]], server.supervisor.getAllProcessInfo())
        found = (Status(str(entry["name"]), ProgramState(entry["statename"]), int(entry["pid"])) for entry in answer)
        return {status.name: status for status in found}

    def start_again(self, program: str) -> None:
        """Start a program that the supervisor gave up on. Raises SupervisorSilent."""
        with self._calls() as server, contextlib.suppress(xmlrpc.client.Fault):
            server.supervisor.startProcess(f"{GROUP}:{program}", False)

    def stop(self) -> None:
        """Stop every program and the supervisor; returns when all have gone. The kernel ends what outlives the bound."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextlib.contextmanager
    def _calls(self) -> Iterator[xmlrpc.client.ServerProxy]:
        transport = _SocketTransport(self._site.data.socket)
        try:
            with xmlrpc.client.ServerProxy("http://supervisor", transport=transport) as server:
                yield server
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise SupervisorSilent(str(error)) from error


class _SocketTransport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket, with a deadline."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        return _SocketConnection(self._path)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("supervisor", timeout=ANSWER_DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_DEADLINE_S)
        self.sock.connect(str(self._path))
