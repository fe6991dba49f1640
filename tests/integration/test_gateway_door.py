"""The gateway on its own server inside the portal's process, on SQLite: one setting opens it, one more leads the proxy there."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from quota.domain.ids import HoldId
from quota.gateway.app import Gateway
from quota.main import gateway_door
from quota.service.keys import session_key
from quota.settings import Settings, SettingsError
from tests.integration.stub_portal import ask_a_model, portal_with_stub
from tests.integration.upstream_stub import stub_server
from tests.people import Person
from tests.portal import Portal
from tests.ports import free_port
from tests.world import awarded_project


def portal_with_a_door(folder: Path, port: int, model_url: str) -> Portal:
    changes = {
        "[hub]\n": f'[hub]\ngateway_url = "http://127.0.0.1:{port}"\n',
        "[gateway]\n": f"[gateway]\nport = {port}\n",
    }
    return portal_with_stub(folder, model_url, changes)


def tokens(ledger: Path) -> tuple[int, int]:
    """Charged and held."""
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as connection:
        charged, held = connection.execute(
            "SELECT sum(charged), sum(held) FROM account WHERE unit = 'tokens'"
        ).fetchone()
    return int(charged), int(held)


async def test_the_portal_s_process_answers_models_on_a_port_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(stub_server())
        portal = await asyncio.to_thread(portal_with_a_door(tmp_path, port, stub.url).up)
        try:
            async with Person(portal, "pi") as pi, Person(portal, "admin") as admin:
                project = await awarded_project(pi, admin, gpu_hours="10", tokens=10_000)
                await pi.start(project)
                ledger = portal.data / "quota" / "quota.sqlite"
                with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as connection:
                    [(hold,)] = connection.execute("SELECT id FROM hold WHERE kind = 'session' AND state = 'held'")
                key = session_key(portal.secret("session_key_secret").strip().encode(), HoldId(hold))
                through_the_proxy, _ = await ask_a_model(portal.gateway, key)
                itself, headers = await ask_a_model(f"http://127.0.0.1:{port}/services/gateway/v1", key)
                assert (through_the_proxy, itself) == (200, 200)
                assert "date" not in headers  # as the pages' server sends it
                assert (await ask_a_model(f"http://127.0.0.1:{port}/services/quota/api", key))[0] == 404  # models only
                await pi.stop()
        finally:
            await asyncio.to_thread(portal.down)
    assert tokens(ledger) == (36, 0)


async def test_a_port_that_is_taken_is_told_by_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        tables = SimpleNamespace(gateway=SimpleNamespace(port=taken.getsockname()[1]))
        settings = cast(Settings, SimpleNamespace(tables=tables, base_path="/", portal_file=Path("portal.toml")))
        gateway = cast(Gateway, SimpleNamespace(handle=None))
        with pytest.raises(SettingsError) as refused:
            async with gateway_door(settings, gateway):
                pass
    assert refused.value.lines[0].startswith("portal.toml: gateway.port: ")
