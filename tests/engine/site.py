"""A host that runs sessions in containers: the packet rules, the helper under a user of its own, the home keeper, a site file.

Everything stands in the engine's namespace; `stop` takes it all away again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from spawners import session_firewall
from tests.engine import gpus
from tests.engine.engine import HELPER_ID, Engine
from tests.engine.units import SYSTEMD_PATH, Unit
from tests.portal import ROOT

READY_WITHIN_S: Final = 150

TABLES: Final = """
[containers]
engine = "{engine}"
helper = "{helper}"
keeper = "{keeper}"
start_deadline = "60 s"
stop_grace = "5 s"
tmp = "64 MiB"
processes = 200
canary = {canary}
cdi_folders = ["{cdi}"]

[containers.images.lab]
image = "{image}"

[containers.homes]
kind = "{homes}"
folder = "{folder}"
size = "64 MiB"
project_size = "64 MiB"

[[containers.gpus]]
hardware = "simulated-gpu"
source = "cdi"
kind = "{kind}"
"""


@dataclass
class ContainerSite:
    """One site; `ports` are the portal's that sessions may reach."""

    engine: Engine
    image: str
    folder: Path = field(init=False)
    homes: str = "directory"
    canary: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _helper: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.engine.run / f"site-{time.monotonic_ns()}"
        self.folder.mkdir(mode=0o755)
        self.state.mkdir(mode=0o700)
        os.chown(self.state, HELPER_ID, HELPER_ID)
        sockets = self.folder / "sockets"
        sockets.mkdir(mode=0o755)
        os.chown(sockets, HELPER_ID, HELPER_ID)
        self.portal_file.write_text(self._portal_toml())

    @property
    def portal_file(self) -> Path:
        return self.folder / "portal.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def helper(self) -> Path:
        return self.folder / "sockets" / "helper.sock"

    @property
    def keeper(self) -> Path:
        return self.folder / "sockets" / "homes.sock"

    @property
    def home_root(self) -> Path:
        return self.folder / "homes"

    def _portal_toml(self) -> str:
        """The checkout's site file with its profiles on containers."""
        text = (ROOT / "portal.toml").read_text().replace('backend = "local"', 'backend = "container"')
        text = text.replace('memory = "2 GiB"', 'memory = "768 MiB"').replace(
            '\nruntime = "3 min"', '\nruntime = "90 s"'
        )
        return text + TABLES.format(
            engine=self.engine.socket,
            helper=self.helper,
            keeper=self.keeper,
            image=self.image,
            homes=self.homes,
            folder=self.home_root,
            kind=gpus.KIND,
            cdi=self.engine.cdi_folder,
            canary=str(self.canary).lower(),
        )

    def load_rules(self, *ports: int) -> None:
        """Load the packet rules; this process is in the namespace."""
        session_firewall.load(session_firewall.render(ports, [0]))

    def load_rules_as_at_boot(self, hub: int, quota: int) -> None:
        """Load them by the host's own unit."""
        unit = Unit.read("commons-firewall")
        environment = self._environment() | {
            "COMMONS_HUB_PORT": str(hub),
            "COMMONS_QUOTA_PORT": str(quota),
            "COMMONS_PORTAL_UIDS": "0",
        }
        argv = [*unit.confined(), *unit.argv(environment)]
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    def start(self) -> ContainerSite:
        """Start helper and keeper and wait until sessions may start."""
        self.start_helper()
        self._start("commons-homes", None)
        self.start_watchdog()
        self._until(lambda: self.keeper.exists(), "the home keeper listens")
        return self

    def start_watchdog(self) -> subprocess.Popen[bytes]:
        """Start the watchdog under the helper's user."""
        return self._start("commons-engine-watchdog", HELPER_ID)

    def start_helper(self, *, wait: bool = True) -> subprocess.Popen[bytes]:
        """Start the helper under its own user."""
        process = self._helper = self._start("commons-engine-helper", HELPER_ID)
        if wait:
            self._until(lambda: self.health().get("ready") is True, "the helper is ready", process)
        return process

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": SYSTEMD_PATH,
            "COMMONS_PORTAL_FILE": str(self.portal_file),
            "COMMONS_DATA": str(self.folder),
            "COMMONS_ENGINE_STATE": str(self.state),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _start(self, name: str, uid: int | None) -> subprocess.Popen[bytes]:
        """Start a unit of deploy/systemd, as confined as there."""
        unit, environment = Unit.read(name), self._environment()
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*unit.confined(uid), *unit.argv(environment)],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.processes.append(process)
        return process

    def _until(self, look: Any, what: str, process: subprocess.Popen[bytes] | None = None) -> None:
        end = time.monotonic() + READY_WITHIN_S
        while not look():
            alive = process is None or process.poll() is None
            if not alive or time.monotonic() >= end:
                raise AssertionError(f"not: {what}: {self.log('commons-engine-helper')[-3000:]}")
            time.sleep(0.05)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def http(self) -> httpx.Client:
        """A client of the helper."""
        return httpx.Client(transport=httpx.HTTPTransport(uds=str(self.helper)), base_url="http://helper", timeout=60)

    def health(self) -> dict[str, Any]:
        """What the helper says of itself; empty while it does not answer."""
        with suppress(httpx.TransportError), self.http() as client:
            found: dict[str, Any] = client.get("/commons/health").json()
            return found
        return {}

    def sessions(self) -> dict[str, dict[str, Any]]:
        """The helper's evidence, by hold id."""
        with self.http() as client:
            return {one["hold_id"]: one for one in client.get("/commons/sessions").json()["sessions"]}

    def stop_helper(self) -> None:
        """Stop the helper alone."""
        process = self._helper
        self.processes.remove(process)
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    def stop(self) -> None:
        """Stop helper and keeper, remove containers, unmount homes."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
                process.wait(60)
        self.processes.clear()
        self.engine.remove_containers()
        for home in self.home_root.glob("cc-*"):
            if home.is_mount():
                subprocess.run(["umount", str(home)], check=False, capture_output=True, timeout=30)
