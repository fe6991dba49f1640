"""PostgreSQL by one setting: the whole portal migrates it, charges a session on it and proves every balance."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import psycopg

from tests.integration.postgres import running_postgres
from tests.integration.test_survival import session_record, settled_charge
from tests.people import Person
from tests.portal import ROOT, Portal
from tests.world import awarded_project


def portal_on(database: str, folder: Path) -> Portal:
    """A portal whose site file differs in one setting."""
    site = (ROOT / "portal.toml").read_text()
    assert 'database = ""' in site
    portal_file = folder / "portal.toml"
    portal_file.write_text(site.replace('database = ""', f'database = "{database}"'))
    return Portal(folder / "data", model=False, portal_file=portal_file)


async def test_one_setting_moves_the_ledger_to_postgresql(tmp_path: Path) -> None:
    with running_postgres() as server:
        database = server.new_database()
        portal = await asyncio.to_thread(portal_on(database, tmp_path).up)
        try:
            async with Person(portal, "pi") as pi, Person(portal, "admin") as admin:
                project = await awarded_project(pi, admin, gpu_hours="10", tokens=1000)
                await pi.start(project)
                await pi.stop()
                charged = await settled_charge(pi, project)
            record = session_record(portal)
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
