"""What our portal adds to a start, and whether a session is charged for its process's own lifetime.

Our hub with its real quota service and a stock JupyterHub start the same stub in turns, so that whatever else the machine does hits
both; the goal is on the difference of the medians. A real notebook's ratio is printed too, and the time of the parts: admission
(pre-spawn hook, in it the call for the hold), the spawner's start (in ours the runner), the rest (probe, route, hub's database).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench import timed_start
from tests.bench.process_lifetime import Lifetime, oldest_marked
from tests.bench.result import BenchResult, Better, Goal
from tests.bench.spawn_hubs import MARK, WHO, Hubs, Program
from tests.integration.hub_process import Browser
from tests.waiting import eventually

ADDED_GOAL_MS: Final = 100.0
CHARGE_GOAL_MS: Final = 1000.0
STARTS: Final = 30
NOTEBOOKS, NOTEBOOKS_FULL = 3, 5
WARM_UP: Final = 2
SESSION_S: Final = 60
STUB_PROBE_S, NOTEBOOK_PROBE_S = 0.01, 0.05
# After a stop the quota service still settles, and the runner leaves: not during the next start.
PAUSE_S: Final = 0.3
SETTLED_WITHIN_S: Final = 60


@dataclass(frozen=True)
class Start:
    """One start: milliseconds from the order to a server that is ready, and of the parts that the hub noted."""

    total_ms: float
    parts_ms: dict[str, float]

    @property
    def rest_ms(self) -> float:
        """What is neither admission nor the spawner's start."""
        noted = (timed_start.ADMISSION, timed_start.SPAWNER)
        return self.total_ms - sum(self.parts_ms.get(part, 0.0) for part in noted)


@dataclass
class Starts:
    """The counted starts of one hub."""

    browser: Browser
    options: dict[str, Any]
    starts: list[Start] = field(default_factory=list)

    def once(self) -> Start:
        """Start, wait until ready, stop."""
        began_s = time.perf_counter()
        answer = self.browser.start(self.options)
        assert answer.status_code in (201, 202), answer.text
        if answer.status_code == 202:
            await_ready(self.browser)
        total_ms = (time.perf_counter() - began_s) * 1000
        self.browser.stop()
        return Start(total_ms, timed_start.read(self.browser.hub.data))

    def median(self, of: Callable[[Start], float]) -> float:
        """The median of one figure."""
        return statistics.median(of(start) for start in self.starts)

    def part(self, name: str) -> float:
        """The median of one noted part."""
        return self.median(lambda start: start.parts_ms.get(name, 0.0))

    @property
    def total(self) -> float:
        """The median of the whole."""
        return self.median(lambda start: start.total_ms)


def await_ready(browser: Browser) -> None:
    """Follow the hub's progress events to the one that says ready. Raises AssertionError where the start failed."""
    with browser.http.stream("GET", f"/hub/api/users/{browser.user}/server/progress", timeout=120) as events:
        for line in events.iter_lines():
            event = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            assert not event.get("failed"), event
            if event.get("ready"):
                return
    raise AssertionError("the progress events ended before the server was ready")


def in_turns(hubs: Hubs, rounds: int, warm_up: int) -> tuple[Starts, Starts]:
    """Starts at ours and at the stock hub, each round in the other order; the first `warm_up` rounds are not counted."""
    order = {"project": hubs.project_id, "profile": "gpu1", "runtime_s": 600}
    ours, vanilla = Starts(hubs.at_ours, order), Starts(hubs.at_vanilla, {})
    for number in range(warm_up + rounds):
        for hub in (ours, vanilla) if number % 2 else (vanilla, ours):
            one = hub.once()
            if number >= warm_up:
                hub.starts.append(one)
            time.sleep(PAUSE_S)
    return ours, vanilla


