"""The hub's copy of who is called what: (issuer, subject) → hub user name, as the quota service decided it.

Invariant: the quota service decides and this follows; it is read only while that service is away, so that people who were here
before can sign in. It holds no name, address or token of anybody. A damaged copy is an empty one.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("jupyterhub.commons")

_TABLE = "CREATE TABLE IF NOT EXISTS known_name (issuer TEXT, subject TEXT, hub_name TEXT NOT NULL, PRIMARY KEY (issuer, subject))"


class KnownNames:
    """One SQLite file of the hub's own; opened for each use, a sign-in is rare."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, issuer: str, subject: str, hub_name: str) -> None:
        """Remember what the quota service said; a copy that cannot be written is logged and costs no sign-in."""
        try:
            with self._open() as connection:
                connection.execute("INSERT OR REPLACE INTO known_name VALUES (?, ?, ?)", (issuer, subject, hub_name))
        except sqlite3.Error as error:
            log.warning("%s cannot be written: %s", self._path, error)

    def get(self, issuer: str, subject: str) -> str | None:
        """The name as it was last told; None where it never was."""
        try:
            with self._open() as connection:
                row = connection.execute(
                    "SELECT hub_name FROM known_name WHERE issuer = ? AND subject = ?", (issuer, subject)
                ).fetchone()
        except sqlite3.Error as error:
            log.warning("%s cannot be read: %s", self._path, error)
            return None
        return None if row is None else str(row[0])

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._path, timeout=2)) as connection, connection:
            connection.execute(_TABLE)
            yield connection
