"""Where histories are lived, one after the other: a SQLite file, made anew for each."""

from __future__ import annotations

import shutil
from pathlib import Path

from quota.store.database import Database, open_database
from tests import ledgers
from tests.simulator.script import AWARDS, CAP

LIMIT = "member-1"


class Place:
    """The file, its books, and ways to it that are made once, since they are costly."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "history.sqlite"
        made = ledgers.sqlite_database(folder)
        self.books = ledgers.open_books(made, *AWARDS)
        ledgers.add_limit(made, LIMIT, "member", CAP)
        made.close()
        self._template = Path(str(made.url.database))
        self._databases: list[Database] = []
        self._used = 0

    def clear(self) -> None:
        """Begin with books that nobody used."""
        for left in self.path.parent.glob(f"{self.path.name}*"):
            left.unlink()
        shutil.copyfile(self._template, self.path)
        self._used = 0

    def database(self) -> Database:
        """One more way to the file; no two processes of a history share one."""
        if self._used == len(self._databases):
            self._databases.append(open_database(f"sqlite:///{self.path}"))
        self._used += 1
        return self._databases[self._used - 1]

    def close(self) -> None:
        """Close every connection."""
        for database in self._databases[: self._used]:
            database.close()
