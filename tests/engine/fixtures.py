"""Fixtures of every test that needs the engine; a test package imports them into its conftest.

Invariant: the engine runs once a test run; what a module leaves behind is removed with its site. A module says `HOMES = "loop"` for
homes with a size limit.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.engine import Engine
from tests.engine.images import Images
from tests.engine.sessions import Sessions
from tests.engine.site import ContainerSite


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A running engine; fails where the machine cannot have one."""
    running = Engine()
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def images(engine: Engine) -> Iterator[Images]:
    """Builds images on it; `./commons test` has built them already."""
    client = engine.client(timeout_s=600)
    yield Images(client, engine.home)
    client.close()


@pytest.fixture(scope="module")
def inside(engine: Engine) -> Iterator[Engine]:
    """The test's thread, and what it starts, in the engine's network namespace."""
    with engine.namespace.inside():
        yield engine


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, inside: Engine, images: Images) -> Iterator[ContainerSite]:
    """A host with its rules, helper, keeper and watchdog, and an image that starts a small program."""
    one = ContainerSite(inside, images.stub(), homes=getattr(request.module, "HOMES", "directory"))
    try:
        one.load_rules(1, 2)
        yield one.start()
    finally:
        one.stop()


@pytest.fixture
def sessions(site: ContainerSite) -> Iterator[Sessions]:
    """Spawners on it; their containers are removed after the test."""
    yield Sessions(site)
    site.engine.remove_containers()
