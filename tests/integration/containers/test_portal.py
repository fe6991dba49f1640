"""The whole portal on a real engine: real notebooks in containers, shut in, charged by the engine's own times whatever dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from spawners import container_spec as spec
from spawners.engine_sessions import instant_ms
from tests.engine.engine import Engine
from tests.engine.images import Images
from tests.engine.site import ContainerSite
from tests.integration.test_survival import program_pid, settled_charge
from tests.people import Kernel, Person
from tests.portal import Portal
from tests.waiting import eventually
from tests.world import awarded_project

CONNECT = """
import json, socket
def reaches(host, port):
    try:
        socket.create_connection((host, port), timeout=2).close()
        return True
    except OSError:
        return False
print(json.dumps([[h, p] for h, p in {targets} if reaches(h, p)]))
"""
SCAN = """
import json, socket
def is_open(port):
    with socket.socket() as s:
        s.settimeout(2)
        return s.connect_ex(({host!r}, port)) == 0
print(json.dumps([port for port in range(1, 65536) if is_open(port)]))
"""


TOLD_LATER_MS = 500


class Running:
    """A portal on a site, with the engine's word."""

    def __init__(self, site: ContainerSite, portal: Portal) -> None:
        self.site = site
        self.portal = portal
        self.client = site.engine.client()
        self.ports: dict[str, int] = json.loads((portal.data / "ports.json").read_text())

    def containers(self) -> list[Any]:
        return list(self.client.containers.list(all=True, filters={"label": spec.HOLD}))

    def only_container(self, user: str) -> Any:
        (found,) = [one for one in self.containers() if one.labels[spec.USER] == user]
        return found

    async def nothing_left(self) -> None:
        async def none() -> bool:
            return not self.containers() and not self.client.networks.list(filters={"label": spec.HOLD})

        await eventually(none, within_s=40, what="containers and networks are removed after settlement")


def lived_ms(container: Any) -> int:
    """From the engine's StartedAt to its FinishedAt."""
    container.reload()
    state = container.attrs["State"]
    started, finished = instant_ms(state["StartedAt"]), instant_ms(state["FinishedAt"])
    assert started is not None
    assert finished is not None
    return finished - started


def told_lived_ms(running: Running, container: Any) -> int:
    """The same by the engine's events, which stay when the container is removed; its end is told some milliseconds later."""
    started = instant_ms(container.attrs["State"]["StartedAt"])
    assert started is not None
    filters = {"container": container.id, "event": "die"}
    ended = list(running.client.events(since=0, until=int(time.time()) + 1, filters=filters, decode=True))
    return int(ended[-1]["timeNano"]) // 10**6 - started


