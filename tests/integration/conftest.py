"""One running portal for all tests here that need no settings of their own, those that kill its programs and start them again included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.postgres import running_postgres
from tests.portal import Portal


@pytest.fixture(scope="package")
def one_portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    running = Portal(tmp_path_factory.mktemp("portal") / "data", model=False).up()
    yield running
    assert running.down() == 0


@pytest.fixture
def portal(one_portal: Portal) -> Portal:
    """A whole portal without a model. Others' projects may be in it; what a test leaves running is settled by its own asserts."""
    return one_portal if one_portal.runs else one_portal.up()


@pytest.fixture
def database_url(engine: str) -> Iterator[str]:
    """Where the ledger of a test with an `engine` is; "" for the SQLite file of its service's folder."""
    if engine == "sqlite":
        yield ""
        return
    with running_postgres() as server:
        yield server.new_database()
