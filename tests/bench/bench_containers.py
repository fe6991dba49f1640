"""Start to ready of a notebook in a container: ours against a stock DockerSpawner with the same image on the same engine.

Both hubs run in the engine's network namespace and start the real notebook of images/base in turns, one at a time and eight at
once; ours adds the helper, a network and volumes of the session's own, the probe and the wait for the notebook's port. The goals
are on the median of the rounds' ratios: what else the machine does hits both sides of a round, and not each round alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench import stock_hub
from tests.bench.result import BenchResult, Better, Goal
from tests.engine.engine import Engine
from tests.engine.images import Images
from tests.engine.site import ContainerSite
from tests.integration.hub_process import Browser, HubProcess

GOAL: Final = 1.10
ROUNDS, ROUNDS_FULL = 5, 15
EIGHT_ROUNDS, EIGHT_ROUNDS_FULL = 5, 9
NAMES: Final = ("", "two", "three", "four")
PEOPLE: Final = ("pi", "researcher")
PROBE_S: Final = 0.05
READY_WITHIN_S: Final = 120
NETWORK: Final = "stock"
HOUR_MS: Final = 3_600_000

_PROBE: Final = f"""
from tests.bench import timed_start
timed_start.probe_every({PROBE_S})
"""
_STOCK: Final = """
c.JupyterHub.allow_named_servers = True
c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.DockerSpawner.image = os.environ["STOCK_IMAGE"]
c.DockerSpawner.cmd = ["jupyterhub-singleuser"]
c.DockerSpawner.network_name = "stock"
c.DockerSpawner.use_internal_ip = True
c.DockerSpawner.remove = True
c.DockerSpawner.pull_policy = "never"
c.DockerSpawner.mem_limit = "768M"
c.DockerSpawner.cpu_limit = 1
c.DockerSpawner.extra_create_kwargs = {"user": "20001:20001", "environment": {"HOME": "/tmp"}}
c.DockerSpawner.environment = {"HOME": "/tmp"}
c.Spawner.http_timeout = 120
c.Spawner.start_timeout = 120
"""


@dataclass
class Side:
    """One hub with two people signed in."""

    hub: HubProcess
    options: dict[str, Any]
    people: dict[str, Browser] = field(default_factory=dict)
    ones_s: list[float] = field(default_factory=list)
    eights_s: list[float] = field(default_factory=list)

    def one(self, name: str, server: str) -> None:
        """Start and wait until the pending page's events say that it is ready. Raises AssertionError where it is not."""
        browser = self.people[name]
        answer = browser.start(self.options, server)
        assert answer.status_code in (201, 202), answer.text
        path, seen = f"/hub/api/users/{name}/servers/{server}/progress", ""
        with browser.http.stream("GET", path, params={"_xsrf": browser.xsrf}, timeout=READY_WITHIN_S) as events:
            for line in events.iter_lines():
                seen += line
                if '"ready": true' in line:
                    return
        raise AssertionError(seen[-500:] + self.hub.log[-2000:])

    def time_one(self) -> float:
        began_s = time.perf_counter()
        self.one("pi", "")
        took_s = time.perf_counter() - began_s
        self.people["pi"].stop()
        return took_s

    def time_eight(self) -> float:
        """Eight at once: four servers each of two people."""
        each = [(name, server) for name in PEOPLE for server in NAMES]
        began_s = time.perf_counter()
        with ThreadPoolExecutor(len(each)) as pool:
            list(pool.map(lambda who: self.one(*who), each))
        took_s = time.perf_counter() - began_s
        with ThreadPoolExecutor(len(each)) as pool:
            list(pool.map(lambda who: self.people[who[0]].stop(who[1]), each))
        return took_s


def ours(folder: Path, site: ContainerSite) -> Side:
    """Our hub, its quota service faked at the wire."""
    hub = HubProcess(folder, site=stock_hub.OURS + _PROBE)
    hub.environment["COMMONS_PORTAL_FILE"] = str(site.portal_file)
    hub.quota.book.available = {"p1": 10_000 * HOUR_MS}
    hub.quota.book.payers = {name: ["p1"] for name in PEOPLE}
    site.load_rules(hub.hub_port, hub.quota_port)
    hub.start()
    options = {"project": "p1", "profile": "cpu", "runtime_s": 3600}
    return Side(hub, options, {name: Browser(hub, name).sign_in() for name in PEOPLE})


