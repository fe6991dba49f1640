"""A gateway that can be killed: on its own server, over the SQLite ledger of a folder, with its journal there.

`python -m tests.integration.gateway_process FOLDER UPSTREAM_URL`; prints its port and a key.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from quota.adapters.clock import SystemClock
from quota.adapters.upstreams import HttpUpstreams
from quota.gateway.app import Site, build_gateway
from quota.gateway.journal import Journal
from quota.gateway.models import Models
from quota.gateway.settings import GatewayTable
from quota.gateway.wire import WireServer
from quota.service.keys import session_key
from quota.store.database import open_database, url_for
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.unit_of_work import SqlStore
from tests.integration.gateway_service import ROOT, SECRET, found_project, open_session, stub_model


async def main(folder: Path, upstream: str) -> None:
    (folder / "quota").mkdir(parents=True, exist_ok=True)
    database = open_database(url_for(folder))
    migrate(database)
    async with LedgerStore(database) as ledger, HttpUpstreams({"127.0.0.1"}) as upstreams:
        store = SqlStore(database)
        person, project = await store.write(lambda tx: found_project(tx, 10**7))
        session = await open_session(ledger, person, project)
        site = Site(
            ledger=ledger, store=store, clock=SystemClock(), session_key_secret=SECRET,
            models=Models([stub_model(upstream)]), upstreams=upstreams, table=GatewayTable(),
            journal=Journal(folder / "gateway"),
        )  # fmt: skip
        server = WireServer(build_gateway(site).handle, ROOT)
        port = await server.open("127.0.0.1", 0)
        print(port, session_key(SECRET, session), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), sys.argv[2]))
