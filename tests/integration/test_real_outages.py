"""Sessions through outages of a real hub, a real proxy and a real quota service: nothing stops, nothing is lost, bills are exact.

One portal for all of them; each test leaves nothing running. Times are short by default and those of the promises with --full.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
from sqlalchemy import text

from spawners.records import EndReason
from tests.integration.real_portal import RealPortal, full
from tests.people import Person
from tests.ports import free_port
from tests.waiting import PATIENCE_S, eventually
from tests.world import awarded_project

pytestmark = pytest.mark.timeout(int(full(1200, 3600)))
KILLS = int(full(2, 50))
DARK_S = full(2, 180)
AWAY_S, RUNTIME_S = full(0, 1200), int(full(30, 600))  # it has to be ready long before its end, also on a busy machine
SILENT_S = full(0, 600)


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPortal]:
    one = RealPortal(tmp_path_factory.mktemp("real") / "data")
    try:
        yield one.start()
    finally:
        one.end()


@pytest.fixture
async def pi(portal: RealPortal) -> AsyncIterator[Person]:
    async with Person(portal.as_portal, "pi") as person:
        yield person


@pytest.fixture(scope="module")
def projects() -> dict[str, str]:
    """The one project of all these tests, once it is made."""
    return {}


@pytest.fixture
async def project(portal: RealPortal, pi: Person, projects: dict[str, str]) -> str:
    if not projects:
        async with Person(portal.as_portal, "admin") as admin:
            projects["id"] = await awarded_project(pi, admin, gpu_hours="1000", tokens=0)
    return projects["id"]


async def session(pi: Person, server: str) -> dict[str, Any]:
    """The newest session of a server, as the quota service shows it."""
    status, listed = await pi.api("GET", "/sessions")
    assert status == 200, listed
    found: dict[str, Any] | None = next((one for one in listed["sessions"] if one["server_name"] == server), None)
    assert found is not None, f"no session of {server}"
    return found


async def in_state(pi: Person, server: str, state: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        try:
            found = await session(pi, server)
        except (AssertionError, aiohttp.ClientError):
            return None
        return found if found["state"] == state else None

    return await eventually(look, within_s=PATIENCE_S, what=f"{server} is {state}")


async def exact(portal: RealPortal, pi: Person, server: str) -> dict[str, Any]:
    """The session once it is settled: charged to the millisecond of its runner's record."""
    found = await in_state(pi, server, "settled")
    record = portal.record(found["hold_id"])
    assert record.ended_at_ms is not None
    assert found["charged"] == found["gpus"] * (record.ended_at_ms - record.started_at_ms)
    return found


async def test_a_hub_killed_between_hold_and_start_again_and_again_leaves_no_orphan(
    portal: RealPortal, pi: Person, project: str
) -> None:
    for number in range(KILLS):
        name, holds = f"killed-{number}", await asyncio.to_thread(all_holds, portal)
        (portal.data / "pause").touch()
        options = {"project": project, "profile": "gpu1", "runtime_s": 3600}
        status, answer = await pi.hub("POST", f"/users/pi/servers/{name}", {"user_options": options})
        assert status in (201, 202), answer

        async def placed(before: int = holds) -> bool:
            return await asyncio.to_thread(all_holds, portal) > before

        await eventually(placed, within_s=PATIENCE_S, what="the hold stands", every_s=0.05)
        portal.kill_hub()
        (portal.data / "pause").unlink()
        await asyncio.to_thread(portal.start_hub)
    assert portal.live_sessions() == []

    async def closed() -> bool:
        await asyncio.to_thread(portal.reconcile)
        return await asyncio.to_thread(open_holds, portal) == 0

    await eventually(closed, within_s=PATIENCE_S, what="no hold is open", every_s=1)
    status, listed = await pi.api("GET", "/sessions")
    killed = [one for one in listed["sessions"] if one["server_name"].startswith("killed-")]
    assert len(killed) == KILLS
    assert {(one["state"], one["charged"]) for one in killed} == {("failed", 0)}
    assert portal.live_sessions() == []