def stock(folder: Path, site: ContainerSite) -> Side:
    """A stock hub with DockerSpawner on the engine's own socket and one network for all."""
    client = site.engine.client()
    for left in client.networks.list(names=[NETWORK]):  # of a run that was cut off
        left.remove()
    network = client.networks.create(NETWORK, driver="bridge")
    network.reload()
    hub = HubProcess(folder, site=stock_hub.HEAD + _STOCK + _PROBE, fake_quota=False)
    hub.environment["STOCK_HOST"] = network.attrs["IPAM"]["Config"][0]["Gateway"]
    hub.environment["STOCK_IMAGE"] = site.image
    hub.environment["DOCKER_HOST"] = site.engine.url
    hub.hub_host = hub.environment["STOCK_HOST"]
    hub.start()
    return Side(hub, {}, {name: stock_hub.sign_in(hub, name) for name in PEOPLE})


def measure(sides: Sequence[Side], rounds: int, eights: int, within_s: float) -> None:
    """In turns, each round in the other order; the first start warms up. On a slow machine it ends early, with whole rounds."""
    for side in sides:
        for name in PEOPLE:
            side.one(name, "")
            side.people[name].stop()
    began_s = time.monotonic()
    for number in range(max(rounds, eights)):
        for side in sides if number % 2 else reversed(sides):
            if number < rounds:
                side.ones_s.append(side.time_one())
            if number < eights:
                side.eights_s.append(side.time_eight())
            told = [f"{took_s:.2f} s" for took_s in (*side.ones_s[number:], *side.eights_s[number:])]
            print(f"  round {number + 1}, {side.hub.data.name}, one and eight: {', '.join(told)}", flush=True)
        if time.monotonic() - began_s > within_s:
            print(f"  {within_s:g} s are over: no further round", flush=True)
            return


def ratio(ours_s: Sequence[float], stock_s: Sequence[float]) -> float:
    """The median over the rounds of ours by stock."""
    return statistics.median(mine / theirs for mine, theirs in zip(ours_s, stock_s, strict=True))


def main(arguments: Sequence[str]) -> BenchResult:
    """Measure and compare."""
    parser = argparse.ArgumentParser(prog="./commons bench containers")
    parser.add_argument("--quick", action="store_true", help="one round of each, to see that it runs")
    parser.add_argument(
        "--full", action="store_true", help=f"{ROUNDS_FULL} rounds of one, {EIGHT_ROUNDS_FULL} of eight"
    )
    parser.add_argument("--within", type=float, default=420, metavar="SECONDS", help="begin no round after these")
    options = parser.parse_args(arguments)
    rounds = (1, 1) if options.quick else (ROUNDS_FULL, EIGHT_ROUNDS_FULL) if options.full else (ROUNDS, EIGHT_ROUNDS)
    engine = Engine().start()
    sides: list[Side] = []
    try:
        with engine.namespace.inside(), tempfile.TemporaryDirectory(prefix="cc-containers-") as name:
            site = ContainerSite(engine, Images(engine.client(600), engine.home).base())
            try:
                site.start()
                sides.append(ours(Path(name) / "ours", site))
                sides.append(stock(Path(name) / "stock", site))
                measure(sides, *rounds, options.within)
            finally:
                for side in sides:
                    side.hub.end()
                site.stop()
    finally:
        engine.stop()
    mine, theirs = sides
    medians = {
        "one_ours_s": statistics.median(mine.ones_s),
        "one_stock_s": statistics.median(theirs.ones_s),
        "eight_ours_s": statistics.median(mine.eights_s),
        "eight_stock_s": statistics.median(theirs.eights_s),
    }
    goals = [
        Goal("one_ratio", ratio(mine.ones_s, theirs.ones_s), GOAL, Better.LOWER),
        Goal("eight_ratio", ratio(mine.eights_s, theirs.eights_s), GOAL, Better.LOWER),
    ]
    return BenchResult(
        "containers", goals, {**medians, "rounds": len(mine.ones_s), "rounds_of_eight": len(mine.eights_s)}
    )
