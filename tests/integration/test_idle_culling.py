"""Idle notebooks on a whole portal with real kernels, by the real culler: work keeps a session, an open page does not.

One portal, two sessions of one person at the same time: one whose kernel works and then rests while a page stays open on it, one
that its owner keeps alive. The instants that are compared are those that the quota service recorded (last use, end) and the kernel's own;
the culler stands still until everything is set up, so that a slow machine makes the test longer and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.people import Kernel, Person
from tests.portal import ROOT, Portal
from tests.waiting import PATIENCE_S, eventually
from tests.world import awarded_project

IDLE_S, KEEP_S, WORK_S = 3, 3, 5
_MS = timedelta(milliseconds=1)  # the API's instants are cut to it


@pytest.fixture
async def portal(tmp_path: Path) -> AsyncIterator[Portal]:
    """A portal whose profiles give up after seconds."""
    text = (ROOT / "portal.toml").read_text()
    text = text.replace(
        'longest_runtime = "12 h"', f'longest_runtime = "12 h"\nidle_timeout = "{IDLE_S} s"\nkeep_alive = "{KEEP_S} s"'
    )
    text = text.replace('meter_interval = "20 s"', 'meter_interval = "1 s"\nidle_notice = "2 s"')
    text = text.replace("named_servers = 4", 'named_servers = 4\nidle_look = "1 s"')
    site = tmp_path / "portal.toml"
    site.write_text(text)
    made = Portal(tmp_path / "data", model=False, portal_file=site)
    await asyncio.to_thread(made.up)
    yield made
    await asyncio.to_thread(made.down)


async def open_page(person: Person, kernel: Kernel) -> None:
    """What a browser tab does: a kernel's channel that stays open, and a look at the lists every second."""
    headers = {"Authorization": f"token {person.token}"}
    url = f"ws{kernel.base.removeprefix('http')}api/kernels/{kernel.id}/channels"
    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
        async with person.http.ws_connect(url, headers=headers, heartbeat=1) as channel:
            while not channel.closed:  # until the server goes
                for path in ("api/kernels", "api/sessions", "api/contents", "lab"):
                    await person.call("GET", kernel.base + path)
                with contextlib.suppress(TimeoutError):
                    await channel.receive(timeout=1)


async def session(person: Person, server: str) -> dict[str, Any]:
    status, listed = await person.api("GET", "/sessions")
    assert status == 200, listed
    return next(one for one in listed["sessions"] if one["server_name"] == server)


async def ended(person: Person, server: str) -> dict[str, Any]:
    """The session once it is over."""

    async def over() -> dict[str, Any] | None:
        found = await session(person, server)
        return found if found["state"] == "settled" else None

    return await eventually(over, within_s=PATIENCE_S, what=f"{server} is over")


async def shown(person: Person, kernel: Kernel) -> dict[str, Any]:
    """The kernel in the notebook's own list: `last_activity`, `execution_state`."""
    status, listed = await person.call("GET", f"{kernel.base}api/kernels?no_track_activity=1")
    assert status == 200, listed
    return next(one for one in listed if one["id"] == kernel.id)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_work_keeps_a_session_an_open_page_does_not_and_keeping_alive_is_honoured_and_capped(
    portal: Portal,
) -> None:
    async with Person(portal, "pi") as pi, Person(portal, "admin") as admin:
        project = await awarded_project(pi, admin, gpu_hours="10", tokens=0)
        culler = portal.pid("hub.idle_culler")
        os.kill(culler, signal.SIGSTOP)
        await asyncio.gather(*(pi.start(project, server=name) for name in ("worker", "kept")))
        worker, kept = Kernel(pi, "worker"), Kernel(pi, "kept")
        await asyncio.gather(worker.open(), kept.open())
        page = asyncio.create_task(open_page(pi, worker))
        used = datetime.fromtimestamp(float(await kept.run("import time; print(time.time())")), UTC)
        hold = (await session(pi, "kept"))["hold_id"]
        # Asked for while the quota service has not heard of any use: what is kept counts from the use all the same.
        status, answer = await pi.api("POST", f"/sessions/{hold}/keep-alive", {"seconds": 3600})
        assert status == 200, answer
        working = asyncio.create_task(worker.run(f"import time; time.sleep({WORK_S}); print(time.time())"))

        async def busy() -> bool:
            return bool((await shown(pi, worker))["execution_state"] == "busy")

        async def rested() -> datetime | None:
            """When the kept kernel was last active, once its notebook has heard of its rest, too: a page's channel may hear of it first."""
            listed = await shown(pi, kept)
            active = at(listed["last_activity"])
            return active if listed["execution_state"] == "idle" and active >= used else None

        await eventually(busy, within_s=PATIENCE_S, what="the worker works")
        used_at = await eventually(rested, within_s=PATIENCE_S, what="the kept kernel rests")
        os.kill(culler, signal.SIGCONT)

        how = await ended(pi, "kept")
        assert how["stop_reason"] == "idle"
        assert abs(at(how["idle"]["active_at"]) - used_at) <= _MS
        assert at(how["ended_at"]) >= used_at - _MS + timedelta(seconds=IDLE_S + KEEP_S)  # kept
        assert at(how["idle"]["kept_until"]) > at(how["ended_at"])  # and no longer than the profile allows

        worked_until = datetime.fromtimestamp(float(await working), at(how["ended_at"]).tzinfo)
        how = await ended(pi, "worker")
        assert how["stop_reason"] == "idle"
        assert at(how["idle"]["active_at"]) >= worked_until - _MS  # busy all the while, longer than the idle time
        assert at(how["ended_at"]) >= worked_until - _MS + timedelta(seconds=IDLE_S)  # not before its own rest was over
        await page
        kinds = await told(pi)
        assert (set(kinds), kinds.count("stopped")) == ({"idle", "stopped"}, 2)
        assert kinds.index("idle") < kinds.index("stopped")
        status, answer = await pi.api("GET", f"/projects/{project}")
        assert next(one for one in answer["balances"] if one["unit"] == "gpu_ms")["held"] == 0


async def told(person: Person) -> list[str]:
    status, text = await person.call("GET", person.portal.api + "/events?after=0&for_s=0")
    assert status == 200
    return [part.partition('"kind": "')[2].partition('"')[0] for part in text.split("data: ")[1:]]
