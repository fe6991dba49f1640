"""A stop that failed on a real portal: JupyterHub forgets the server (6.1.1), the session goes on, and is stopped all the same.

The backend's fault is that its records cannot be read for a while, as on a disk that went; a hub that was started anew has no other way
to a session's runner.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from spawners import processes
from spawners.records import EndReason, SessionRecord
from tests.integration.hub_process import text_of
from tests.integration.real_portal import RealPortal
from tests.integration.test_real_outages import exact, in_state, open_holds, session
from tests.people import Person
from tests.waiting import PATIENCE_S, eventually
from tests.world import awarded_project

GRACE_S = 2
OUT_OF_REACH_S = PATIENCE_S


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPortal]:
    policy = {"stop_grace": f"{GRACE_S} s"}
    one = RealPortal(
        tmp_path_factory.mktemp("real") / "data", policy=policy, traits="c.LocalSpawner.stop_margin_s = 1\n"
    )
    try:
        yield one.start()
    finally:
        one.end()


@pytest.fixture
async def pi(portal: RealPortal) -> AsyncIterator[Person]:
    async with Person(portal.as_portal, "pi") as person:
        yield person


@pytest.fixture
async def project(portal: RealPortal, pi: Person) -> str:
    async with Person(portal.as_portal, "admin") as admin:
        return await awarded_project(pi, admin, gpu_hours="10", tokens=0)


@asynccontextmanager
async def out_of_reach(portal: RealPortal) -> AsyncIterator[None]:
    """No session can be seen or told anything."""
    sessions, away = portal.data / "sessions", portal.data / "sessions.away"
    sessions.rename(away)
    try:
        yield
    finally:
        away.rename(sessions)


async def adopted(portal: RealPortal, pi: Person, project: str, *servers: str) -> list[SessionRecord]:
    """Sessions that run under a hub which did not start them."""
    for server in servers:
        await pi.start(project, server=server)
    hold_ids = [(await in_state(pi, server, "running"))["hold_id"] for server in servers]
    portal.kill_hub()
    await asyncio.to_thread(portal.start_hub)
    for server in servers:
        assert await known(pi, server)
        await pi.checked(server)
    return [portal.record(hold_id) for hold_id in hold_ids]


async def known(pi: Person, server: str) -> bool:
    return await pi.server(server) is not None


async def forgotten(pi: Person, server: str) -> None:
    async def gone() -> bool:
        return not await known(pi, server)

    await eventually(gone, within_s=OUT_OF_REACH_S, what="the hub forgets the server")


def runs(record: SessionRecord) -> bool:
    return processes.is_running(record.runner_pid, record.runner_started)


async def home(portal: RealPortal, pi: Person) -> str:
    async with pi.http.get(f"{portal.url}services/quota/") as page:
        assert page.status == 200
        return text_of(await page.text())


async def over(portal: RealPortal, pi: Person, server: str) -> dict[str, Any]:
    """The session, settled to the millisecond of its true end; its runner leaves right after it wrote that down."""
    found = await exact(portal, pi, server)

    async def left() -> bool:
        return not runs(portal.record(found["hold_id"]))

    await eventually(left, within_s=PATIENCE_S, what="its runner is gone")
    return found


async def nothing_left(portal: RealPortal) -> None:
    assert portal.live_sessions() == []
    assert await asyncio.to_thread(open_holds, portal) == 0
    assert await asyncio.to_thread(portal.verified) == []


async def test_a_stop_that_failed_and_that_the_hub_forgot_is_carried_out_once_the_backend_can_be_told(
    portal: RealPortal, pi: Person, project: str
) -> None:
    """One by its owner on our page, one on the hub's own, which removes the named server, too."""
    stuck, removed = await adopted(portal, pi, project, "stuck", "removed")
    async with out_of_reach(portal):
        status, answer = await pi.api("POST", f"/sessions/{stuck.hold_id}/stop")
        assert status == 202, answer
        status, answer = await pi.hub("DELETE", "/users/pi/servers/removed", {"remove": True})
        assert status in (202, 204), answer
        await forgotten(pi, "stuck")
        await forgotten(pi, "removed")
        assert runs(stuck)
        assert runs(removed)
        assert (await session(pi, "stuck"))["state"] == "stopping"
        assert "stopping" in await home(portal, pi)  # and not that nothing runs
    assert (await over(portal, pi, "stuck"))["stop_reason"] == "owner"
    end = portal.record(stuck.hold_id)
    assert (end.end_reason, end.stop_reason) == (EndReason.STOPPED, "owner")
    await over(portal, pi, "removed")
    assert not await known(pi, "stuck")
    assert not await known(pi, "removed")
    await nothing_left(portal)


async def test_a_stop_that_failed_while_nobody_could_be_told_leaves_a_session_that_its_owner_sees_and_stops(
    portal: RealPortal, pi: Person, project: str
) -> None:
    (record,) = await adopted(portal, pi, project, "unheard")
    await asyncio.to_thread(portal.kill_quota)
    async with out_of_reach(portal):
        status, answer = await pi.hub("DELETE", "/users/pi/servers/unheard")
        assert status in (202, 204), answer
        await forgotten(pi, "unheard")
    assert runs(record)
    await asyncio.to_thread(portal.start_quota)

    async def back() -> bool:
        server = await pi.server("unheard")
        return server is not None and bool(server["ready"])

    await eventually(back, within_s=PATIENCE_S, what="the hub takes the session over")
    assert runs(record)
    assert (await session(pi, "unheard"))["state"] == "running"
    await pi.stop("unheard")
    await over(portal, pi, "unheard")
    await nothing_left(portal)
