"""One whole portal for the security tests that look at it from outside; what each leaves in it is its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.portal import Portal


@pytest.fixture(scope="package")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    running = Portal(tmp_path_factory.mktemp("portal") / "data", model=False).up()
    yield running
    assert running.down() == 0
