"""The whole portal on a real engine: real notebooks in containers, shut in, charged by the engine's own times whatever dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager

import pytest

from spawners import container_spec as spec
from tests.engine.container_portal import ContainerPortal, engines_ms
from tests.engine.engine import Engine
from tests.engine.images import Images
from tests.integration.bills import settled_charge
from tests.integration.hub_process import text_of
from tests.people import Kernel, Person
from tests.portal import Portal
from tests.waiting import PATIENCE_S, eventually
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


def portal_of(running: ContainerPortal) -> Portal:
    assert running.portal is not None
    return running.portal


async def nothing_left(running: ContainerPortal) -> None:
    async def none() -> bool:
        return not running.containers() and not running.client.networks.list(filters={"label": spec.HOLD})

    await eventually(none, within_s=PATIENCE_S, what="containers and networks are removed after settlement")


@pytest.fixture(scope="module")
def running(inside: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerPortal]:
    one = ContainerPortal(inside, images.base(), model=False)
    try:
        portal = one.up(tmp_path_factory.mktemp("containers") / "data")
        yield one
        assert portal.down() == 0
    finally:
        one.stop()


@pytest.fixture
async def people(running: ContainerPortal) -> AsyncIterator[tuple[Person, Person]]:
    async with Person(portal_of(running), "pi") as pi, Person(portal_of(running), "researcher") as researcher:
        yield pi, researcher


@pytest.fixture(scope="module")
def project() -> dict[str, str]:
    """The project's id, once it was made."""
    return {}


async def made(running: ContainerPortal, project: dict[str, str], pi: Person) -> str:
    if "id" not in project:
        async with Person(portal_of(running), "admin") as admin:
            project["id"] = await awarded_project(pi, admin, gpu_hours="20", tokens=100_000)
        answer = await pi.api("PUT", f"/projects/{project['id']}/members/researcher", {"role": "member"})
        assert answer[0] == 201, answer
    return project["id"]


