"""Our hub, the real proxy and the real quota service as processes of a test, which kills and restarts each; sessions are stub servers.

A stub takes a tenth of a notebook's memory and time, so that a test can have many; runner, records and hooks are the real ones.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import httpx

from quota.main import open_ledger_database
from quota.store.database import Database
from quota.store.verify import verify
from spawners import records
from spawners.records import SessionRecord
from tests.integration.hub_process import STUBS, HubProcess
from tests.portal import ROOT, Portal
from tests.waiting import PATIENCE_S, until

_SITE: Final = """
import asyncio, os
from pathlib import Path
load_subconfig(os.environ["TEST_CONFIG"])
DATA = Path(os.environ["COMMONS_DATA"])
place_hold = c.Spawner.pre_spawn_hook

async def place_hold_and_wait(spawner):
    await place_hold(spawner)
    while (DATA / "pause").exists():
        await asyncio.sleep(0.02)

c.Spawner.pre_spawn_hook = place_hold_and_wait
c.Spawner.poll_interval = 1
c.JupyterHub.named_server_limit_per_user = 0
"""
_SETTINGS: Final = {"meter_interval": "1 s", "ended_grace": "1 s", "start_lease": "10 min"}


class RealPortal(HubProcess):
    """`clock_s`: how wrong the next quota service's clock is; `zone` its $TZ; `policy` and `traits` add to portal.toml and the hub's file."""

    def __init__(
        self, data: Path, *, database: str = "", policy: Mapping[str, str] = MappingProxyType({}), traits: str = ""
    ) -> None:
        data.parent.mkdir(parents=True, exist_ok=True)
        site = (ROOT / "portal.toml").read_text().replace('database = ""', f'database = "{database}"')
        site = site.replace(
            'meter_interval = "20 s"', "\n".join(f'{name} = "{text}"' for name, text in {**_SETTINGS, **policy}.items())
        )
        portal_file = data.parent / "portal.toml"
        portal_file.write_text(site)
        super().__init__(data, site=_SITE + STUBS + traits, fake_quota=False, portal_file=portal_file)
        self.database_url = database
        self.clock_s, self.zone = 0.0, "UTC"
        self.quota_process: subprocess.Popen[bytes] | None = None
        self.second: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        return f"{self.url}services/quota/api"

    @property
    def as_portal(self) -> Portal:
        """As `tests.people` expects a portal: address, API and passwords."""
        return cast(Portal, self)

    def start(self) -> RealPortal:
        self.start_quota(wait=False)
        super().start()
        self.await_quota()
        return self

    def start_quota(self, *, wait: bool = True) -> None:
        web_parts = str(ROOT / ".tools" / "node" / "node_modules")
        argv = [sys.executable, "-m", "tests.integration.shifted_quota", str(self.clock_s), "serve"]
        environment = {**self.environment, "COMMONS_WEB_PARTS": web_parts, "TZ": self.zone}
        with (self.data / "logs" / "quota.log").open("ab") as log:
            self.quota_process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        if wait:
            self.await_quota()

    def await_quota(self) -> None:
        health = f"http://127.0.0.1:{self.quota_port}/services/quota/api/health"

        def up() -> bool:
            assert self.quota_process is not None
            assert self.quota_process.poll() is None, (self.data / "logs" / "quota.log").read_text()[-4000:]
            try:
                return httpx.get(health, timeout=5, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        until(up, within_s=PATIENCE_S, what="the quota service answers")

    def kill_quota(self) -> None:
        if self.quota_process is not None and self.quota_process.poll() is None:
            self.quota_process.send_signal(signal.SIGCONT)  # one that stands still dies, too
            self.quota_process.kill()
            self.quota_process.wait()

    def silence_quota(self, silent: bool = True) -> None:
        """As a cut network: connections are taken and nothing answers."""
        assert self.quota_process is not None
        self.quota_process.send_signal(signal.SIGSTOP if silent else signal.SIGCONT)

    def start_second_hub(self, port: int) -> str:
        """By mistake: another hub on the same data and proxy; its API's address."""
        environment = {**self.environment, "COMMONS_HUB_PORT": str(port)}
        argv = [sys.executable, "-m", "jupyterhub", "-f", str(self.config)]
        with (self.data / "logs" / "hub2.log").open("ab") as log:
            self.second = subprocess.Popen(argv, cwd=self.data / "hub", env=environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}/hub/api"

        def up() -> bool:
            assert self.second is not None
            assert self.second.poll() is None, (self.data / "logs" / "hub2.log").read_text()[-4000:]
            try:
                return httpx.get(url, timeout=5, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        until(up, within_s=PATIENCE_S, what="the second hub answers")
        return url

    def end_second_hub(self) -> None:
        if self.second is not None:
            self.second.kill()
            self.second.wait()
            self.second = None

    def reconcile(self) -> Mapping[str, Any]:
        """One pass, now."""
        url = f"http://127.0.0.1:{self.quota_port}/services/quota/api/internal/reconcile"
        credential = {"Authorization": f"Bearer {self.secret('hub_credential')}"}
        answer = httpx.post(url, headers=credential, timeout=PATIENCE_S, trust_env=False)
        assert answer.status_code == 200, answer.text
        found: Mapping[str, Any] = answer.json()
        return found

    def ledger(self) -> Database:
        """The service's own database, opened beside it."""
        return open_ledger_database(self.database_url, self.data)

    def verified(self) -> list[object]:
        """What `commons verify` finds wrong."""
        database = self.ledger()
        try:
            return list(verify(database))
        finally:
            database.close()

    def record(self, hold_id: str) -> SessionRecord:
        return records.read(self.data / "sessions" / hold_id)

    def end(self) -> None:
        self.end_second_hub()
        self.kill_hub()
        self.kill_quota()
        super().end()


def full(small: float, large: float) -> float:
    """A count or a time, in every run and with --full."""
    return large if os.environ.get("COMMONS_FULL") == "1" else small
