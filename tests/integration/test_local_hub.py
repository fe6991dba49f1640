"""Local sessions under a real JupyterHub: real notebook servers, hub killed and started again, no node and no browser.

The proxy is a stand-in that keeps its routes in memory: what is tested here is what the hub does with the spawner.
"""

import contextlib
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from spawners import processes, records
from spawners.records import EndReason, SessionRecord
from tests.integration.test_local_runner import ROOT, gone
from tests.killed import kill_sessions
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

CONFIG = """
import os
from pathlib import Path
from jupyterhub.proxy import Proxy
from spawners.dispatch import DispatchSpawner
from spawners.settings import load

class MemoryProxy(Proxy):
    should_start = False
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.routes = {}
    async def add_route(self, routespec, target, data):
        self.routes[routespec] = {"routespec": routespec, "target": target, "data": data}
    async def delete_route(self, routespec):
        self.routes.pop(routespec, None)
    async def get_all_routes(self):
        return self.routes

def admit(spawner):
    marks = Path(os.environ["TEST_DATA"]) / "admitted"
    spawner.hold_id = f"h{len(marks.read_text()) if marks.exists() else 0}"
    spawner.session_environment = {"COMMONS_PROJECT": spawner.resource_request.project}
    with marks.open("a") as file:
        file.write("x")

c.JupyterHub.proxy_class = MemoryProxy
c.JupyterHub.spawner_class = DispatchSpawner
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.bind_url = f"http://127.0.0.1:{os.environ['TEST_PUBLIC_PORT']}/"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{os.environ['TEST_HUB_PORT']}"
c.JupyterHub.db_url = f"sqlite:///{os.environ['TEST_DATA']}/hub.sqlite"
c.JupyterHub.cookie_secret_file = f"{os.environ['TEST_DATA']}/cookie_secret"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.services = [{"name": "test", "api_token": os.environ["TEST_TOKEN"]}]
c.JupyterHub.load_roles = [{"name": "test", "services": ["test"],
    "scopes": ["admin:users", "admin:servers", "tokens", "access:servers"]}]
c.DispatchSpawner.profiles = load(Path("portal.toml")).catalogue
c.DispatchSpawner.data_folder = os.environ["TEST_DATA"]
c.DispatchSpawner.pre_spawn_hook = admit
c.LocalSpawner.stop_grace_s = 10
c.Spawner.poll_interval = 1
# A notebook that was still starting when the hub died waits for the hub's API, and the hub waits for the notebook: end that.
c.JupyterHub.init_spawners_timeout = 1
c.Spawner.http_timeout = 150  # after which the hub that finds a session ends it
"""
OPTIONS = {"project": "p1", "profile": "gpu1", "runtime_s": 600}


