"""Two hubs side by side: ours as it is configured, with its real quota service, and a stock one with SimpleLocalProcessSpawner.

Invariant: both start the same program with the same clocks around the parts of a start (`tests.bench.timed_start`), each with a
data folder, a proxy and a person of its own; `end` leaves no process of either.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import httpx
from jupyterhub import __version__

from spawners import processes
from tests.bench import stock_hub, stub_server
from tests.integration.hub_process import Browser, HubProcess
from tests.people import Person
from tests.portal import ROOT, Portal
from tests.waiting import until
from tests.world import awarded_project

WHO: Final = "pi"
MARK: Final = "BENCH_DATA"  # every process of a session carries it, with its hub's data folder

_OURS: Final = """
from spawners.dispatch import DispatchSpawner as Stock
from tests.bench import timed_start
timed_start.time_holds()
"""
_VANILLA: Final = """
from jupyterhub.spawner import SimpleLocalProcessSpawner as Stock
from tests.bench import timed_start
c.SimpleLocalProcessSpawner.home_dir_template = f"{DATA}/homes/{{username}}"
c.Spawner.cmd = [os.path.join(os.path.dirname(sys.executable), "jupyterhub-singleuser")]
c.Spawner.args = ["--allow-root"] if os.geteuid() == 0 else []
c.Spawner.http_timeout = 60
"""
_BOTH: Final = """
c.JupyterHub.spawner_class = timed_start.timed(Stock)
c.Spawner.environment = {"BENCH_DATA": os.environ["COMMONS_DATA"], "BENCH_HUB_VERSION": os.environ["BENCH_HUB_VERSION"]}
if os.environ["BENCH_STUB"]:
    c.Spawner.cmd = [sys.executable, "-S", "-E", "-s", os.environ["BENCH_STUB"]]
if os.environ["BENCH_PROBE_S"]:
    timed_start.probe_every(float(os.environ["BENCH_PROBE_S"]))
"""


@dataclass(frozen=True)
class Program:
    """What both hubs start, and how often they look whether it is up (None: as a stock hub does)."""

    stub: bool
    probe_s: float | None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the configurations read."""
        return {
            "BENCH_STUB": str(stub_server.__file__) if self.stub else "",
            "BENCH_PROBE_S": "" if self.probe_s is None else str(self.probe_s),
            "BENCH_HUB_VERSION": __version__,
        }


class Hubs:
    """Ours and the stock one, up and with somebody signed in: a context manager."""

    def __init__(self, folder: Path, program: Program) -> None:
        self.ours = HubProcess(folder / "ours", site=_OURS + stock_hub.OURS + _BOTH, fake_quota=False)
        self.vanilla = HubProcess(folder / "vanilla", site=stock_hub.HEAD + _VANILLA + _BOTH, fake_quota=False)
        for hub in (self.ours, self.vanilla):
            hub.environment |= program.environment
        self._quota: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Hubs:
        try:
            self._start_quota()
            self.vanilla.start()
            self.ours.start()
            self._await_quota()
            self.at_vanilla = stock_hub.sign_in(self.vanilla, WHO)
            self.at_ours = Browser(self.ours, WHO).sign_in()
            self.project_id = asyncio.run(self._project())
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End everything, sessions included."""
        for hub in (self.ours, self.vanilla):
            hub.end()
            processes.kill_marked(MARK, str(hub.data))
        if self._quota is not None:
            self._quota.terminate()
            self._quota.wait(30)

    @property
    def portal(self) -> Portal:
        """Our hub as `tests.people` expects a portal."""
        return cast(Portal, _AsPortal(self.ours))

    async def session(self) -> dict[str, Any]:
        """The newest session of `WHO`, as the quota service shows it."""
        async with Person(self.portal, WHO) as person:
            status, answer = await person.api("GET", "/sessions")
        assert status == 200, (status, answer)
        newest: dict[str, Any] = max(answer["sessions"], key=lambda row: str(row["started_at"] or ""))
        return newest

    def _start_quota(self) -> None:
        web_parts = str(ROOT / ".tools" / "node" / "node_modules")
        argv = [sys.executable, "-m", "quota.main", "serve"]
        with (self.ours.data / "logs" / "quota.log").open("ab") as log:
            environment = {**self.ours.environment, "COMMONS_WEB_PARTS": web_parts}
            self._quota = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)

    def _await_quota(self) -> None:
        health = f"http://127.0.0.1:{self.ours.quota_port}/services/quota/api/health"

        def up() -> bool:
            try:
                return httpx.get(health, timeout=5, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        until(up, within_s=60, what="the quota service answers")

    async def _project(self) -> str:
        """A project with plenty of GPU-hours, made through the real interfaces."""
        async with Person(self.portal, WHO) as pi, Person(self.portal, "admin") as admin:
            return await awarded_project(pi, admin, gpu_hours="1000", tokens=0)


class _AsPortal:
    def __init__(self, hub: HubProcess) -> None:
        self.url = hub.url
        self.api = f"{hub.url}services/quota/api"
        self.password = hub.password
