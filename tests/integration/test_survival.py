"""Whatever is killed, a running notebook goes on and is charged exactly once for its whole life."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.people import Kernel, Person
from tests.portal import Portal
from tests.waiting import eventually
from tests.world import awarded_project

BACK_WITHIN_S = 15


PROGRAMS = {"hub": "jupyterhub_config.py", "proxy": "configurable-http-proxy", "quota": "quota.main serve"}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[Portal, Person, str]]:
    """A portal with an awarded project; its PI is signed in."""
    portal = Portal(tmp_path / "data", model=False).up()
    try:
        async with Person(portal, "pi") as pi, Person(portal, "admin") as admin:
            project_id = await awarded_project(pi, admin, gpu_hours="10", tokens=100_000)
            yield portal, pi, project_id
    finally:
        portal.down()


def session_record(portal: Portal) -> dict[str, int]:
    """What the only session's runner wrote down."""
    folders = list((portal.data / "sessions").iterdir())
    assert len(folders) == 1, folders
    record: dict[str, int] = json.loads((folders[0] / "record.json").read_text())
    return record


async def settled_charge(pi: Person, project_id: str) -> int:
    """GPU-milliseconds charged once nothing is held any more."""

    async def look() -> int | None:
        status, project = await pi.api("GET", f"/projects/{project_id}")
        if status != 200:
            return None
        balance = next(b for b in project["balances"] if b["unit"] == "gpu_ms")
        return int(balance["charged"]) if balance["held"] == 0 else None

    return await eventually(look, within_s=30, what="the hold is settled")


async def test_a_notebook_survives_the_death_of_every_program_and_is_charged_once(
    running: tuple[Portal, Person, str],
) -> None:
    portal, pi, project_id = running
    await pi.start(project_id)
    kernel = await Kernel(pi).open()
    assert await kernel.run("kept = 42") == ""
    for name, marker in PROGRAMS.items():
        os.kill(portal.pid(marker), signal.SIGKILL)

        async def answers() -> bool:
            try:
                status, _ = await pi.api("GET", f"/projects/{project_id}")
                return status == 200 and await kernel.run("print(kept)") == "42\n"
            except (OSError, AssertionError, TimeoutError, aiohttp.ClientError):
                return False

        await eventually(answers, within_s=BACK_WITHIN_S, what=f"everything answers after the death of {name}")
    await pi.stop()
    charged = await settled_charge(pi, project_id)
    record = session_record(portal)
    assert charged == record["ended_at_ms"] - record["started_at_ms"]


async def test_a_notebook_survives_the_launcher_and_the_next_up_goes_on_with_it(
    running: tuple[Portal, Person, str],
) -> None:
    portal, pi, project_id = running
    await pi.start(project_id)
    kernel = await Kernel(pi).open()
    await kernel.run("kept = 42")
    portal.kill_launcher()
    await asyncio.to_thread(portal.up)
    assert await kernel.run("print(kept)") == "42\n"
    await pi.stop()
    charged = await settled_charge(pi, project_id)
    record = session_record(portal)
    assert charged == record["ended_at_ms"] - record["started_at_ms"]
    status, statement = await pi.api("GET", f"/projects/{project_id}/statement")
    assert status == 200
    assert sum(line["delta_charged"] for line in statement["lines"]) == charged


async def test_ctrl_c_settles_what_runs_and_leaves_no_process_and_no_port(
    running: tuple[Portal, Person, str],
) -> None:
    portal, pi, project_id = running
    await pi.start(project_id)
    assert portal.launcher is not None
    family = psutil.Process(portal.launcher.pid).children(recursive=True)
    runner = session_record(portal)["runner_pid"]
    assert await asyncio.to_thread(portal.down) == 0
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    assert not psutil.pid_exists(runner)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", portal.port)) != 0
    await asyncio.to_thread(portal.up)
    record = session_record(portal)
    assert await settled_charge(pi, project_id) == record["ended_at_ms"] - record["started_at_ms"]