@pytest.fixture(scope="module")
def running(inside: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    site = ContainerSite(inside, images.base(), homes="loop", canary=True)
    portal = Portal(tmp_path_factory.mktemp("containers") / "data", model=False, portal_file=site.portal_file)
    try:
        site.load_rules(1, 2)
        site.start()
        portal.up()
        one = Running(site, portal)
        site.load_rules(one.ports["hub"], one.ports["quota"])
        yield one
        assert portal.down() == 0
    finally:
        portal.down()
        site.stop()


@pytest.fixture
async def people(running: Running) -> AsyncIterator[tuple[Person, Person]]:
    async with Person(running.portal, "pi") as pi, Person(running.portal, "researcher") as researcher:
        yield pi, researcher


@pytest.fixture(scope="module")
def project() -> dict[str, str]:
    """The project's id, once it was made."""
    return {}


async def made(running: Running, project: dict[str, str], pi: Person) -> str:
    if "id" not in project:
        async with Person(running.portal, "admin") as admin:
            project["id"] = await awarded_project(pi, admin, gpu_hours="20", tokens=100_000)
        answer = await pi.api("PUT", f"/projects/{project['id']}/members/researcher", {"role": "member"})
        assert answer[0] == 201, answer
    return project["id"]


async def test_a_notebook_sees_its_gpu_its_home_and_the_portal_and_nothing_else_of_host_or_neighbours(
    running: Running, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, researcher = people
    project_id = await made(running, project, pi)
    await asyncio.gather(pi.start(project_id), researcher.start(project_id, profile="gpu2"))
    kernel = await Kernel(pi).open()
    mine, other = running.only_container("pi"), running.only_container("researcher")
    held = [set(json.loads(one.labels[spec.DEVICES])) for one in (mine, other)]
    assert [len(one) for one in held] == [1, 2]
    assert not held[0] & held[1]

    network = running.client.networks.get(spec.network_name(mine.labels[spec.HOLD]))
    host = network.attrs["IPAM"]["Config"][0]["Gateway"]
    peer = next(iter(other.attrs["NetworkSettings"]["Networks"].values()))["IPAddress"]
    peer_host = running.client.networks.get(spec.network_name(other.labels[spec.HOLD])).attrs["IPAM"]["Config"][0][
        "Gateway"
    ]
    with ExitStack() as listening:
        model, database, engine = (listening.enter_context(socket.create_server(("0.0.0.0", 0))) for _ in range(3))
        ports = [one.getsockname()[1] for one in (model, database, engine)] + [22, running.portal.port]
        inner = [port for name, port in running.ports.items() if name not in ("hub", "quota")]
        closed = [(address, port) for address in (host, peer_host) for port in (*ports, *inner)]
        closed += [(peer, spec.PORT), ("169.254.169.254", 80), ("192.0.2.1", 443), ("1.1.1.1", 53)]
        open_ones = [(host, running.ports["hub"]), (host, running.ports["quota"])]
        reached = json.loads(await kernel.run(CONNECT.format(targets=[*open_ones, *closed])))
    assert [tuple(one) for one in reached] == open_ones

    told = await kernel.run(
        "import os, urllib.request, json\n"
        "hub = urllib.request.Request(os.environ['JUPYTERHUB_API_URL'] + '/user',"
        " headers={'Authorization': 'token ' + os.environ['JUPYTERHUB_API_TOKEN']})\n"
        "import openai\n"
        "print(json.load(urllib.request.urlopen(hub))['name'], [m.id for m in openai.OpenAI().models.list()])"
    )
    assert told.startswith("pi ["), told
    me = await kernel.run(
        "import os, pwd\n"
        "home = os.environ['HOME']\n"
        "open(home + '/kept.txt', 'w').write('kept')\n"
        "print(pwd.getpwuid(os.getuid()).pw_name, os.stat(home).st_uid == os.getuid(), oct(os.stat(home).st_mode & 0o777))"
    )
    login = me.split()[0]
    assert me.split()[1:] == ["True", "0o700"]
    assert login.startswith("cc-20")
    full = await kernel.run(
        "try:\n    open(home + '/big', 'wb').write(b'x' * 80 * 2**20)\nexcept OSError as error:\n    print(error.strerror)\n"
        "os.remove(home + '/big')"
    )
    assert full == "No space left on device\n"
    if os.environ.get("COMMONS_FULL") == "1":
        scanned = json.loads(await kernel.run(SCAN.format(host=host)))
        assert scanned == sorted([running.ports["hub"], running.ports["quota"]])
    await asyncio.gather(pi.stop(), researcher.stop())
    charged = await settled_charge(pi, project_id)
    lived = told_lived_ms(running, mine) + 2 * told_lived_ms(running, other)
    assert abs(charged - lived) <= TOLD_LATER_MS
    await running.nothing_left()


async def test_a_home_survives_and_the_next_session_gets_another_network(
    running: Running, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, _ = people
    await pi.start(await made(running, project, pi), profile="cpu")
    kernel = await Kernel(pi).open()
    assert await kernel.run("import os; print(open(os.environ['HOME'] + '/kept.txt').read())") == "kept\n"
    assert await kernel.run("print(os.path.exists('/dev/simgpu0'))") == "False\n"
    await pi.stop()
    await running.nothing_left()


async def test_a_container_that_is_killed_while_the_hub_is_down_is_charged_to_the_engines_end(
    running: Running, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, _ = people
    project_id = await made(running, project, pi)
    before = await settled_charge(pi, project_id)
    await pi.start(project_id)
    container = running.only_container("pi")
    for marker in ("jupyterhub_config.py", "quota.main serve"):
        os.kill(program_pid(running.portal, marker), signal.SIGKILL)
    container.kill()
    lived = lived_ms(container)

    async def answers() -> bool:
        try:
            return (await pi.api("GET", f"/projects/{project_id}"))[0] == 200 and await pi.server() is None
        except (OSError, AssertionError):
            return False

    await eventually(answers, within_s=60, what="the portal is back and has seen the end")
    assert await settled_charge(pi, project_id) - before == lived
    await running.nothing_left()


async def test_a_session_goes_on_while_the_engine_and_its_helper_are_restarted_and_is_charged_once(
    running: Running, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, _ = people
    project_id = await made(running, project, pi)
    before = await settled_charge(pi, project_id)
    await pi.start(project_id)
    kernel = await Kernel(pi).open()
    await kernel.run("kept = 42")
    container = running.only_container("pi")
    await asyncio.to_thread(running.site.engine.down)
    running.site.stop_helper()
    assert await kernel.run("print(kept)") == "42\n"
    hub_log = running.portal.data / "logs" / "hub.log"

    async def hub_looked() -> bool:
        return "cannot be judged" in hub_log.read_text()

    await eventually(hub_looked, within_s=40, what="the hub has looked and was not answered")
    assert (await pi.server() or {}).get("ready") is True
    await asyncio.to_thread(running.site.engine.up)
    await asyncio.to_thread(running.site.start_helper)
    assert await kernel.run("print(kept)") == "42\n"
    assert (await pi.server() or {}).get("ready") is True
    await pi.stop()
    charged = await settled_charge(pi, project_id) - before
    assert abs(charged - told_lived_ms(running, container)) <= TOLD_LATER_MS
    await running.nothing_left()
