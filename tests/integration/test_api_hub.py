"""The hub's adapters against a real JupyterHub: introspection, sign-in with PKCE, listing and stopping servers, silence.

The hub signs anybody in, keeps its routes in memory, and its spawner points at the hub itself: what is tested is how we talk to it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import httpx
import pytest

from quota.adapters import hub_api, hub_oauth
from quota.adapters.hub_api import HubApi
from quota.adapters.hub_oauth import HubSignIn, LoginStart
from quota.domain.errors import Unavailable
from quota.domain.ids import HoldId
from quota.service.callers import ACCESS_SCOPE, Power, powers_of
from quota.service.session_ports import StopOrder
from tests.ports import free_port
from tests.waiting import PATIENCE_S

ADMIN, QUOTA = "admin-token-of-the-tests-0001", "quota-token-of-the-tests-0001"
PREFIX = "/services/quota/"
CONFIG = """
import os
from jupyterhub.proxy import Proxy
from jupyterhub.spawner import Spawner

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

class MirrorSpawner(Spawner):
    async def start(self):
        return ("127.0.0.1", int(os.environ["TEST_HUB_PORT"]))
    async def stop(self, now=False):
        pass
    async def poll(self):
        return None

c.JupyterHub.proxy_class = MemoryProxy
c.JupyterHub.spawner_class = MirrorSpawner
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.allow_named_servers = True
c.JupyterHub.bind_url = f"http://127.0.0.1:{os.environ['TEST_HUB_PORT']}/"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{os.environ['TEST_HUB_PORT']}"
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.JupyterHub.custom_scopes = {"custom:quota:read": {"description": "read"}, "custom:quota:decide": {"description": "decide"}}
c.JupyterHub.services = [
    {"name": "quota", "url": "http://127.0.0.1:1", "api_token": os.environ["TEST_QUOTA"], "oauth_no_confirm": True,
     "oauth_client_allowed_scopes": ["custom:quota:read", "custom:quota:decide"]},
    {"name": "tester", "api_token": os.environ["TEST_ADMIN"]},
]
people = ["self", "access:services!service=quota", "custom:quota:read"]
watch = ["list:users", "read:servers", "delete:servers"]
c.JupyterHub.load_roles = [
    {"name": "user", "scopes": people},
    {"name": "watcher", "scopes": watch, "services": ["quota"]},
    {"name": "tester", "scopes": ["admin:users", "admin:servers", "tokens", "custom:quota:decide", *people], "services": ["tester"]},
]
"""


@dataclass
class Hub:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/hub/api"

    def call(self, method: str, path: str, body: object = None) -> httpx.Response:
        """A call with every right."""
        headers = {"Authorization": f"token {ADMIN}"}
        answer = httpx.request(method, self.api + path, json=body, headers=headers, timeout=PATIENCE_S, trust_env=False)
        assert answer.status_code < 400, answer.text
        return answer

    def token(self, who: str, *scopes: str) -> tuple[str, str]:
        """A token of `who` and its id."""
        made = self.call("POST", f"/users/{who}/tokens", {"scopes": list(scopes)} if scopes else {}).json()
        return str(made["token"]), str(made["id"])

    def sign_in(self) -> HubSignIn:
        return HubSignIn(
            hub_api_url=self.api, api_token=QUOTA, public_url=f"http://127.0.0.1:{self.port}/", prefix=PREFIX
        )

    def come_back(self, who: str, start: LoginStart) -> dict[str, str]:
        """What the hub sends a browser of `who` back with."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=PATIENCE_S) as browser:
            navigating = {"Sec-Fetch-Mode": "navigate"}
            browser.get("/hub/login", headers=navigating)
            xsrf = next(cookie.value for cookie in browser.cookies.jar if cookie.name == "_xsrf")
            browser.post("/hub/login", data={"username": who, "password": "x", "_xsrf": xsrf or ""})
            answer = browser.get(start.redirect_url, headers=navigating)
            while not answer.headers.get("location", "").startswith(PREFIX):
                answer = browser.get(answer.headers["location"], headers=navigating)
        query = parse_qs(urlsplit(answer.headers["location"]).query)
        return {name: values[0] for name, values in query.items()}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers, not the code: on a busy machine the hub takes longer than a portal waits."""
    monkeypatch.setattr(hub_oauth, "DEADLINE_S", PATIENCE_S)
    monkeypatch.setattr(hub_api, "_LIST_DEADLINE", aiohttp.ClientTimeout(total=PATIENCE_S))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder: Path = tmp_path_factory.mktemp("hub")
    port = free_port()
    (folder / "config.py").write_text(CONFIG)
    environment = {**os.environ, "TEST_HUB_PORT": str(port), "TEST_ADMIN": ADMIN, "TEST_QUOTA": QUOTA}
    with (folder / "hub.log").open("wb") as log:
        argv = [sys.executable, "-m", "jupyterhub", "-f", "config.py"]
        process = subprocess.Popen(argv, cwd=folder, env=environment, stdout=log, stderr=log)
    one = Hub(port, process)
    try:
        wait(lambda: answers(one), lambda: (folder / "hub.log").read_text())
        one.call("POST", "/users", {"usernames": ["ada", "bob smith@example.org"]})
        yield one
    finally:
        process.kill()
        process.wait()


def answers(one: Hub) -> bool:
    assert one.process.poll() is None
    try:
        return httpx.get(f"{one.api}/", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def wait(until: Callable[[], bool], log: Callable[[], str]) -> None:
    end = time.monotonic() + 2 * PATIENCE_S
    while not until():
        assert time.monotonic() < end, log()[-3000:]
        time.sleep(0.1)


async def test_a_persons_token_tells_who_and_what_they_may(hub: Hub) -> None:
    token, _ = hub.token("ada")
    found = await hub.sign_in().introspect(token)
    assert found is not None
    assert found.hub_name == "ada"
    assert ACCESS_SCOPE in found.scopes
    assert powers_of(found.scopes) == {Power.READ}


async def test_a_narrowed_token_may_no_more_than_it_says(hub: Hub) -> None:
    token, _ = hub.token("ada", "custom:quota:read")
    found = await hub.sign_in().introspect(token)
    assert found is not None
    assert ACCESS_SCOPE not in found.scopes


@pytest.mark.parametrize("token", ["", "nonsense", QUOTA, ADMIN, "x" * 600, "ünïcode", "a b", "line\nbreak"])
async def test_what_is_no_persons_token_is_nobody(hub: Hub, token: str) -> None:
    assert await hub.sign_in().introspect(token) is None


async def test_a_revoked_token_is_dead_at_once_for_a_fresh_look(hub: Hub) -> None:
    sign_in = hub.sign_in()
    token, token_id = hub.token("ada")
    assert await sign_in.introspect(token) is not None
    hub.call("DELETE", f"/users/ada/tokens/{token_id}")
    assert await sign_in.introspect(token, fresh=True) is None


async def test_a_browser_signs_in_once_and_comes_back_to_where_it_wanted(hub: Hub) -> None:
    sign_in = hub.sign_in()
    start = sign_in.start_login(f"{PREFIX}apply")
    back = await asyncio.to_thread(hub.come_back, "ada", start)
    assert back["state"] == start.state
    end = await sign_in.finish_login(code=back["code"], state=back["state"], cookie_state=start.state)
    assert end is not None
    assert (end.identity.hub_name, end.next_url) == ("ada", f"{PREFIX}apply")
    assert powers_of(end.identity.scopes) == {Power.READ}
    assert await sign_in.finish_login(code=back["code"], state=back["state"], cookie_state=start.state) is None


async def test_a_sign_in_needs_the_state_of_the_same_browser(hub: Hub) -> None:
    sign_in = hub.sign_in()
    start = sign_in.start_login(PREFIX)
    back = await asyncio.to_thread(hub.come_back, "ada", start)
    other = sign_in.start_login(PREFIX)
    assert await sign_in.finish_login(code=back["code"], state=back["state"], cookie_state=other.state) is None
    assert await sign_in.finish_login(code=back["code"], state="", cookie_state="") is None
    assert await sign_in.finish_login(code=back["code"], state="unknown", cookie_state="unknown") is None


async def test_a_code_of_another_sign_in_is_refused_by_pkce(hub: Hub) -> None:
    sign_in = hub.sign_in()
    first, second = sign_in.start_login(PREFIX), sign_in.start_login(PREFIX)
    back = await asyncio.to_thread(hub.come_back, "ada", first)
    assert await sign_in.finish_login(code=back["code"], state=second.state, cookie_state=second.state) is None
    third = sign_in.start_login(PREFIX)
    assert await sign_in.finish_login(code="nonsense", state=third.state, cookie_state=third.state) is None


async def test_a_token_without_the_right_is_an_outage_and_not_an_empty_list(hub: Hub) -> None:
    for token in ("wrong", hub.token("ada")[0]):
        client = HubApi(hub.api, token)
        with pytest.raises(Unavailable):
            await client.active_servers()
        await client.close()


async def test_a_hub_that_is_not_there_is_an_outage() -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/hub/api"
    client = HubApi(nowhere, QUOTA)
    sign_in = HubSignIn(hub_api_url=nowhere, api_token=QUOTA, public_url="http://127.0.0.1/", prefix=PREFIX)
    calls: list[Any] = [
        client.active_servers(),
        client.stop_session(StopOrder("ada", "", HoldId("hold-0001"), "stopped", 60)),
        sign_in.introspect("some-token"),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    await client.close()
