"""The images of `images/`, built for real, and images fetched by digest with their layers on the pending page."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from jupyterhub.spawner import SpawnException

from tests.engine.engine import Engine
from tests.engine.images import ROOT, Images
from tests.engine.registry import Registry
from tests.engine.sessions import Sessions
from tests.engine.site import ContainerSite

HARDENED: dict[str, Any] = {
    "user": "20001:20001",
    "read_only": True,
    "network_mode": "none",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "", "/home/cc-20001": "uid=20001,gid=20001,mode=0700"},
    "environment": {"HOME": "/home/cc-20001"},
    "remove": True,
}


def smoke(images: Images, image: str, name: str) -> dict[str, Any]:
    """Run the image's smoke test in it, as a session would run."""
    program = (ROOT / "images" / name / "smoke.py").read_text()
    output: bytes = images.client.containers.run(image, ["python3", "-c", program], **HARDENED)
    first, *rest = output.decode().splitlines()
    assert first == "commons-session: devices confirmed"
    told: dict[str, Any] = json.loads(rest[-1])
    return told


def test_the_base_image_has_what_a_notebook_needs_and_runs_as_the_person(engine: Engine, images: Images) -> None:
    told = smoke(images, images.base(), "base")
    assert told["user"] == "cc-20001"
    assert {"jupyterlab", "openai", "numpy", "nbgrader"} <= set(told)
    assert told["exchange"] == "commons_exchange.listing.ExchangeList"
    both = {f"nbgrader.server_extensions.{one}" for one in ("assignment_list", "validate_assignment")}
    teachers = {f"nbgrader.server_extensions.{one}" for one in ("formgrader", "course_list")}
    assert (set(told["student"]), set(told["teacher"]), told["no_course"]) == (both, both | teachers, [])


@pytest.mark.full  # PyTorch alone is some 200 MB to fetch and 900 MB of image
@pytest.mark.timeout(1200)
def test_the_pytorch_image_calculates(engine: Engine, images: Images) -> None:
    told = smoke(images, images.gpu_pytorch(), "gpu-pytorch")
    assert told["device"] == "cpu"


@pytest.mark.parametrize(
    "name", ["base/requirements.txt", "gpu-pytorch/requirements.txt", "gpu-pytorch/requirements-cpu.txt"]
)
def test_every_package_of_an_image_is_pinned_with_its_hash(name: str) -> None:
    entries = re.split(r"\n(?=\S)", (ROOT / "images" / name).read_text().strip())
    assert len(entries) > 5
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==[^\s]+( ; [^\\]+)? \\\n", entry), entry[:80]
        assert "--hash=sha256:" in entry


@pytest.fixture
async def registry(inside: Engine) -> Any:
    one = Registry()
    runner = await one.start()
    yield one
    await runner.cleanup()


@pytest.fixture
def site(inside: Engine, registry: Registry) -> Iterator[ContainerSite]:
    one = ContainerSite(inside, registry.image)
    try:
        one.load_rules(1, 2)
        yield one.start()
    finally:
        one.stop()


async def test_a_first_start_fetches_the_image_by_digest_and_tells_its_layers(
    registry: Registry, site: ContainerSite
) -> None:
    sessions, hold_id = Sessions(site), uuid4().hex
    spawner = sessions.spawner(hold_id, profile="cpu")
    starting = asyncio.create_task(spawner.start())
    said: list[str] = []
    async for event in spawner.progress():
        said.append(event["message"])
        if "of 3 layers" in event["message"] and not event["message"].endswith(" 0 %"):
            break
    registry.go_on.set()
    with pytest.raises(SpawnException) as refused:
        await starting
    assert re.fullmatch(r"Fetching the image: \d of 3 layers, [1-9]\d? %", said[-1])
    assert sessions.client.images.get(registry.image)
    # it has no program to run: nothing confirmed its devices, so there is nothing to pay
    assert "status 127" in refused.value.jupyterhub_message
    assert "exec" in refused.value.jupyterhub_html_message
    assert site.sessions()[hold_id]["never_started"]
    site.engine.remove_containers()
    sessions.client.images.remove(registry.image, force=True)
