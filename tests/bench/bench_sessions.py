"""One reconcile and charge pass over simulated running sessions, on the real ledger and store: seconds, memory, and how both grow.

The hub and the backends are simulated at their ports (one answer for all, as the contract asks); SQLite with fsync, everything else real.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Final

import psutil

from quota.domain.hold import HoldKind, HoldOrder
from quota.domain.ids import AllocationId, HoldId, ProjectId
from quota.domain.session import Evidence, Seen, SessionTerms
from quota.domain.units import Unit
from quota.service.admit import session_of
from quota.service.meter import Meter
from quota.service.ports import Transaction
from quota.service.reconcile import reconcile
from quota.service.services import Services
from quota.service.session_ports import Asked, HubServer, HubView
from quota.store.verify import verify
from tests.bench.result import BenchResult, Better, Goal
from tests.fakes import START
from tests.integration.quota_service import Service, running_service

PASS_GOAL_S: Final = 2.0
MEMORY_GOAL_MIB: Final = 200.0
COUNTS: Final = (100, 1_000, 10_000)
PASSES: Final = 5
_RATE: Final = SessionTerms("gpu1", "lab", "gpu", 1, Fraction(1), 3600 * 24, 120, "", "")


class Backend:
    """Every session runs since START and is alive now."""

    def __init__(self, service: Service) -> None:
        self._clock = service.clock

    async def read(self, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        now = self._clock.now()
        return {one.hold_id: Evidence(one.hold_id, START, now, None) for one in asked}

    async def settled(self, hold_ids: Sequence[HoldId]) -> None:
        """Nothing to remove."""


def main(argv: Sequence[str]) -> BenchResult:
    """Run all counts, or the one given."""
    parser = argparse.ArgumentParser(prog="./commons bench sessions")
    parser.add_argument("--count", type=int, help="only this many sessions")
    options = parser.parse_args(argv)
    result = BenchResult("sessions", [])
    per_session: dict[int, float] = {}
    for count in [options.count] if options.count else COUNTS:
        pass_s, cpu_s, grown_mib = asyncio.run(_measure(count))
        per_session[count] = cpu_s / count
        result.figures[f"{count}_sessions_pass_s"] = round(pass_s, 3)
        result.figures[f"{count}_sessions_pass_cpu_s"] = round(cpu_s, 3)
        result.figures[f"{count}_sessions_memory_above_idle_mib"] = round(grown_mib, 1)
        result.figures[f"{count}_sessions_us_each"] = round(pass_s / count * 1e6, 1)
        if count == COUNTS[-1]:
            result.goals.append(Goal("10000_sessions_pass_cpu_s", cpu_s, PASS_GOAL_S, Better.LOWER))
            result.goals.append(Goal("10000_sessions_memory_above_idle_mib", grown_mib, MEMORY_GOAL_MIB, Better.LOWER))
    if COUNTS[1] in per_session and COUNTS[2] in per_session:
        growth = per_session[COUNTS[2]] / per_session[COUNTS[1]]
        result.goals.append(Goal("cost_each_of_10000_over_1000_ratio", growth, 1.5, Better.LOWER))
    return result


async def _measure(count: int) -> tuple[float, float, float]:
    """Median seconds and CPU seconds of a pass, and the peak of resident memory above what it was before the first."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_service(Path(folder)) as service:
            project = ProjectId(await service.award("pi", gpu_hours="10000000", tokens=0))
            services = await _populate(service, project, count)
            process = psutil.Process(os.getpid())
            gc.collect()
            idle = process.memory_info().rss
            peak = idle
            meter = Meter(services)
            passes, cpus = [], []
            for _ in range(PASSES):
                service.clock.tick(60)
                began_s, cpu_s = time.perf_counter(), time.process_time()
                report = await reconcile(services, meter)
                passes.append(time.perf_counter() - began_s)
                cpus.append(time.process_time() - cpu_s)
                peak = max(peak, process.memory_info().rss)
                assert report.open_session_holds == count
            assert verify(service.database) == []
            return statistics.median(passes), statistics.median(cpus), (peak - idle) / 2**20


async def _populate(service: Service, project: ProjectId, count: int) -> Services:
    """Place the holds and rows of `count` running sessions and list them on the hub."""
    services = replace(service.services, evidence=Backend(service))
    person = await services.store.read(lambda tx: tx.people.by_hub_name("pi"))
    assert person is not None
    orders = []
    for number in range(count):
        name = f"s{number}"
        terms = replace(_RATE, server_name=name, hub_name="pi")
        orders.append(
            HoldOrder(
                HoldId(f"hold-{number:06}"), HoldKind.SESSION, f"pi/{name}", person.id, project,
                AllocationId(f"{project}-gpu"), Unit.GPU_MS, 86_520_000, START, START + timedelta(days=1),
                details=terms.as_details(),
            )
        )  # fmt: skip
    holds = []
    for first in range(0, count, 1000):
        holds += await asyncio.gather(*(services.ledger.place_hold(one) for one in orders[first : first + 1000]))

    def rows(tx: Transaction) -> None:
        for hold in holds:
            tx.sessions.upsert(session_of(hold))

    await services.store.write(rows)
    service.hub_api.servers = [HubServer("pi", f"s{number}", True, None, hold.id) for number, hold in enumerate(holds)]
    service.hub_api.view = HubView()
    return services
