"""The exchange as a process of its own on a database that outlives it, for tests that kill it: `python -m … FOLDER PORT STUDENTS RUNTIME_S HELPER`.

The course `physics` is made at the first start; `token-of-NAME` is the token of NAME's session. It pays for runs, a GPU-millisecond a millisecond,
and looks at them every half second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import httpx

from quota.adapters.clock import SystemClock
from quota.adapters.engine_evidence import EngineEvidence
from quota.adapters.evidence import EvidenceByBackend
from quota.adapters.exchange_folder import ExchangeFolder
from quota.adapters.profile_catalogue import Catalogue
from quota.adapters.runner_records import RunnerRecords
from quota.api.app import build_api
from quota.api.front import Front
from quota.api.principals import Parts
from quota.domain.course import Course, CourseRole
from quota.domain.grading import GradingPlace
from quota.domain.hold import HoldState
from quota.domain.ids import AllocationId, HoldId, ProjectId
from quota.domain.project import Project, ProjectRole, ProjectState
from quota.domain.rates import ChargeRate
from quota.domain.units import Unit
from quota.main import Server, server_config
from quota.service import gradings
from quota.service.callers import ACCESS_SCOPE
from quota.service.meter import Meter
from quota.service.ports import Transaction
from quota.service.services import Policy, Programme, Services
from quota.service.session_ports import HubIdentity
from quota.store.database import open_database, url_for
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.unit_of_work import SqlStore
from spawners.profiles import Profiles
from tests import ledgers
from tests.fakes import FakeHub
from tests.integration.course_exchange import SLUG
from tests.integration.quota_service import CREDENTIAL, PROFILES, ROOT
from tests.ports import free_port

PROJECT = ProjectId("project-physics")
ACCOUNT = AllocationId("physics-gpu")
AWARD = 3_600_000
LEASE_S = 20  # a loaded machine takes seconds from the hold to the start of what it pays for


class NamedTokens:
    """`token-of-NAME` belongs to NAME."""

    async def introspect(self, token: str, *, fresh: bool = False) -> HubIdentity | None:
        name = token.removeprefix("token-of-")
        return None if name == token else HubIdentity(name, frozenset({ACCESS_SCOPE, "custom:quota:exchange"}))


def student(number: int) -> str:
    return f"student{number:03}"


def _course(students: int, tx: Transaction) -> None:
    if tx.courses.of_slug(SLUG) is not None:
        return
    now = SystemClock().now()
    pi = ledgers.register(tx, "pi").id
    tx.projects.add(Project(PROJECT, SLUG, "Physics", ProjectState.ACTIVE, now), pi)
    tx.accounts.open_allocation(ACCOUNT, PROJECT, Unit.GPU_MS, now - timedelta(days=1), now + timedelta(days=90))
    tx.accounts.deposit("award-physics", ACCOUNT, AWARD, actor=pi, at=now, code="award", params={"title": "Physics"})
    tx.rates.put(ChargeRate("grading-cpu", Fraction(1), now - timedelta(days=1)))
    tx.courses.add(Course(PROJECT, SLUG, "Physics", now, now + timedelta(days=90), "UTC", None, None, now))
    for number in range(students):
        person = ledgers.register(tx, student(number)).id
        tx.projects.put_member(PROJECT, person, ProjectRole.MEMBER, now)
        tx.courses.put_person(PROJECT, person, CourseRole.STUDENT, now)


def _evidence(folder: Path, ledger: LedgerStore, helper: str) -> EvidenceByBackend:
    async def is_closed(hold_id: HoldId) -> bool:
        hold = await ledger.hold(hold_id)
        return hold is not None and hold.state is not HoldState.HELD

    local = RunnerRecords(folder / "sessions")
    return EvidenceByBackend(
        {"local": local, **({"container": EngineEvidence(Path(helper), is_closed)} if helper else {})}
    )


async def _look(services: Services) -> None:
    while True:
        await gradings.close_gradings(services)
        await asyncio.sleep(0.5)


async def serve(folder: Path, port: int, students: int, runtime_s: int, helper: str) -> None:
    database = open_database(url_for(folder))
    migrate(database)
    (folder / "sessions").mkdir(exist_ok=True)
    async with LedgerStore(database) as ledger:
        services = Services(
            SystemClock(),
            ledger,
            SqlStore(database),
            FakeHub(),
            _evidence(folder, ledger, helper),
            Catalogue(Profiles.from_tables(PROFILES)),
            Policy(start_lease_s=LEASE_S),
            Programme(),
            b"secret-of-the-tests",
            objects=ExchangeFolder(folder / "exchange"),
            grading=GradingPlace("container" if helper else "local", runtime_s=runtime_s),
        )
        await services.store.write(lambda tx: _course(students, tx))
        parts = Parts(services, Meter(services), NamedTokens(), CREDENTIAL)
        looking = asyncio.create_task(_look(services))
        await Server(server_config(Front({ROOT: build_api(parts)}), port)).serve()
        looking.cancel()


@dataclass
class ExchangeProcess:
    """Started, killed and started again on one folder and one port."""

    folder: Path
    students: int
    port: int = field(default_factory=free_port)
    runtime_s: int = 30
    helper: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        arguments = [str(self.folder), str(self.port), str(self.students), str(self.runtime_s), self.helper]
        command = [sys.executable, "-m", "tests.integration.exchange_process", *arguments]
        self.process = subprocess.Popen(command)
        end = time.monotonic() + 180
        while time.monotonic() < end:
            with suppress(httpx.TransportError):
                httpx.get(f"{self.url.rstrip('/')}{ROOT}/health", timeout=1)
                return
            assert self.process.poll() is None, "the exchange ended"
            time.sleep(0.05)
        self.kill()
        raise AssertionError("the exchange did not answer within 180 s")

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
