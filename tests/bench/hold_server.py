"""The quota service's API as a process of its own, on a real ledger, for the benchmark of holds over HTTP.

`python -m tests.bench.hold_server URL PORT`: what `quota.main` serves, without pages and gateway; prints "ready" once it listens.
"""

from __future__ import annotations

import socket
import sys
from datetime import timedelta

import uvloop

from quota.adapters.clock import SystemClock
from quota.adapters.profile_catalogue import Catalogue
from quota.api.app import build_api
from quota.api.front import AccessLog, Front
from quota.api.principals import Parts
from quota.domain.ids import AllocationId, ProjectId
from quota.domain.project import Project, ProjectState
from quota.domain.units import Unit
from quota.gateway_main import tune_interpreter
from quota.main import Server, server_config
from quota.service.meter import Meter
from quota.service.ports import Transaction
from quota.service.services import Policy, Programme, Services
from quota.store.database import open_database
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.unit_of_work import SqlStore
from spawners.profiles import Profiles
from tests.fakes import FakeEvidence, FakeHub, FakeIntrospection
from tests.integration.quota_service import CREDENTIAL, PROFILES, ROOT
from tests.ledgers import register

PROJECT = ProjectId("project-0001")
ACTOR = "pi"


async def serve(url: str, port: int) -> None:
    database = open_database(url)
    migrate(database)
    clock = SystemClock()

    def award(tx: Transaction) -> None:
        person, at = register(tx, ACTOR), clock.now()
        tx.projects.add(Project(PROJECT, "bench", "A benchmark", ProjectState.ACTIVE, at), person.id)
        allocation = AllocationId(f"{PROJECT}-tokens")
        tx.accounts.open_allocation(allocation, PROJECT, Unit.TOKENS, at, at + timedelta(days=1))
        tx.accounts.deposit("award-bench", allocation, 10**15, actor=person.id, at=at, code="award", params={})

    async with LedgerStore(database) as ledger:
        store = SqlStore(database)
        await store.write(award)
        services = Services(
            clock, ledger, store, FakeHub(), FakeEvidence(), Catalogue(Profiles.from_tables(PROFILES)), Policy(),
            Programme(), b"secret-of-the-bench",
        )  # fmt: skip
        api = build_api(Parts(services, Meter(services), FakeIntrospection(), CREDENTIAL))
        await _Announcing(server_config(Front({ROOT: AccessLog(api)}), port)).serve()


class _Announcing(Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print("ready", flush=True)


if __name__ == "__main__":
    tune_interpreter()
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
