"""A private PostgreSQL for tests: its own cluster in a temporary folder, on a free port of 127.0.0.1, as a user that is not root.

Invariants: fsync stays on, as in production; only the server started here is stopped, by its pid; the folder goes with it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import psycopg

from quota.domain.ids import new_id
from tests.ports import free_port
from tests.small_disk import SmallDisk

START_DEADLINE_S: Final = 150
ROOMY_BYTES: Final = 8 * 2**30  # about 300 databases of 14 MB, and their log
_OPTIONS: Final = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "logging_collector": "off",
    "log_min_messages": "fatal",
}
_SMALL_WAL: Final = ("-c", "max_wal_size=4MB", "-c", "min_wal_size=2MB")


@dataclass(slots=True)
class Postgres:
    """A running server; `kill` and `start` again leave its data as a crash would."""

    programs: Path
    folder: Path
    port: int
    user: str
    data: Path
    entering: tuple[str, ...] = ()  # what stands before its commands where its data lie on a disk of their own
    options: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://commons@127.0.0.1:{self.port}/{database}"

    def new_database(self, template: str = "template1") -> str:
        """Make a database, empty or a copy of `template`; its URL."""
        name = f"t{new_id()}"
        with self._connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return self.url(name)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
        argv = [
            str(self.programs / "postgres"),
            "-D",
            str(self.data),
            "-p",
            str(self.port),
            "-k",
            str(self.folder),
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.entering, *argv, *options, *self.options],
                stdout=log, stderr=log, user=None if self.entering else _other_user(), cwd=self.folder,
            )  # fmt: skip
        deadline_s = time.monotonic() + START_DEADLINE_S
        while True:  # bounded by the deadline
            try:
                self._connect().close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline_s or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends its sessions and shuts down, SIGQUIT leaves what a crash leaves."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, how)
            self._process.wait(START_DEADLINE_S)

    def kill(self) -> None:
        """kill -9 of the server, which leaves its data as a loss of power would; returns once its sessions are gone, too."""
        assert self._process is not None
        sessions = psutil.Process(self._process.pid).children()
        self._process.kill()
        self._process.wait(START_DEADLINE_S)
        _, left = psutil.wait_procs(sessions, START_DEADLINE_S)
        assert not left

    def kill_session(self) -> None:
        """kill -9 of a client's session; the server then ends all others and recovers."""
        query = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'commons' ORDER BY backend_start DESC LIMIT 1"
        )
        try:
            with self._connect() as connection:
                found = connection.execute(query).fetchone()
        except psycopg.OperationalError:  # recovering from the last one
            return
        if found is not None:
            with suppress(ProcessLookupError):
                os.kill(int(str(found[0])), signal.SIGKILL)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        url = f"postgresql://commons@127.0.0.1:{self.port}/postgres"
        return psycopg.connect(url, autocommit=True, connect_timeout=5)


@contextmanager
def running_postgres(disk: SmallDisk | None = None, *, within: Path | None = None) -> Iterator[Postgres]:
    """Make a cluster, start it, and remove it at the end; with its data on `disk`, or all of it `within` a folder, where one is given."""
    folder = Path(tempfile.mkdtemp(prefix="commons-pg-", dir=within))
    server = Postgres(_programs(), folder, free_port(), "commons", folder / "data")
    uid = _other_user()
    small: tuple[str, ...] = ()
    if disk is not None:
        server.data, server.entering = disk.folder / "pg", tuple(disk.entering(uid))
        server.options, small = _SMALL_WAL, ("--wal-segsize=1",)
        disk.run("chmod", "777", str(disk.folder))
    try:
        if uid is not None:
            os.chown(folder, uid, -1)
        subprocess.run(
            [
                *server.entering,
                str(server.programs / "initdb"),
                "-D",
                str(server.data),
                "-U",
                "commons",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                *small,
            ],
            user=None if server.entering else uid,
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=START_DEADLINE_S,
        )
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)  # its data is thrown away: no need to write it first
        shutil.rmtree(folder, ignore_errors=True)


def memory_folder() -> Path | None:
    """Where hundreds of databases cost no disk: memory that is roomy enough, else None. What a killed process leaves is the same there."""
    memory = Path("/dev/shm")
    try:
        return memory if shutil.disk_usage(memory).free >= ROOMY_BYTES else None
    except OSError:
        return None


def _programs() -> Path:
    """Debian's newest PostgreSQL, which keeps its programs off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise RuntimeError("PostgreSQL is not installed (apt-get install postgresql)")
    return Path(on_path).resolve().parent


def _other_user() -> int | None:
    """Whom the server runs as where we are root, which it refuses to be."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise RuntimeError("neither 'postgres' nor 'nobody' is a user here")
