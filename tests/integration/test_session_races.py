"""Stops, extensions, deadlines, suspensions and settlements that meet, with hub, ledger and store failing in the middle of each.

On the real ledger and store. The backend ends sessions by itself at the end that it was given last; its hub loses orders before or after
they were carried out. 20 sessions on SQLite by default; 200 with three seeds on either engine with --full.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quota.domain.errors import QuotaError, RefusalCode, Refused, Unavailable
from quota.domain.ids import HoldId, ProjectId
from quota.domain.session import ExtensionState
from quota.service import endings, sessions
from quota.service.callers import Caller, caller_of
from quota.service.extend import extend
from quota.service.meter import Meter
from quota.service.session_ports import StopOrder
from tests.fakes import FakeHub
from tests.integration.quota_service import Service, running_service
from tests.integration.test_session_faults import SESSIONS, Backend, World, charged

FULL = os.environ.get("COMMONS_FULL") == "1"
CASES = [(seed, engine) for seed in range(3) for engine in ("sqlite", "postgresql")] if FULL else [(7, "sqlite")]
RUNTIME = timedelta(hours=1)


class Hub(FakeHub):
    """Carries orders out at the backend; while it is shaky, the order or its answer is lost."""

    def __init__(self, backend: Backend, chance: random.Random) -> None:
        super().__init__()
        self.backend, self.chance, self.shaky = backend, chance, False
        self.ends: dict[HoldId, datetime] = {}

    def alive(self, hold_id: HoldId) -> bool:
        truth = self.backend.truths.get(hold_id)
        return truth is not None and bool(truth.runs) and not truth.over

    def end_of(self, hold_id: HoldId) -> datetime:
        return self.ends.get(hold_id, self.backend.truths[hold_id].runs[0][0] + RUNTIME)

    async def set_deadline(self, hub_name: str, server_name: str, hold_id: HoldId, ends_at: datetime) -> Refused | None:
        self._reached()
        await asyncio.sleep(self.chance.random() * 0.004)
        refusal = None
        if not self.alive(hold_id) or self.end_of(hold_id) <= self.backend.now:
            refusal = Refused(RefusalCode.BACKEND_REFUSED, {"why": "it is ending"})
        else:
            self.ends[hold_id] = ends_at
        self._answered()
        return refusal

    async def stop_session(self, order: StopOrder) -> bool:
        self._reached()
        await super().stop_session(order)
        await asyncio.sleep(self.chance.random() * 0.004)
        if self.alive(order.hold_id):
            self.ends[order.hold_id] = min(self.end_of(order.hold_id), self.backend.now)
        self._answered()
        return True

    def _reached(self) -> None:
        if self.down or (self.shaky and self.chance.random() < 0.3):
            raise Unavailable("the order was lost")

    def _answered(self) -> None:
        if self.shaky and self.chance.random() < 0.5:
            raise Unavailable("the answer was lost")


class Races(World):
    """People and policy act on sessions at the same instant as the reconciler looks."""

    def __init__(self, service: Service, project: ProjectId, seed: int, pi: Caller) -> None:
        super().__init__(service, project, seed)
        self.pi, self.asked = pi, 0
        self.hub = Hub(self.backend, self.chance)
        service.hub_api = self.hub
        self.services = replace(self.services, hub=self.hub)
        self.meter = Meter(self.services)

    async def act(self) -> None:
        self.backend.now += timedelta(milliseconds=self.chance.randrange(1_000, 400_000))
        self.service.clock.at = self.backend.now
        await self.ends_come()
        self.hub.shaky = self.chance.random() < 0.4
        several = self.chance.sample(
            [self.start, self.start, self.more, self.more, self.stop, self.suspend, self.fault, self.heal], 3
        )
        await asyncio.gather(self.look(), *(one() for one in several))
        if self.chance.random() < 0.5:
            await self.heal()

    async def ends_come(self) -> None:
        """The backend ends what is due, at its end or up to a minute later; the hub may hint at it."""
        for hold_id, truth in list(self.backend.truths.items()):
            if self.hub.alive(hold_id) and self.hub.end_of(hold_id) <= self.backend.now:
                gone_at = self.hub.end_of(hold_id) + timedelta(milliseconds=int(hold_id[-4:]) * 7919 % 60_000)
                if self.backend.now < gone_at:
                    continue
                truth.runs[-1], truth.over = (truth.runs[-1][0], gone_at), True
                self.hub.servers = [one for one in self.hub.servers if one.hold_id != hold_id]
                if self.chance.random() < 0.5:
                    await self._hint(hold_id)

    def one_alive(self) -> HoldId | None:
        alive = [hold_id for hold_id in self.backend.truths if self.hub.alive(hold_id)]
        return self.chance.choice(alive) if alive else None

    async def more(self) -> None:
        """Extend, sometimes clicked twice, sometimes with an id from before."""
        hold_id = self.one_alive()
        if hold_id is None:
            return
        self.asked += 1
        name = f"more-{hold_id}-{self.asked if self.chance.random() < 0.8 else max(0, self.asked - 1)}"
        clicks = [extend(self.services, self.pi, hold_id, name, 600) for _ in range(self.chance.choice([1, 2]))]
        for answer in await asyncio.gather(*clicks, return_exceptions=True):
            assert not isinstance(answer, BaseException) or isinstance(answer, QuotaError), answer

    async def stop(self) -> None:
        hold_id = self.one_alive()
        if hold_id is not None and self.chance.random() < 0.3:
            await self._calmly(sessions.stop(self.services, self.pi, hold_id))

    async def suspend(self) -> None:
        if self.chance.random() < 0.2:
            await self._calmly(
                endings.suspend_project(self.services, self.pi, self.project, finish=False, reason="why")
            )
            await self._calmly(endings.resume_project(self.services, self.pi, self.project, reason="why"))

    async def _calmly(self, doing: Any) -> None:
        try:
            await doing
        except QuotaError:
            return


@pytest.mark.timeout(1200 if FULL else 600)
@pytest.mark.parametrize(("seed", "engine"), CASES)
async def test_when_stops_extensions_ends_and_settlements_meet_nobody_runs_beyond_their_hold_and_every_bill_is_exact(
    tmp_path: Path, seed: int, database_url: str
) -> None:
    async with running_service(tmp_path, database_url) as service:
        project = ProjectId(await service.award("pi", gpu_hours="10000", tokens=0))
        world = Races(service, project, seed, await caller_of(service.services, "pi", frozenset()))
        while len(world.backend.truths) < SESSIONS or world.chance.random() < 0.9:
            await world.act()
        await world.heal()
        world.hub.shaky = False
        world.backend.now += timedelta(seconds=1)  # the next hub is a later one than the last hold
        world.service.clock.at = world.backend.now
        await world.look()  # what was asked while something was away is carried out or given back
        assert await world.settle_down() == 0
        assert await service.services.store.read(lambda tx: tx.sessions.open_extensions()) == []
        bills = charged(service)
        for hold_id, truth in world.backend.truths.items():
            assert bills.get(hold_id, 0) == truth.gpus * truth.used_ms(world.backend.now), (hold_id, truth)
        assert beyond_their_hold(service) == []
        for row in await sessions.mine(service.services, world.pi, limit=10_000):
            assert row.extended_s == await applied_s(service, row.hold_id), row
        assert service.verified() == []
        assert await applied_s(service) > 0  # else nothing met


def beyond_their_hold(service: Service) -> list[str]:
    with service.database.reading() as connection:
        rows = connection.execute(text("SELECT id FROM hold WHERE kind = 'session' AND charged > amount"))
        return [row.id for row in rows]


async def applied_s(service: Service, hold_id: HoldId | None = None) -> int:
    with service.database.reading() as connection:
        query = text("SELECT hold_id, seconds FROM session_extension WHERE state = :state")
        rows = connection.execute(query, {"state": ExtensionState.APPLIED.value}).all()
        return sum(row.seconds for row in rows if hold_id in (None, row.hold_id))
