"""A gateway that can be killed: on its own server, over the SQLite ledger of a folder, with its journal there.

`python -m tests.integration.gateway_process FOLDER UPSTREAM_URL [--head-s S] [--idle-s S] [--body-s S]`, how patient it is with clients;
prints its port and a key.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import uvloop

from quota.adapters.clock import SystemClock
from quota.adapters.upstreams import HttpUpstreams
from quota.gateway.app import Site, build_gateway
from quota.gateway.journal import Journal
from quota.gateway.models import Models
from quota.gateway.settings import GatewayTable
from quota.gateway.wire import Patience, WireServer
from quota.service.keys import session_key
from quota.store.database import open_database, url_for
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.unit_of_work import SqlStore
from tests.integration.gateway_service import ROOT, SECRET, found_project, open_session, stub_model


async def main(folder: Path, upstream: str, patience: Patience, table: GatewayTable) -> None:
    (folder / "quota").mkdir(parents=True, exist_ok=True)
    database = open_database(url_for(folder))
    migrate(database)
    async with LedgerStore(database) as ledger, HttpUpstreams({"127.0.0.1"}) as upstreams:
        store = SqlStore(database)
        person, project = await store.write(lambda tx: found_project(tx, 10**7))
        session = await open_session(ledger, person, project)
        site = Site(
            ledger=ledger, store=store, clock=SystemClock(), session_key_secret=SECRET,
            models=Models([stub_model(upstream)]), upstreams=upstreams, table=table,
            journal=Journal(folder / "gateway"),
        )  # fmt: skip
        server = WireServer(build_gateway(site).handle, ROOT, patience)
        port = await server.open("127.0.0.1", 0)
        print(port, session_key(SECRET, session), flush=True)
        await asyncio.Event().wait()


def _arguments() -> tuple[Path, str, Patience, GatewayTable]:
    parser, usual = argparse.ArgumentParser(), Patience()
    parser.add_argument("folder", type=Path)
    parser.add_argument("upstream")
    parser.add_argument("--head-s", type=float, default=usual.head_s)
    parser.add_argument("--idle-s", type=float, default=usual.idle_s)
    parser.add_argument("--body-s", type=int, default=GatewayTable().body_deadline)
    found = parser.parse_args()
    patience = Patience(found.head_s, found.idle_s, min(usual.sweep_s, found.head_s / 10))
    table = GatewayTable.model_validate({"body_deadline": f"{found.body_s} s"})
    return found.folder, found.upstream, patience, table


if __name__ == "__main__":
    uvloop.run(main(*_arguments()))
