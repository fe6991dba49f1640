"""Our hub as it is configured, with the real proxy in front and a fake quota service at the wire, started and killed by tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import httpx
from jupyterhub import __version__

from deploy.onehost.data_folder import DataFolder
from spawners import records
from tests.bench import stub_server
from tests.integration.fake_quota import FakeQuota
from tests.killed import kill_sessions
from tests.portal import ROOT
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

NODE: Final = ROOT / ".tools" / "node"


SITE = """
import asyncio, os
from pathlib import Path
import batchspawner  # registers its own route; ours has to win
load_subconfig(os.environ["TEST_CONFIG"])
from hub.authenticators import PortalAuthenticator

DATA = Path(os.environ["COMMONS_DATA"])

class Fickle(PortalAuthenticator):
    async def still_here(self, user, state):
        return None if (DATA / "gone").exists() else await super().still_here(user, state)

place_hold = c.Spawner.pre_spawn_hook

async def place_hold_and_wait(spawner):
    while (DATA / "asking").exists():
        await asyncio.sleep(0.02)
    await place_hold(spawner)
    while (DATA / "pause").exists():
        await asyncio.sleep(0.02)

c.JupyterHub.authenticator_class = Fickle
c.Authenticator.auth_refresh_age = 1
c.Spawner.pre_spawn_hook = place_hold_and_wait
c.Spawner.poll_interval = 1
"""

# Appended to a site: sessions are stub servers, which answer as a notebook does and are up in a hundredth of its time.
STUBS = f"""
import sys
c.Spawner.environment = {{"BENCH_HUB_VERSION": {__version__!r}}}
c.Spawner.cmd = [sys.executable, "-S", "-E", "-s", {str(stub_server.__file__)!r}]
"""


class HubProcess:
    """Data folder, proxy, hub and, unless told otherwise, the fake quota service; `end` leaves nothing running.

    `site` is the hub's whole configuration file.
    """

    def __init__(
        self, data: Path, *, site: str = SITE, fake_quota: bool = True, portal_file: Path = ROOT / "portal.toml"
    ) -> None:
        self.data = data
        DataFolder(data).make()
        self.port, self.hub_port, self.proxy_api_port, self.quota_port = (free_port() for _ in range(4))
        self.url = f"http://127.0.0.1:{self.port}/"
        self.fake = FakeQuota(self.secret("hub_credential"), self.quota_port).start() if fake_quota else None
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "COMMONS_PORTAL_FILE": str(portal_file),
            "COMMONS_DATA": str(data),
            "COMMONS_PUBLIC_URL": self.url,
            "COMMONS_HUB_PORT": str(self.hub_port),
            "COMMONS_QUOTA_PORT": str(self.quota_port),
            "COMMONS_PROXY_API_PORT": str(self.proxy_api_port),
            "CONFIGPROXY_AUTH_TOKEN": self.secret("proxy_token"),
        }
        self.hub_host = "127.0.0.1"  # where the proxy finds the hub
        self.config = data / "site_config.py"
        self.config.write_text(site)
        self.environment["TEST_CONFIG"] = str(ROOT / "jupyterhub_config.py")
        self.proxy: subprocess.Popen[bytes] | None = None
        self.hub: subprocess.Popen[bytes] | None = None

    @property
    def quota(self) -> FakeQuota:
        assert self.fake is not None
        return self.fake

    def secret(self, name: str) -> str:
        return (self.data / "secrets" / name).read_text()

    def password(self, user: str) -> str:
        users = json.loads(self.secret("demo_users.json"))
        return str(next(one["password"] for one in users if one["user"] == user))

    @property
    def log(self) -> str:
        return (self.data / "logs" / "hub.log").read_text()

    def start_proxy(self) -> None:
        script = NODE / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
        hub = f"http://{self.hub_host}:{self.hub_port}"
        argv = [str(NODE / "node"), str(script), "--ip", "127.0.0.1", "--port", str(self.port)]
        argv += ["--api-ip", "127.0.0.1", "--api-port", str(self.proxy_api_port), "--default-target", hub]
        with (self.data / "logs" / "proxy.log").open("ab") as log:
            self.proxy = subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log)

    def start_hub(self) -> None:
        argv = [sys.executable, "-m", "jupyterhub", "-f", str(self.config)]
        with (self.data / "logs" / "hub.log").open("ab") as log:
            self.hub = subprocess.Popen(argv, cwd=self.data / "hub", env=self.environment, stdout=log, stderr=log)
        until(
            self._answers, within_s=2 * PATIENCE_S, what="the hub answers through the proxy"
        )  # of a machine with 25 others at work

    def _answers(self) -> bool:
        assert self.hub is not None
        assert self.hub.poll() is None, self.log[-4000:]
        try:
            return httpx.get(self.url + "hub/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def start(self) -> HubProcess:
        self.start_proxy()
        self.start_hub()
        return self

    def kill_hub(self) -> None:
        _kill(self.hub)

    def kill_proxy(self) -> None:
        _kill(self.proxy)

    def live_sessions(self) -> list[str]:
        """Hold ids of sessions whose runner lives."""
        alive = []
        for folder in (self.data / "sessions").glob("*"):
            try:
                record = records.read(folder)
            except records.RecordError:
                continue
            if not record.ended and records.is_alive(record):
                alive.append(record.hold_id)
        return alive

    def end(self) -> None:
        self.kill_hub()
        self.kill_proxy()
        kill_sessions(self.data)
        if self.fake is not None:
            self.fake.stop()


class Browser:
    """Somebody with a cookie jar: pages and the hub's API as a browser uses them."""

    def __init__(self, hub: HubProcess, user: str, language: str = "en") -> None:
        self.hub = hub
        self.user = user
        self.http = httpx.Client(
            base_url=hub.url,
            timeout=PATIENCE_S,
            follow_redirects=True,
            headers={"Accept-Language": language},
            trust_env=False,
        )

    @property
    def xsrf(self) -> str:
        found = [cookie.value for cookie in self.http.cookies.jar if cookie.name == "_xsrf" and cookie.path == "/hub/"]
        return str(found[-1])

    def try_sign_in(self, password: str) -> httpx.Response:
        self.http.get("/hub/login", headers={"Sec-Fetch-Mode": "navigate"})
        form = {"username": self.user, "password": password, "_xsrf": self.xsrf}
        return self.http.post("/hub/login", data=form, follow_redirects=False)

    def sign_in(self) -> Browser:
        answer = self.try_sign_in(self.hub.password(self.user))
        assert answer.status_code == 302, answer.text
        self.http.get("/hub/home", headers={"Sec-Fetch-Mode": "navigate"})
        return self

    def api(self, method: str, path: str, body: object = None) -> httpx.Response:
        """A call to the hub's REST API by cookie."""
        headers = {"X-XSRFToken": self.xsrf, "Content-Type": "application/json"}
        return self.http.request(method, f"/hub/api{path}", content=json.dumps(body), headers=headers)

    def relay(self, method: str, path: str, body: object = None) -> httpx.Response:
        """A call to one of our own JSON routes."""
        return self.http.request(method, f"/hub/commons{path}", json=body, headers={"X-XSRFToken": self.xsrf})

    def start(self, options: dict[str, Any] | None, server: str = "") -> httpx.Response:
        return self.api("POST", f"/users/{self.user}/servers/{server}", {"user_options": options})

    def choose(self, form: dict[str, Any], server: str = "") -> httpx.Response:
        """Post the chooser's form."""
        path = f"/hub/spawn/{self.user}" + (f"/{server}" if server else "")
        return self.http.post(path, params={"_xsrf": self.xsrf}, data=form)

    def server(self, name: str = "") -> dict[str, Any] | None:
        answer = self.api("GET", f"/users/{self.user}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] | None = answer.json()["servers"].get(name)
        return found

    def ready(self, name: str = "") -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            server = self.server(name)
            return server if server is not None and server["ready"] else None

        return until(look, within_s=PATIENCE_S, what=f"{self.user}'s server {name!r} is ready")

    def stop(self, name: str = "") -> None:
        assert self.api("DELETE", f"/users/{self.user}/servers/{name}").status_code in (202, 204)
        until(lambda: self.server(name) is None, within_s=PATIENCE_S, what="the server has stopped")


def text_of(page: str) -> str:
    """A page's text without its tags, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()
