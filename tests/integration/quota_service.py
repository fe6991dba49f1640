"""The real quota service in one process for tests: the API over a migrated SQLite ledger and runner folders; hub and clock are fakes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import httpx
from sqlalchemy import text

from quota.adapters.course_folders import CourseFolders
from quota.adapters.exchange_folder import ExchangeFolder
from quota.adapters.profile_catalogue import Catalogue
from quota.adapters.runner_records import RunnerRecords
from quota.api.app import build_api
from quota.api.front import Front
from quota.api.principals import Parts
from quota.domain.rates import ChargeRate
from quota.service.callers import Power
from quota.service.meter import Meter
from quota.service.services import Policy, Programme, Services
from quota.store.database import Database, open_database, url_for
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.refusals import RefusalWindow
from quota.store.unit_of_work import SqlStore
from quota.store.verify import verify
from spawners.profiles import Profiles
from tests.fakes import FakeClock, FakeHub, FakeIntrospection

ROOT = "/services/quota/api"
CREDENTIAL = "credential-of-the-hub-in-tests"
HOUR = 3_600_000
_PROFILE = {
    "title": "GPU",
    "backend": "local",
    "hardware": "gpu",
    "cloud": "here",
    "applications": [{"id": "lab", "title": "JupyterLab"}],
    "gpus": 1,
    "cpus": 1,
    "memory": "1 GiB",
    "default_runtime": "1 h",
    "longest_runtime": "12 h",
}
PROFILES = {"gpu1": _PROFILE, "gpu2": {**_PROFILE, "gpus": 2}, "cpu": {**_PROFILE, "hardware": "cpu", "gpus": 0}}
PROFILES["rescue"] = {**PROFILES["cpu"], "rescue": True, "longest_runtime": "2 h"}


@dataclass
class Service:
    """A running service and ways to call it; `sessions` is where runners would write."""

    services: Services
    database: Database
    clock: FakeClock
    hub_api: FakeHub
    introspection: FakeIntrospection
    client: httpx.AsyncClient
    sessions: Path
    parts: Parts

    async def hub(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """A request of the hub."""
        return await self.client.request(
            method, ROOT + path, json=body, headers={"Authorization": f"Bearer {CREDENTIAL}", **headers}
        )

    def token(self, who: str, *powers: Power) -> str:
        return self.introspection.token(who, Power.READ, Power.WRITE, *powers)

    async def person(self, token: str, method: str, path: str, body: object = None) -> httpx.Response:
        """A request of a person."""
        return await self.client.request(method, ROOT + path, json=body, headers={"Authorization": f"token {token}"})

    async def register(self, *names: str) -> None:
        """Tell the service of people, as the hub does at sign-in."""
        for name in names:
            body = {"issuer": "urn:test", "subject": name, "display_name": name.title(), "language": "en"}
            answer = await self.hub("PUT", f"/internal/people/{name}", body)
            assert answer.status_code == 200, answer.text

    async def award(self, pi: str, *, gpu_hours: str, tokens: int, name: str = "application-0001") -> str:
        """Walk an application of `pi` to its award; returns the project's id."""
        await self.register(pi, "chair")
        body = {"title": "A project", "purpose": "To be tested.", "gpu_hours": gpu_hours, "tokens": tokens}
        dates = {"starts_on": "2026-03-02", "ends_on": "2026-12-31"}
        made = await self.person(self.token(pi), "PUT", f"/applications/{name}", {**body, **dates})
        assert made.status_code == 201, made.text
        decision = {"decision": "approve", "gpu_hours": gpu_hours, "tokens": tokens, "message": "Welcome"}
        chair = self.token("chair", Power.DECIDE)
        done = await self.person(chair, "POST", f"/applications/{name}/decision", decision)
        assert done.status_code == 200, done.text
        return str(done.json()["project_id"])

    def runner_wrote(self, hold_id: str, **changes: object) -> None:
        """Write a session's record as its runner does; instants are seconds after the service's START."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        record = {
            "hold_id": hold_id,
            "user": "researcher",
            "server_name": "",
            "runner_pid": int(Path("/proc/self/stat").read_text().split()[0]),
            "runner_started": int(stat[19]),
            "boot_id": boot_id,
            "child_pid": 1,
            "port": 1,
            "started_at_ms": None,
            "last_alive_ms": None,
            "ended_at_ms": None,
            "exit_status": None,
            "end_reason": None,
        }
        folder = self.sessions / hold_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps({**record, **changes}))

    def row_counts(self) -> dict[str, int]:
        """How many rows each table has: equal before and after means that nothing was written."""
        with self.database.reading() as connection:
            names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
            return {
                name: int(connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one()) for name in names
            }

    def verified(self) -> list[object]:
        """What `commons verify` finds wrong."""
        return list(verify(self.database))


@asynccontextmanager
async def running_service(
    folder: Path, database_url: str = "", *, refusals: RefusalWindow | None = None
) -> AsyncIterator[Service]:
    """A fresh service in `folder`, on the empty database of the address where one is given; every refusal is kept unless `refusals` says less."""
    database = open_database(database_url or url_for(folder))
    migrate(database)
    sessions = folder / "sessions"
    sessions.mkdir()
    clock, hub, introspection = FakeClock(), FakeHub(), FakeIntrospection()
    async with LedgerStore(database, refusals=refusals) as ledger:
        services = Services(
            clock,
            ledger,
            SqlStore(database),
            hub,
            RunnerRecords(sessions),
            Catalogue(Profiles.from_tables(PROFILES)),
            Policy(),
            Programme(),
            b"secret-of-the-tests",
            objects=ExchangeFolder(folder / "exchange"),
            course_files=CourseFolders(folder / "courses", locked_s=1),
        )
        rate = ChargeRate("gpu", Fraction(1), datetime(2026, 1, 1, tzinfo=UTC))
        await services.store.write(lambda tx: tx.rates.put(rate))
        parts = Parts(services, Meter(services), introspection, CREDENTIAL)
        app = Front({ROOT: build_api(parts)})
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://portal") as client:
            yield Service(services, database, clock, hub, introspection, client, sessions, parts)
    database.close()