async def test_a_backend_that_is_dark_while_the_hub_starts_loses_no_session(
    portal: RealPortal, pi: Person, project: str
) -> None:
    await pi.start(project, server="dark")
    hold_id = (await in_state(pi, "dark", "running"))["hold_id"]
    sessions = portal.data / "sessions"
    sessions.rename(portal.data / "sessions.away")
    portal.kill_hub()
    await asyncio.to_thread(portal.start_hub)
    await in_state(pi, "dark", "unknown")
    await asyncio.sleep(DARK_S)
    assert await pi.server("dark") is not None
    assert (await session(pi, "dark"))["state"] == "unknown"
    (portal.data / "sessions.away").rename(sessions)
    await in_state(pi, "dark", "running")
    assert portal.live_sessions() == [hold_id]
    assert await pi.server("dark") is not None
    await pi.stop("dark")
    await exact(portal, pi, "dark")


async def test_while_the_quota_service_is_away_a_deadline_is_kept_and_the_bill_is_exact_afterwards(
    portal: RealPortal, pi: Person, project: str
) -> None:
    await pi.start(project, server="late", runtime_s=RUNTIME_S)
    hold_id = portal.live_sessions()[0]
    portal.kill_quota()
    await asyncio.sleep(AWAY_S)

    async def over() -> bool:
        return portal.record(hold_id).ended

    await eventually(over, within_s=PATIENCE_S, what="the session ended by itself")
    await asyncio.to_thread(portal.start_quota)
    found = await exact(portal, pi, "late")
    record = portal.record(hold_id)
    assert record.end_reason is EndReason.DEADLINE
    assert record.ended_at_ms is not None
    assert 0 <= record.ended_at_ms - (record.started_at_ms + RUNTIME_S * 1000) <= 60_000
    assert found["end_reason"] == "deadline"


async def test_a_meter_that_is_silent_while_a_session_runs_bills_the_exact_gap_later_and_nothing_twice(
    portal: RealPortal, pi: Person, project: str
) -> None:
    await pi.start(project, server="unmetered", profile="gpu2")
    hold_id = (await in_state(pi, "unmetered", "running"))["hold_id"]
    await asyncio.to_thread(portal.silence_quota)
    before = await asyncio.to_thread(billed, portal, hold_id)
    try:
        await asyncio.sleep(SILENT_S)
        alive = portal.record(hold_id).last_alive_ms

        async def went_on() -> bool:  # a proof of life that no meter saw
            return portal.record(hold_id).last_alive_ms > max(alive, portal.record(hold_id).started_at_ms)

        await eventually(went_on, within_s=PATIENCE_S, what="the session lives on")
    finally:
        portal.silence_quota(False)

    async def caught_up() -> list[tuple[int, int, int]] | None:
        await asyncio.to_thread(portal.reconcile)
        found = await asyncio.to_thread(billed, portal, hold_id)
        return found if len(found) > len(before) else None

    after = await eventually(caught_up, within_s=PATIENCE_S, what="the gap is billed")
    started_us = portal.record(hold_id).started_at_ms * 1000
    seen_us = before[-1][1] if before else started_us
    gap = after[len(before)]
    assert (after[: len(before)], gap[0]) == (before, seen_us)
    assert gap[1] - gap[0] >= (SILENT_S - 10) * 1_000_000  # one record for all of it, but for the last heartbeat
    assert gap[2] == 2 * (gap[1] - gap[0]) // 1000
    await pi.stop("unmetered")
    found = await exact(portal, pi, "unmetered")
    slices = await asyncio.to_thread(billed, portal, hold_id)
    assert slices[0][0] == started_us
    assert all(one[1] == next_one[0] for one, next_one in itertools.pairwise(slices))
    assert sum(one[2] for one in slices) == found["charged"]


