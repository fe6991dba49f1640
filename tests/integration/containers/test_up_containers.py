"""`./commons up --containers`: one option more, and sessions run in containers, beside those of portal.toml."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.engine.engine import Engine
from tests.engine.images import Images
from tests.people import Person
from tests.portal import ROOT, Portal
from tests.world import awarded_project


async def test_the_demo_offers_sessions_in_containers_by_one_option(
    inside: Engine, images: Images, tmp_path: Path
) -> None:
    portal = Portal(
        tmp_path / "data", model=False, options=["--containers", str(inside.socket), "--container-image", images.stub()]
    )
    try:
        portal.up()
        async with Person(portal, "pi") as pi, Person(portal, "admin") as admin:
            project_id = await awarded_project(pi, admin, gpu_hours="1", tokens=1000)
            await pi.start(project_id, profile="container-cpu")
            client = inside.client()
            (container,) = client.containers.list(ignore_removed=True)
            assert container.labels["org.compute-commons.user"] == "pi"
            await pi.stop()
        assert portal.down() == 0
    finally:
        portal.down()
        inside.remove_containers()


@pytest.mark.parametrize("socket", ["/nonexistent/docker.sock"])
def test_an_engine_that_is_not_there_is_said_before_anything_starts(tmp_path: Path, socket: str) -> None:
    argv = [str(ROOT / "commons"), "up", "--data", str(tmp_path / "data"), "--port", "8999", "--containers", socket]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "does not answer" in done.stdout + done.stderr