async def test_a_notebook_sees_its_gpu_its_home_and_the_portal_and_nothing_else_of_host_or_neighbours(
    running: ContainerPortal, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, researcher = people
    project_id = await made(running, project, pi)
    await asyncio.gather(pi.start(project_id), researcher.start(project_id, profile="gpu2"))
    kernel = await Kernel(pi).open()
    assert (await kernel.sockets()).startswith("/tmp/jupyter/")
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
        ports = [one.getsockname()[1] for one in (model, database, engine)] + [22, portal_of(running).port]
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
    lived = running.lived_ms(mine) + 2 * running.lived_ms(other)
    assert abs(charged - lived) <= 3 * running.told_later_ms
    await nothing_left(running)


async def test_a_home_survives_and_the_next_session_gets_another_network(
    running: ContainerPortal, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, _ = people
    await pi.start(await made(running, project, pi), profile="cpu")
    kernel = await Kernel(pi).open()
    assert await kernel.run("import os; print(open(os.environ['HOME'] + '/kept.txt').read())") == "kept\n"
    assert await kernel.run("print(os.path.exists('/dev/simgpu0'))") == "False\n"
    await pi.stop()
    await nothing_left(running)


async def test_a_container_that_is_killed_while_the_hub_is_down_is_charged_to_the_engines_end(
    running: ContainerPortal, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, _ = people
    project_id = await made(running, project, pi)
    before = await settled_charge(pi, project_id)
    await pi.start(project_id)
    container = running.only_container("pi")
    for marker in ("jupyterhub_config.py", "quota.main serve"):
        os.kill(portal_of(running).pid(marker), signal.SIGKILL)
    container.kill()
    container.wait(timeout=PATIENCE_S)
    lived = engines_ms(container)

    async def answers() -> bool:
        try:
            return (await pi.api("GET", f"/projects/{project_id}"))[0] == 200 and await pi.server() is None
        except (OSError, AssertionError):
            return False

    await eventually(answers, within_s=PATIENCE_S, what="the portal is back and has seen the end")
    assert await settled_charge(pi, project_id) - before == lived
    await nothing_left(running)


async def extended(running: ContainerPortal, owner: Person, hold_id: str, *, hours: int) -> int:
    """Extend a session as its page does, by a further hold; gives its end by the helper, moved by exactly that."""
    before_ms = running.site.sessions()[hold_id]["due_ms"]

    async def done() -> bool:
        path = f"/sessions/{hold_id}/extensions/extend-{hold_id[:12]}"
        status, answer = await owner.api("PUT", path, {"seconds": 3600 * hours})
        assert status in (201, 409, 503), answer  # not yet seen to run: the same id is asked again
        return status == 201

    await eventually(done, within_s=PATIENCE_S, what="the session is extended")
    moved_ms = int(running.site.sessions()[hold_id]["due_ms"])
    assert moved_ms - before_ms == 3_600_000 * hours
    return moved_ms


async def test_an_extended_session_goes_on_while_the_engine_and_its_helper_are_restarted_and_is_charged_once(
    running: ContainerPortal, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, _ = people
    project_id = await made(running, project, pi)
    before = await settled_charge(pi, project_id)
    await pi.start(project_id)
    kernel = await Kernel(pi).open()
    await kernel.run("kept = 42")
    container = running.only_container("pi")
    moved_ms = await extended(running, pi, container.labels[spec.HOLD], hours=1)
    hub_log = portal_of(running).data / "logs" / "hub.log"
    before_outage = len(hub_log.read_text())
    await asyncio.to_thread(running.site.engine.down)
    running.site.stop_helper()
    assert await kernel.run("print(kept)") == "42\n"

    async def hub_looked() -> bool:
        return "cannot be judged" in hub_log.read_text()[before_outage:]

    await eventually(hub_looked, within_s=PATIENCE_S, what="the hub has looked and was not answered")
    assert (await pi.server() or {}).get("ready") is True
    await asyncio.to_thread(running.site.engine.up)
    await asyncio.to_thread(running.site.start_helper)
    assert running.site.sessions()[container.labels[spec.HOLD]]["due_ms"] == moved_ms
    assert await kernel.run("print(kept)") == "42\n"
    assert (await pi.server() or {}).get("ready") is True
    await pi.stop()
    charged = await settled_charge(pi, project_id) - before
    assert abs(charged - running.lived_ms(container)) <= running.told_later_ms
    await nothing_left(running)


async def refusal_of(person: Person, project_id: str, profile: str = "gpu1") -> str:
    """Start what cannot start; gives what the person reads on the page."""
    options = {"project": project_id, "profile": profile, "runtime_s": 3600}
    await person.hub("POST", f"/users/{person.name}/servers/", {"user_options": options})

    async def over() -> bool:
        server = await person.server()
        assert not (server or {}).get("ready"), server
        return server is None or not server["pending"]

    await eventually(over, within_s=PATIENCE_S, what="the start is refused")
    async with person.http.get(f"{person.portal.url}hub/spawn-pending/{person.name}") as page:
        return text_of(await page.text())


async def test_an_engine_without_gpu_support_refuses_with_the_reason_at_no_charge(
    running: ContainerPortal, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, _ = people
    project_id = await made(running, project, pi)
    before = await settled_charge(pi, project_id)
    await asyncio.to_thread(running.site.engine.restart, cdi=False)
    try:
        said = await refusal_of(pi, project_id)
    finally:
        await asyncio.to_thread(running.site.engine.restart, cdi=True)
    assert "could not select device driver" in said
    assert "nothing is charged" in said
    assert await settled_charge(pi, project_id) == before
    await nothing_left(running)


@asynccontextmanager
async def configured(running: ContainerPortal, person: Person, project_id: str, code: str) -> AsyncIterator[None]:
    """The person's own configuration of the notebook server runs this code meanwhile."""
    await person.start(project_id, profile="cpu")
    kernel = await Kernel(person).open()
    home = await kernel.run(
        "import os, pathlib\n"
        "path = pathlib.Path.home() / '.jupyter' / 'jupyter_server_config.py'\n"
        f"path.parent.mkdir(exist_ok=True)\npath.write_text({code!r})\nprint(pathlib.Path.home().name)"
    )
    await person.stop()
    try:
        yield
    finally:
        (running.site.home_root / f"cc-home-{home.strip()}" / ".jupyter" / "jupyter_server_config.py").unlink()


async def test_a_notebook_that_dies_before_it_answers_is_refused_with_its_last_lines_at_no_charge(
    running: ContainerPortal, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, _ = people
    project_id = await made(running, project, pi)
    broken = "import os\nprint('the licence server is away', flush=True)\nos._exit(3)\n"
    async with configured(running, pi, project_id, broken):
        before = await settled_charge(pi, project_id)
        said = await refusal_of(pi, project_id)
    assert "the licence server is away" in said
    assert "status 3" in said
    assert "nothing is charged" in said
    assert await settled_charge(pi, project_id) == before
    await nothing_left(running)


@pytest.mark.full  # it waits as long as the site says
async def test_a_notebook_that_does_not_come_up_in_time_is_refused_with_its_last_lines_at_no_charge(
    running: ContainerPortal, people: tuple[Person, Person], project: dict[str, str]
) -> None:
    pi, _ = people
    project_id = await made(running, project, pi)
    slow = "import time\nprint('waiting for the licence server', flush=True)\ntime.sleep(600)\n"
    async with configured(running, pi, project_id, slow):
        before = await settled_charge(pi, project_id)
        said = await refusal_of(pi, project_id)
    assert (
        "did not come up within 60 s" in said
    )  # start_deadline of tests/engine/site.py, as long as JupyterHub's own default
    assert "waiting for the licence server" in said
    assert "nothing is charged" in said
    assert await settled_charge(pi, project_id) == before
    await nothing_left(running)