def stub_figures(ours: Starts, vanilla: Starts) -> Iterator[tuple[str, float]]:
    """Where the time of a stub's start goes."""
    for name, hub in (("ours", ours), ("vanilla", vanilla)):
        yield f"{name}_ms", hub.total
        yield f"{name}_p90_ms", statistics.quantiles([start.total_ms for start in hub.starts], n=10)[8]
    yield "admission_ms", ours.part(timed_start.ADMISSION)
    yield "of_it_hold_call_ms", ours.part(timed_start.HOLD)
    yield "spawner_ours_ms", ours.part(timed_start.SPAWNER)
    yield "spawner_vanilla_ms", vanilla.part(timed_start.SPAWNER)
    yield "rest_ours_ms", ours.median(lambda start: start.rest_ms)
    yield "rest_vanilla_ms", vanilla.median(lambda start: start.rest_ms)


@dataclass(frozen=True)
class Charged:
    """A session's charge beside the time that its process lived, in milliseconds; one GPU at rate 1, so both are times."""

    charge_ms: int
    lifetime_ms: float


def charged_session(hubs: Hubs, session_s: float) -> Charged:
    """Run a real notebook until its process is `session_s` old, stop it and wait until it is settled."""
    order = {"project": hubs.project_id, "profile": "gpu1", "runtime_s": 600}
    assert hubs.at_ours.start(order).status_code in (201, 202)
    await_ready(hubs.at_ours)
    lifetime = Lifetime(oldest_marked(MARK, str(hubs.ours.data)))
    time.sleep(max(session_s - lifetime.age_ms / 1000, 0))
    hubs.at_ours.stop()
    lived_ms = lifetime.wait_ms(within_s=30)

    async def settled() -> dict[str, Any] | None:
        row = await hubs.session()
        return row if row["state"] == "settled" else None

    row = asyncio.run(
        eventually(settled, within_s=SETTLED_WITHIN_S, what=f"the session of {WHO} is settled", every_s=1)
    )
    return Charged(int(row["charged"]), lived_ms)


def main(arguments: Sequence[str]) -> BenchResult:
    """Measure stub starts and the charge of a session against the goals, and a few real notebooks."""
    parser = argparse.ArgumentParser(prog="./commons bench spawn")
    parser.add_argument("--starts", type=int, default=STARTS, help="rounds of stub starts")
    parser.add_argument(
        "--full", action="store_true", help=f"{NOTEBOOKS_FULL} rounds of real notebooks, not {NOTEBOOKS}"
    )
    parser.add_argument("--quick", action="store_true", help="without the session of a minute and its goal")
    parser.add_argument("--stock-probe", action="store_true", help="leave the hubs' random pauses between two looks")
    options = parser.parse_args(arguments)
    figures: dict[str, float | int | str] = {"starts": options.starts}
    with tempfile.TemporaryDirectory(prefix="cc-spawn-") as name:
        folder = Path(name)
        with Hubs(folder / "stub", Program(stub=True, probe_s=None if options.stock_probe else STUB_PROBE_S)) as hubs:
            ours, vanilla = in_turns(hubs, options.starts, WARM_UP)
        figures |= dict(stub_figures(ours, vanilla))
        goals = [Goal("added_ms", ours.total - vanilla.total, ADDED_GOAL_MS, Better.LOWER)]
        probe_s = None if options.stock_probe else NOTEBOOK_PROBE_S
        with Hubs(folder / "notebook", Program(stub=False, probe_s=probe_s)) as hubs:
            ours, vanilla = in_turns(hubs, NOTEBOOKS_FULL if options.full else NOTEBOOKS, 1)
            figures |= {"notebook_ours_ms": ours.total, "notebook_vanilla_ms": vanilla.total}
            figures["notebook_ratio"] = ours.total / vanilla.total
            if not options.quick:
                session = charged_session(hubs, SESSION_S)
                figures |= {"session_charge_ms": session.charge_ms, "session_lifetime_ms": session.lifetime_ms}
                off_ms = abs(session.charge_ms - session.lifetime_ms)
                goals.append(Goal("charge_off_lifetime_ms", off_ms, CHARGE_GOAL_MS, Better.LOWER))
    return BenchResult("spawn", goals, figures)
