"""The hub's SQLite database, without waits for the disk on the hub's event loop.

JupyterHub commits on its event loop, a dozen times for each start, and SQLite's default waits for the disk several times in each commit: up
to 99 ms at a time, in which nobody was answered. Here a commit goes to the write-ahead log, and a thread brings that to the disk every second
(docs/decisions/0031-hub-database.md, which names the few cases in which a power cut takes more). Invariants: a power cut leaves the database
whole and takes the commits of the last seconds; a killed hub loses nothing; a site's PostgreSQL is left as it is.

Source: sqlite.org/wal.html; sqlite.org/pragma.html#pragma_synchronous.
"""

import atexit
import contextlib
import logging
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, event

log = logging.getLogger("jupyterhub.commons")
EVERY_S: Final = 1.0
_ROUNDS: Final = 60  # between two checkpoints: after each the next commit waits for the disk once
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=0")


class HubDatabase:
    """The file, and the thread that brings it to the disk."""

    def __init__(self, path: Path, every_s: float = EVERY_S) -> None:
        self._path, self._every_s = path, every_s

    @property
    def url(self) -> str:
        """As SQLAlchemy takes it."""
        return f"sqlite:///{self._path}"

    def start(self) -> None:
        """To be called before the hub opens its database."""
        self.checkpoint()  # JupyterHub copies the file alone before it changes its tables
        event.listen(Engine, "connect", write_ahead)
        threading.Thread(target=self._run, name="hub-database", daemon=True).start()
        atexit.register(self._end)

    def flush(self) -> None:
        """Bring to the disk what was committed. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):  # nothing was committed yet
            handle = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(handle)
            finally:
                os.close(handle)

    def checkpoint(self) -> None:
        """Copy what was committed from the log into the file, so that the log begins anew. Raises sqlite3.Error."""
        if not self._path.exists():  # the first start, or the site's database is elsewhere
            return
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self.flush()

    def _run(self) -> None:
        rounds = 0
        while True:  # a service loop
            time.sleep(self._every_s)
            rounds += 1
            try:
                self.flush()
                if rounds % _ROUNDS == 0:
                    self.checkpoint()
            except (OSError, sqlite3.Error) as error:
                log.error(
                    "The hub's database does not get to the disk, the next try is in %s s; until a minute after it succeeds a power cut may take more: %s",
                    self._every_s,
                    error,
                )


def write_ahead(connection: Any, _record: object) -> None:
    """Tell a new connection of SQLite to write ahead, and to leave the disk to the thread."""
    if isinstance(connection, sqlite3.Connection):
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").close()
