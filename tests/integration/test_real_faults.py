"""Sessions of a real portal under random faults: hub, proxy, quota service and database killed or cut off, clocks wrong, zones changing, the
meter silent.

Sessions are stubs under real runners, so that there can be many. 6 sessions and 6 faults by default on PostgreSQL, 200 and 60 with --full on
either engine: Σ charges = Σ evidence to the millisecond, no intervals that overlap, no open hold after two passes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text

from spawners import records
from tests.integration.postgres import Postgres, running_postgres
from tests.integration.real_portal import RealPortal, full
from tests.people import Person
from tests.waiting import eventually
from tests.world import awarded_project

pytestmark = pytest.mark.timeout(int(full(1200, 3600)))
SESSIONS, FAULTS, AT_ONCE = int(full(6, 200)), int(full(6, 60)), 24
SILENT_S = full(1, 20)  # ten minutes of it: test_real_outages
CALM_S = full(2, 10)
PAST_GRACE_S = 1.5  # of `ended_grace` in real_portal
ENGINES = ("sqlite", "postgresql") if os.environ.get("COMMONS_FULL") == "1" else ("postgresql",)
# A zone whose clocks changed since, and will: the service's own zone must not matter.
ZONE = "America/New_York"
AN_HOUR_S = 3600.0


@dataclass
class Chaos:
    """What strikes the portal; `heal` puts everything back."""

    portal: RealPortal
    server: Postgres | None
    chance: random.Random = field(default_factory=lambda: random.Random(4))
    struck: list[str] = field(default_factory=list)

    def strike(self, number: int) -> None:
        kinds = ["hub", "clock", *(["database"] if self.server else []), "cut off", "quota", "silent", "proxy"]
        kinds += ["connection"] if self.server else []
        kind = kinds[number % len(kinds)] if number < len(kinds) else self.chance.choice(kinds)
        self.struck.append(kind)
        if kind == "hub":
            self.portal.kill_hub()
            self.portal.start_hub()
        elif kind == "proxy":
            self.portal.kill_proxy()
            self.portal.start_proxy()
        elif kind in ("quota", "clock"):
            self.portal.kill_quota()
            self.portal.zone = self.chance.choice(["UTC", ZONE])
            self.portal.clock_s = self.chance.choice([-AN_HOUR_S, AN_HOUR_S, 0.0]) if kind == "clock" else 0.0
            self.portal.start_quota()
        elif kind == "silent":
            self.portal.silence_quota()
            time.sleep(SILENT_S)
            self.portal.silence_quota(False)
        elif kind == "cut off":
            self.portal.silence_quota()
            self.portal.kill_hub()  # what it was told meanwhile is lost
            self.portal.silence_quota(False)
            self.portal.start_hub()
        elif self.server is not None and kind == "database":
            self.server.kill()
            self.server.start()
        elif self.server is not None:
            self.server.kill_session()

    def heal(self) -> None:
        self.portal.kill_quota()
        self.portal.clock_s, self.portal.zone = 0.0, "UTC"
        self.portal.start_quota()


@pytest.fixture(params=ENGINES)
def chaos(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chaos]:
    if request.param == "sqlite":
        yield from _running(tmp_path, None)
        return
    with running_postgres() as server:
        yield from _running(tmp_path, server)


def _running(folder: Path, server: Postgres | None) -> Iterator[Chaos]:
    portal = RealPortal(folder / "data", database="" if server is None else server.new_database())
    try:
        yield Chaos(portal.start(), server)
    finally:
        portal.end()


async def one_session(pi: Person, project: str, number: int, chance: random.Random) -> None:
    """Have it run, however often that has to be asked; let it run a little, and ask once for its stop."""
    name, options = f"s{number}", {"project": project, "profile": chance.choice(["gpu1", "gpu2"]), "runtime_s": 3600}

    async def taken() -> bool:
        with suppress(aiohttp.ClientError, TimeoutError, AssertionError):
            status, _ = await pi.hub("POST", f"/users/pi/servers/{name}", {"user_options": options})
            server = await pi.server(name) if status in (201, 202, 400) else None
            return server is not None and bool(server["ready"])
        return False

    await eventually(taken, within_s=full(250, 1500), what=f"{name} runs", every_s=1)
    await asyncio.sleep(chance.random() * 5)
    with suppress(aiohttp.ClientError, TimeoutError):
        await pi.hub("DELETE", f"/users/pi/servers/{name}")


async def all_over(pi: Person, portal: RealPortal) -> None:
    """Every server is stopped, however often that has to be asked."""

    async def none_left() -> bool:
        try:
            status, user = await pi.hub("GET", "/users/pi")
            for name in user["servers"] if status == 200 else ():
                await pi.hub("DELETE", f"/users/pi/servers/{name}")
        except (aiohttp.ClientError, TimeoutError, TypeError):
            return False
        return status == 200 and not user["servers"] and portal.live_sessions() == []

    await eventually(none_left, within_s=240, what="every session has ended", every_s=1)


async def test_on_a_real_portal_under_random_faults_every_session_is_charged_what_its_runner_recorded(
    chaos: Chaos,
) -> None:
    portal = chaos.portal
    async with Person(portal.as_portal, "pi") as pi, Person(portal.as_portal, "admin") as admin:
        project = await awarded_project(pi, admin, gpu_hours="100000", tokens=0)
        gate = asyncio.Semaphore(AT_ONCE)

        async def guarded(number: int) -> None:
            async with gate:
                await one_session(pi, project, number, random.Random(number))

        work = [asyncio.create_task(guarded(number)) for number in range(SESSIONS)]
        for number in range(FAULTS):
            await asyncio.to_thread(chaos.strike, number)
            await asyncio.sleep(chaos.chance.random() * CALM_S)  # else nothing ever runs that a fault could meet
        await asyncio.gather(*work)
        await asyncio.to_thread(chaos.heal)
        await all_over(pi, portal)

        await asyncio.sleep(PAST_GRACE_S)  # from here on the promise is two passes
        passes = [(await asyncio.to_thread(portal.reconcile))["open_session_holds"] for _ in range(2)]
        assert passes[-1] == 0, (passes, chaos.struck)
        bills, spans = await asyncio.to_thread(written, portal)
        evidence = recorded(portal)
        assert set(evidence) <= set(bills), chaos.struck
        for hold_id, (charged, gpus) in bills.items():
            record = evidence.get(hold_id)
            used_ms = 0 if record is None else (record.ended_at_ms or 0) - record.started_at_ms
            assert charged == gpus * used_ms, (hold_id, record, chaos.struck)
        for pairs in spans.values():
            assert all(before[1] <= after[0] for before, after in itertools.pairwise(pairs))
        assert await asyncio.to_thread(portal.verified) == []
        assert len(evidence) >= SESSIONS, chaos.struck  # each ran, some more than once
        print(f"{len(bills)} holds, {len(evidence)} sessions, faults: {chaos.struck}")  # what a --full run writes down


def written(portal: RealPortal) -> tuple[dict[str, tuple[int, int]], dict[str, list[tuple[int, int]]]]:
    """From the ledger: of each session's hold what was charged and its GPUs; and the intervals of its usage, in order."""
    database = portal.ledger()
    try:
        with database.reading() as connection:
            holds = connection.execute(text("SELECT id, charged, details FROM hold WHERE kind = 'session'")).all()
            usages = connection.execute(text("SELECT hold_id, from_us, to_us FROM usage_record ORDER BY from_us")).all()
    finally:
        database.close()
    spans: dict[str, list[tuple[int, int]]] = {}
    for row in usages:
        spans.setdefault(row.hold_id, []).append((row.from_us, row.to_us))
    return {row.id: (row.charged, gpus_of(row.details)) for row in holds}, spans


def recorded(portal: RealPortal) -> dict[str, records.SessionRecord]:
    """What each session's runner wrote down; a hub that dies before it has started one leaves a folder without a record."""
    found = {}
    for folder in (portal.data / "sessions").iterdir():
        with suppress(records.RecordMissing):
            found[folder.name] = records.read(folder)
    return found


def gpus_of(details: Any) -> int:
    terms = details if isinstance(details, dict) else json.loads(details)
    return int(terms["gpus"])
