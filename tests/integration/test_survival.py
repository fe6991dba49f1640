"""Whatever is killed, a running notebook goes on and is charged exactly once for its whole life; ports and secrets stay the same."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import aiohttp
import psutil
import pytest

from deploy.onehost.ports import is_free
from tests.integration.bills import session_record, settled_charge
from tests.people import Kernel, Person
from tests.portal import Portal
from tests.waiting import PATIENCE_S, eventually
from tests.world import awarded_project

# What is killed, and within how many seconds everything answers again: a supervisor comes back with all that it supervises. That
# promise is for a machine that does nothing else (--full).
FULL = os.environ.get("COMMONS_FULL") == "1"
PROGRAMS = {
    "jupyterhub_config.py": 15,
    "configurable-http-proxy": 15,
    "quota.main serve": 15,
    "supervisord -n": 30,
}


@pytest.fixture
async def pi(portal: Portal) -> AsyncIterator[Person]:
    async with Person(portal, "pi") as person:
        yield person


@pytest.fixture
async def project(portal: Portal, pi: Person) -> str:
    """A project of this test's own."""
    async with Person(portal, "admin") as admin:
        return await awarded_project(pi, admin, gpu_hours="10", tokens=100_000)


async def test_a_notebook_survives_the_death_of_every_program_and_is_charged_once(
    portal: Portal, pi: Person, project: str
) -> None:
    await pi.start(project)
    kernel = await Kernel(pi).open()
    assert await kernel.run("kept = 42") == ""
    for marker, back_within_s in PROGRAMS.items():
        victim = portal.pid(marker)
        os.kill(victim, signal.SIGKILL)

        async def answers(marker: str = marker, victim: int = victim) -> bool:
            try:
                assert portal.pid(marker) != victim
                status, _ = await pi.api("GET", f"/projects/{project}")
                served = await asyncio.to_thread(portal.serves)
                return status == 200 and served and await kernel.run("print(kept)") == "42\n"
            except (OSError, AssertionError, TimeoutError, aiohttp.ClientError):
                return False

        await eventually(
            answers,
            within_s=back_within_s if FULL else PATIENCE_S,
            what=f"everything answers after the death of {marker}",
        )
    await pi.stop()
    charged = await settled_charge(pi, project)
    record = await session_record(pi)
    assert charged == record["ended_at_ms"] - record["started_at_ms"]


async def test_a_notebook_survives_the_launcher_and_the_next_up_goes_on_with_it_on_the_same_ports(
    portal: Portal, pi: Person, project: str
) -> None:
    await pi.start(project)
    kernel = await Kernel(pi).open()
    await kernel.run("kept = 42")
    ports = portal.inner_ports
    portal.kill_launcher()
    await asyncio.to_thread(portal.up)
    assert portal.inner_ports == ports
    assert await asyncio.to_thread(portal.serves)
    assert await kernel.run("print(kept)") == "42\n"
    await pi.stop()
    charged = await settled_charge(pi, project)
    record = await session_record(pi)
    assert charged == record["ended_at_ms"] - record["started_at_ms"]
    status, statement = await pi.api("GET", f"/projects/{project}/statement")
    assert status == 200
    assert sum(line["delta_charged"] for line in statement["lines"]) == charged


async def test_ctrl_c_settles_what_runs_and_leaves_no_process_and_no_port_and_a_later_up_resumes(
    portal: Portal, pi: Person, project: str
) -> None:
    await pi.start(project)
    assert portal.launcher is not None
    family = psutil.Process(portal.launcher.pid).children(recursive=True)
    runner = (await session_record(pi))["runner_pid"]
    ports = portal.inner_ports
    secrets = {path.name: path.read_text() for path in (portal.data / "secrets").iterdir()}
    assert await asyncio.to_thread(portal.down) == 0
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    assert not psutil.pid_exists(runner)
    assert portal.processes() == {}
    assert [port for port in (portal.port, *ports.values()) if not is_free(port)] == []
    assert not (portal.data.parent / "ready.json").exists()
    await asyncio.to_thread(portal.up)
    assert portal.inner_ports == ports
    assert {path.name: path.read_text() for path in (portal.data / "secrets").iterdir()} == secrets
    record = await session_record(pi)
    assert await settled_charge(pi, project) == record["ended_at_ms"] - record["started_at_ms"]
