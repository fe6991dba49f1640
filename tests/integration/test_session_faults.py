"""Sessions under random faults, on the real ledger and store: what was used is charged to the millisecond, and nothing stays held.

The backend tells the truth in its own time, whatever the service's clock says. Faults: hub, ledger, store and backend away, the service's
process replaced, its clock an hour off, hubs that die between hold and start, hints twice and late; on SQLite and PostgreSQL, through a
change of daylight-saving time in the process's own zone. 20 sessions by default, 200 with --full.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quota.domain.errors import QuotaError, Unavailable
from quota.domain.hold import HoldKind
from quota.domain.ids import HoldId, ProjectId
from quota.domain.session import EndReason, Evidence, Run, Seen, Unreachable
from quota.service.admit import SessionHold, SessionHoldRequest, place_session_hold
from quota.service.hub_epoch import HUB
from quota.service.meter import Meter
from quota.service.reconcile import reconcile
from quota.service.services import Services
from quota.service.session_ports import Asked, HubServer, HubView
from tests.integration.quota_service import Service, running_service

SESSIONS = 200 if os.environ.get("COMMONS_FULL") else 20
CASES = [(seed, engine) for seed in range(5) for engine in ("sqlite", "postgresql")]
CASES = CASES if os.environ.get("COMMONS_FULL") else [(0, "sqlite"), (1, "postgresql")]
ZONE = "America/New_York"
# A quarter of an hour before its clocks change, in spring and in autumn.
CHANGES = (datetime(2026, 3, 8, 6, 45, tzinfo=UTC), datetime(2026, 11, 1, 5, 45, tzinfo=UTC))


@dataclass
class Truth:
    """One session as it really was: its runs on the hardware; nothing where it never started."""

    gpus: int
    runs: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    over: bool = False

    def used_ms(self, now: datetime) -> int:
        return sum(((end or now) - start) // timedelta(milliseconds=1) for start, end in self.runs)


class Backend:
    """Tells the truth unless it is dark; some sessions are unreadable now and then."""

    def __init__(self, chance: random.Random, now: datetime) -> None:
        self.now = now
        self.truths: dict[HoldId, Truth] = {}
        self.dark = False
        self.garbage = 0.05
        self._chance = chance

    async def read(self, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        if self.dark:
            raise Unavailable("dark")
        return {one.hold_id: self._seen(one.hold_id) for one in asked}

    async def settled(self, hold_ids: Sequence[HoldId]) -> None:
        """Nothing to remove."""

    def _seen(self, hold_id: HoldId) -> Seen:
        truth = self.truths.get(hold_id)
        if truth is None or (not truth.runs and not truth.over):
            return None
        if self._chance.random() < self.garbage:
            return Unreachable("garbage")
        if not truth.runs:
            return Evidence(hold_id, None, None, None, EndReason.NEVER_STARTED)
        runs = tuple(Run(start, end or self.now) for start, end in truth.runs)
        end = truth.runs[-1][1] if truth.over else None
        return Evidence(hold_id, runs[0].from_at, runs[-1].to_at, end, EndReason.EXITED if end else None, runs=runs)


class Flaky:
    """A port that raises Unavailable while it is down; before or after the work, as a lost reply does."""

    def __init__(self, inner: Any, chance: random.Random) -> None:
        self._inner, self._chance, self.down = inner, chance, False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.down and self._chance.random() < 0.7:
                raise Unavailable("down")
            answer = await method(*args, **kwargs)
            if self.down:
                raise Unavailable("the reply was lost")
            return answer

        return method if name == "fenced" else call


class World:
    """A service whose surroundings fail at random."""

    def __init__(self, service: Service, project: ProjectId, seed: int) -> None:
        self.chance = random.Random(seed)
        self.backend = Backend(self.chance, CHANGES[seed % len(CHANGES)])
        service.clock.at = self.backend.now
        self.service, self.project = service, project
        self.ledger = Flaky(service.services.ledger, self.chance)
        self.store = Flaky(service.services.store, self.chance)
        self.services: Services = replace(
            service.services, evidence=self.backend, ledger=self.ledger, store=self.store,
        )  # fmt: skip
        self.meter = Meter(self.services)
        self.offset = timedelta(0)

    async def act(self) -> None:
        """Time passes, something happens, the meter may look."""
        self.backend.now += timedelta(milliseconds=self.chance.randrange(1_000, 90_000))
        self.service.clock.at = self.backend.now + self.offset
        await self.chance.choice([self.fault, self.heal, self.start, self.start, self.end, self.requeue, self.look])()
        if self.chance.random() < 0.6:
            await self.look()

    async def look(self) -> None:
        try:
            await reconcile(self.services, self.meter)
        except Unavailable:
            return

    async def fault(self) -> None:
        kind = self.chance.choice(["hub", "ledger", "store", "dark", "clock", "process", "new hub"])
        if kind == "hub":
            self.service.hub_api.down = True
        elif kind == "ledger":
            self.ledger.down = True
        elif kind == "store":
            self.store.down = True
        elif kind == "dark":
            self.backend.dark = True
        elif kind == "clock":
            self.offset = timedelta(hours=self.chance.choice([-1, 1]))
        elif kind == "process":
            self.meter = Meter(self.services)
        else:
            await self.new_hub()

    async def heal(self) -> None:
        self.service.hub_api.down = self.ledger.down = self.store.down = self.backend.dark = False
        self.offset = timedelta(0)
        self.service.clock.at = self.backend.now

    async def new_hub(self) -> None:
        """The hub dies, with every start that it had not handed over, and another takes its place."""
        known = self.backend.truths
        hub = self.service.hub_api
        hub.servers = [
            one for one in hub.servers if one.hold_id and known[one.hold_id].runs and not known[one.hold_id].over
        ]
        try:
            epoch = await self.services.store.write(lambda tx: tx.fences.take(HUB, "new", self.service.clock.now()))
            hub.view = HubView(epoch=epoch)
        except Unavailable:
            return

    async def start(self) -> None:
        """A hold and, mostly, a session; or a hub that dies in between."""
        truths = self.backend.truths
        if len(truths) >= SESSIONS:
            return
        hold_id = HoldId(f"hold-{len(truths):04}")
        gpus = self.chance.choice([1, 2])
        truths[hold_id] = Truth(gpus)
        request = SessionHoldRequest(hold_id, "pi", self.project, f"gpu{gpus}", "lab", 3600, f"s{len(truths)}")
        try:
            placed = await place_session_hold(self.services, request)
        except QuotaError:
            return  # the hub starts nothing without an answer; whether a hold stands is for the reconciler
        if not isinstance(placed, SessionHold):
            return
        self.service.hub_api.servers.append(HubServer("pi", request.server_name, True, None, hold_id))
        if self.chance.random() < 0.2:
            await self.new_hub()
        elif self.chance.random() < 0.1:
            truths[hold_id].over = True  # failed before it ran
        else:
            truths[hold_id].runs.append((self.backend.now, None))

    async def end(self) -> None:
        for hold_id, truth in self.backend.truths.items():
            if truth.runs and not truth.over and self.chance.random() < 0.3:
                self._end(hold_id, truth)
                if self.chance.random() < 0.5:
                    await self._hint(hold_id)

    async def requeue(self) -> None:
        """A run ends and another begins later: between them nothing is used."""
        for truth in self.backend.truths.values():
            if truth.runs and not truth.over and truth.runs[-1][1] is None and self.chance.random() < 0.2:
                truth.runs[-1] = (truth.runs[-1][0], self.backend.now)
                self.backend.now += timedelta(milliseconds=self.chance.randrange(1, 60_000))
                truth.runs.append((self.backend.now, None))

    def _end(self, hold_id: HoldId, truth: Truth) -> None:
        start, end = truth.runs[-1]
        truth.runs[-1], truth.over = (start, end or self.backend.now), True
        hub = self.service.hub_api
        hub.servers = [one for one in hub.servers if one.hold_id != hold_id]

    async def _hint(self, hold_id: HoldId) -> None:
        for _ in range(self.chance.choice([1, 2])):
            try:
                await self.meter.ended(hold_id, "stopped")
            except QuotaError:
                return

    async def settle_down(self) -> int:
        """Faults stop, everything ends, time passes, two passes: how many holds are still open."""
        await self.heal()
        for hold_id, truth in self.backend.truths.items():
            if truth.runs and not truth.over:
                self._end(hold_id, truth)
        await self.new_hub()
        self.backend.garbage = 0.0
        for _ in range(2):
            self.backend.now += timedelta(seconds=60)
            self.service.clock.at = self.backend.now
            await reconcile(self.services, self.meter)
        return len(await self.services.ledger.open_holds(HoldKind.SESSION))


def intervals(service: Service) -> Mapping[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    with service.database.reading() as connection:
        for row in connection.execute(
            text("SELECT hold_id, from_us, to_us FROM usage_record ORDER BY hold_id, from_us")
        ):
            found.setdefault(row.hold_id, []).append((row.from_us, row.to_us))
    return found


def charged(service: Service) -> Mapping[str, int]:
    with service.database.reading() as connection:
        rows = connection.execute(text("SELECT id, charged FROM hold WHERE kind = 'session'"))
        return {row.id: row.charged for row in rows}


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is in a zone whose clocks change."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", ZONE)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(("seed", "engine"), CASES)
async def test_under_random_faults_every_session_is_charged_what_it_used_and_nothing_stays_held(
    tmp_path: Path, seed: int, database_url: str
) -> None:
    async with running_service(tmp_path, database_url) as service:
        project = ProjectId(await service.award("pi", gpu_hours="10000", tokens=0))
        world = World(service, project, seed)
        while len(world.backend.truths) < SESSIONS or world.chance.random() < 0.9:
            await world.act()
        assert await world.settle_down() == 0
        bills = charged(service)
        for hold_id, truth in world.backend.truths.items():
            assert bills.get(hold_id, 0) == truth.gpus * truth.used_ms(world.backend.now), (hold_id, truth)
        for name, spans in intervals(service).items():
            assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), name
        assert service.verified() == []
        assert sum(1 for one in world.backend.truths.values() if one.runs) > SESSIONS / 3