async def test_a_rescue_session_starts_without_the_quota_service_and_is_counted_when_it_is_back(
    portal: RealPortal, pi: Person, project: str
) -> None:
    await pi.start(project, server="before")  # from then on the hub knows them on this project
    await pi.stop("before")
    portal.kill_quota()
    options = {"project": project, "profile": "gpu1", "runtime_s": 60}
    await pi.hub("POST", "/users/pi/servers/costs", {"user_options": options})

    async def refused() -> bool:
        return (await pi.server("costs") or {"pending": None})["pending"] is None

    await eventually(refused, within_s=PATIENCE_S, what="what costs is refused")
    assert portal.live_sessions() == []
    await pi.start(project, profile="rescue", runtime_s=3600, server="rescue")
    hold_id = portal.live_sessions()[0]
    portal.kill_hub()  # the journal outlives it
    await asyncio.to_thread(portal.start_hub)
    await asyncio.to_thread(portal.start_quota)
    assert (await in_state(pi, "rescue", "running"))["hold_id"] == hold_id
    assert await asyncio.to_thread(rescue_ms, portal) == (0, 3_600_000)
    await pi.stop("rescue")
    found = await in_state(pi, "rescue", "settled")
    record = portal.record(hold_id)
    assert record.ended_at_ms is not None
    assert (found["charged"], found["end_reason"]) == (0, "stopped")
    assert await asyncio.to_thread(rescue_ms, portal) == (record.ended_at_ms - record.started_at_ms, 0)


async def test_of_two_hubs_by_mistake_the_stale_one_gets_409_and_stops_nothing(
    portal: RealPortal, pi: Person, project: str
) -> None:
    await pi.start(project, server="fenced")
    hold_id = (await in_state(pi, "fenced", "running"))["hold_id"]
    second = await asyncio.to_thread(portal.start_second_hub, free_port())
    try:
        token = {"Authorization": f"token {pi.token}"}
        service = {"Authorization": f"token {portal.secret('quota_api_token')}"}
        stale = f"http://127.0.0.1:{portal.hub_port}/hub/api"
        order = {"hold_id": hold_id, "reason": "idle", "grace_s": 1}

        async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as http:

            async def took_over() -> bool:
                epochs = [
                    (await http.get(f"{hub}/commons/sessions", headers=service)).json()["epoch"]
                    for hub in (stale, second)
                ]
                return None not in epochs and epochs[1] == epochs[0] + 1

            await eventually(took_over, within_s=PATIENCE_S, what="the second hub has the newer epoch")
            by_service = await http.post(f"{stale}/commons/sessions/pi/fenced/stop", json=order, headers=service)
            assert by_service.status_code == 409
            by_owner = await http.delete(f"{stale}/users/pi/servers/fenced", headers=token)
            assert by_owner.status_code == 409
            assert portal.live_sessions() == [hold_id]

            async def ready_there() -> bool:
                listed = (await http.get(f"{second}/commons/sessions", headers=service)).json()["sessions"]
                return [one["ready"] for one in listed if one["hold_id"] == hold_id] == [True]

            await eventually(ready_there, within_s=PATIENCE_S, what="the second hub has looked at the session")
            by_new = await http.delete(f"{second}/users/pi/servers/fenced", headers=token)
            assert by_new.status_code in (202, 204)
        await exact(portal, pi, "fenced")
    finally:
        await asyncio.to_thread(portal.end_second_hub)
        portal.kill_hub()
        await asyncio.to_thread(portal.start_hub)
    assert await asyncio.to_thread(portal.verified) == []


def billed(portal: RealPortal, hold_id: str) -> list[tuple[int, int, int]]:
    """What a session was billed for so far, oldest first: from and to in microseconds, and the amount."""
    database = portal.ledger()
    try:
        with database.reading() as connection:
            query = text("SELECT from_us, to_us, amount FROM usage_record WHERE hold_id = :hold ORDER BY from_us")
            return [(row.from_us, row.to_us, row.amount) for row in connection.execute(query, {"hold": hold_id})]
    finally:
        database.close()


def all_holds(portal: RealPortal) -> int:
    return int(one_value(portal, "SELECT count(*) FROM hold WHERE kind = 'session'")[0])


def open_holds(portal: RealPortal) -> int:
    return int(one_value(portal, "SELECT count(*) FROM hold WHERE kind = 'session' AND state = 'held'")[0])


def rescue_ms(portal: RealPortal) -> tuple[int, int]:
    charged, held = one_value(portal, "SELECT charged, held FROM limit_counter WHERE id LIKE 'rescue:%'")
    return int(charged), int(held)


def one_value(portal: RealPortal, query: str) -> Any:
    database = portal.ledger()
    try:
        with database.reading() as connection:
            return connection.execute(text(query)).one()
    finally:
        database.close()
