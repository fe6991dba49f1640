"""PostgreSQL by one setting: the whole portal migrates it, charges a session on it and proves every balance; a gateway process of its own
answers the portal's model requests by one more, also while the quota service stands still."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg

from quota.domain.ids import HoldId
from quota.service.keys import session_key
from tests.integration.bills import session_record, settled_charge
from tests.integration.postgres import running_postgres
from tests.integration.stub_portal import ask_a_model, portal_with_stub
from tests.integration.upstream_stub import stub_server
from tests.people import Person
from tests.portal import ROOT, Portal
from tests.ports import free_port
from tests.waiting import PATIENCE_S
from tests.world import awarded_project


def portal_on(database: str, folder: Path, gateway_port: int, model_url: str) -> Portal:
    """A portal whose site file differs in two settings, and in a model."""
    changes = {
        'database = ""': f'database = "{database}"',
        "[hub]\n": f'[hub]\ngateway_url = "http://127.0.0.1:{gateway_port}"\n',
    }
    return portal_with_stub(folder, model_url, changes)


@asynccontextmanager
async def gateway_of(portal: Portal, port: int) -> AsyncIterator[None]:
    """The one command."""
    environment = {**os.environ, "COMMONS_PORTAL_FILE": str(portal.portal_file)}
    argv = [str(ROOT / "commons"), "gateway", "--port", str(port), "--data", str(portal.data)]
    process = await asyncio.create_subprocess_exec(*argv, env=environment, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert b"listening on" in await process.stdout.readline()
    try:
        yield
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0


async def a_gateway_of_its_own_answers(portal: Portal, port: int, database: str) -> None:
    """Without it the portal's proxy finds nobody; with it, nobody needs the quota service for a model request."""
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT id FROM hold WHERE kind = 'session' AND state = 'held'").fetchone()
    assert row is not None
    key = session_key(portal.secret("session_key_secret").strip().encode(), HoldId(row[0]))
    assert (await ask_a_model(portal.gateway, key))[0] == 503
    async with gateway_of(portal, port):
        assert (await ask_a_model(portal.gateway, key))[0] == 200
        quota = portal.pid("quota.main")
        os.kill(quota, signal.SIGSTOP)
        try:
            assert (await ask_a_model(portal.gateway, key))[0] == 200
        finally:
            os.kill(quota, signal.SIGCONT)
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT sum(charged), sum(held) FROM account WHERE unit = 'tokens'").fetchone()
    assert row is not None
    assert [int(one) for one in row] == [36, 0]


async def test_one_setting_moves_the_ledger_to_postgresql_and_one_more_the_gateway(tmp_path: Path) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        server = await asyncio.to_thread(stack.enter_context, running_postgres())
        stub = await stack.enter_async_context(stub_server())
        database = server.new_database()
        portal = await asyncio.to_thread(portal_on(database, tmp_path, port, stub.url).up)
        try:
            async with Person(portal, "pi") as pi, Person(portal, "admin") as admin:
                project = await awarded_project(pi, admin, gpu_hours="10", tokens=10_000)
                await pi.start(project)
                await a_gateway_of_its_own_answers(portal, port, database.replace("+psycopg", ""))
                await pi.stop()
                charged = await settled_charge(pi, project)
                record = await session_record(pi)
            assert charged == record["ended_at_ms"] - record["started_at_ms"]
            with psycopg.connect(database.replace("+psycopg", "")) as connection:
                row = connection.execute("SELECT sum(charged) FROM account WHERE unit = 'gpu_ms'").fetchone()
            assert row is not None
            assert int(row[0]) == charged
            verify = [str(ROOT / "commons"), "verify", "--data", str(portal.data)]
            environment = {**os.environ, "COMMONS_PORTAL_FILE": str(portal.portal_file)}
            done = await asyncio.to_thread(subprocess.run, verify, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        finally:
            assert await asyncio.to_thread(portal.down) == 0