class RealHub:
    """A JupyterHub process that can be killed and started again on the same data."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = free_port()
        self.log = data / "hub.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/hub/api", timeout=PATIENCE_S)
        credential = secrets.token_hex(16)
        self.api.headers["Authorization"] = f"token {credential}"
        (data / "config.py").write_text(CONFIG)
        self.environment = {
            **os.environ,
            "TEST_DATA": str(data),
            "TEST_TOKEN": credential,
            "TEST_HUB_PORT": str(self.port),
            "TEST_PUBLIC_PORT": str(free_port()),
            "CONFIGPROXY_AUTH_TOKEN": "hub-secret",
        }

    def start(self) -> None:
        command = [sys.executable, "-m", "jupyterhub", "-f", str(self.data / "config.py")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        until(self._up, what="the hub answers")

    def _up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        try:
            return self.api.get("/").is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def ready(self, name: str = "") -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            server = self.server(name)
            return server if server is not None and server["ready"] else None

        return until(look, what=f"the server {name!r} is ready")

    def server(self, name: str = "") -> dict[str, Any] | None:
        answer = self.api.get("/users/ada")
        answer.raise_for_status()
        found: dict[str, Any] | None = answer.json()["servers"].get(name)
        return found

    def record(self, hold_id: str) -> SessionRecord:
        return records.read(self.data / "sessions" / hold_id)

    def find(self, server_name: str) -> SessionRecord | None:
        """The record of the session of this name."""
        for folder in (self.data / "sessions").glob("*"):
            with contextlib.suppress(records.RecordMissing):
                if (record := records.read(folder)).server_name == server_name:
                    return record
        return None

    def row(self, statement: str) -> tuple[Any, ...]:
        with sqlite3.connect(self.data / "hub.sqlite") as database:
            found: tuple[Any, ...] = database.execute(statement).fetchone() or ()
        database.close()
        return found

    def server_tokens(self) -> int:
        return int(self.row("SELECT count(*) FROM api_tokens WHERE note LIKE 'Server at /user/ada%'")[0])

    def end(self) -> None:
        self.kill()
        kill_sessions(self.data)
        self.api.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHub]:
    one = RealHub(tmp_path_factory.mktemp("hub"))
    try:
        one.start()
        assert one.api.post("/users/ada").is_success
        yield one
    finally:
        one.end()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "project"),
        ({**OPTIONS, "cmd": ["sh"]}, "cmd"),
        ({**OPTIONS, "runtime_s": "１"}, "runtime_s"),
        ({**OPTIONS, "runtime_s": 10**9}, "43200"),
        ({**OPTIONS, "profile": "a100"}, "gpu1"),
    ],
)
def test_posted_nonsense_is_refused_with_its_reason_and_starts_nothing(
    hub: RealHub, options: dict[str, Any], text: str
) -> None:
    answer = hub.api.post("/users/ada/server", json=options)
    assert answer.status_code == 400
    assert text in answer.json()["message"]
    assert not (hub.data / "admitted").exists()
    assert not (hub.data / "sessions").exists()


def test_a_notebook_outlives_killed_hubs_and_stops_for_certain(hub: RealHub) -> None:
    assert hub.api.post("/users/ada/server", json=OPTIONS).status_code in (201, 202)
    before = hub.ready()
    record = hub.record("h0")
    notebook = httpx.Client(
        base_url=f"http://127.0.0.1:{record.port}/user/ada/api", headers=hub.api.headers, timeout=PATIENCE_S
    )
    kernel = notebook.post("/kernels", json={}).json()["id"]
    assert processes.environment(record.child_pid)["COMMONS_PROJECT"] == "p1"
    assert "CONFIGPROXY_AUTH_TOKEN" not in processes.environment(record.child_pid)

    hub.kill()  # with its state saved
    hub.start()
    assert hub.ready()["started"] == before["started"]

    hub.kill()  # as if before it had saved anything, when its row still has a port of chance
    with sqlite3.connect(hub.data / "hub.sqlite") as database:
        database.execute("UPDATE spawners SET state = NULL")
        database.execute("UPDATE servers SET port = 1, ip = ''")
    database.close()
    hub.start()
    hub.ready()
    address = "SELECT port, ip FROM servers WHERE base_url = '/user/ada/'"
    until(lambda: hub.row(address) == (record.port, "127.0.0.1"), what="the hub has written its address down")

    assert [one["id"] for one in notebook.get("/kernels").json()] == [kernel]
    assert not hub.record("h0").ended
    children = processes.descendants(record.runner_pid)
    assert len(children) >= 2  # the server and its kernel
    assert hub.server_tokens() == 1

    assert hub.api.delete("/users/ada/server").status_code in (202, 204)
    until(lambda: hub.server() is None, what="the server has stopped")
    assert hub.record("h0").end_reason is EndReason.STOPPED
    assert all(gone(pid) for pid in children)
    until(lambda: hub.server_tokens() == 0, what="the server's token is gone")  # the hub's last step of a stop
    assert (hub.data / "admitted").read_text() == "x"
    notebook.close()


def test_the_hub_notices_that_a_named_server_ended_by_itself(hub: RealHub) -> None:
    assert hub.api.post("/users/ada/servers/second", json={**OPTIONS, "profile": "cpu"}).status_code in (201, 202)
    hub.ready("second")
    found = hub.find("second")
    assert found is not None
    hold_id = found.hold_id
    os.kill(found.child_pid, signal.SIGTERM)
    until(lambda: not (hub.server("second") or {}).get("ready"), what="the hub has noticed")
    record = until(lambda: hub.record(hold_id) if hub.record(hold_id).ended else None, what="its end is recorded")
    assert record.end_reason is EndReason.EXITED


def test_a_hub_killed_in_the_middle_of_a_start_takes_the_session_up(hub: RealHub) -> None:
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(hub.api.post, "/users/ada/servers/third", json=OPTIONS)
        record = until(lambda: hub.find("third"), what="the session has a record")
        hub.kill()
        with contextlib.suppress(httpx.TransportError):
            request.result()
    hub.start()
    hub.ready("third")
    assert records.is_alive(record)
    assert hub.api.delete("/users/ada/servers/third").status_code in (202, 204)
    until(lambda: not (hub.server("third") or {}).get("ready"), what="the server has stopped")
    assert until(lambda: (hub.find("third") or record).end_reason, what="its end is recorded") is EndReason.STOPPED
    until(lambda: hub.server_tokens() == 0, what="the server's token is gone")  # the hub's last step of a stop
