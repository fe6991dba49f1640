"""A running portal, shared by the tests that only use it; those that break one start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.postgres import running_postgres
from tests.portal import Portal


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """A whole portal with its model, on fresh data, for one module."""
    running = Portal(tmp_path_factory.mktemp("portal") / "data").up()
    yield running
    assert running.down() == 0


@pytest.fixture
def database_url(engine: str) -> Iterator[str]:
    """Where the ledger of a test with an `engine` is; "" for the SQLite file of its service's folder."""
    if engine == "sqlite":
        yield ""
        return
    with running_postgres() as server:
        yield server.new_database()
