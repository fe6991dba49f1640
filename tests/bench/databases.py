"""A fresh database for a benchmark, on either engine, fsync on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quota.store.database import Database, open_database
from tests.integration.postgres import running_postgres


@contextmanager
def bench_database(engine: str) -> Iterator[Database]:
    """An empty database of "sqlite" or "postgresql", gone at the end."""
    if engine == "sqlite":
        with tempfile.TemporaryDirectory(prefix="commons-bench-") as folder:
            database = open_database(f"sqlite:///{Path(folder) / 'bench.sqlite'}")
            yield database
            database.close()
        return
    with running_postgres() as server:
        database = open_database(server.new_database())
        yield database
        database.close()
