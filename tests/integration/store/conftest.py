"""Databases for the store's tests: each test runs on SQLite and on a real PostgreSQL, in a database of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quota.store.database import Database, open_database
from quota.store.migrate import migrate
from tests import ledgers
from tests.integration.postgres import Postgres, memory_folder, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres(within=memory_folder()) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture(scope="session")
def new_postgres_database(postgres: Postgres) -> Callable[[], Database]:
    """Makes migrated databases: copies of one that was migrated once."""
    template = open_database(postgres.new_database())
    migrate(template)
    template.close()
    return lambda: open_database(postgres.new_database(template=str(template.url.database)))


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Database]:
    """Makes migrated databases on one engine."""
    if request.param == "sqlite":
        return lambda: ledgers.sqlite_database(tmp_path)
    made: Callable[[], Database] = request.getfixturevalue("new_postgres_database")
    return made


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Iterator[Database]:
    """A migrated database."""
    opened = new_database()
    yield opened
    opened.close()
