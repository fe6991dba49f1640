"""A whole portal for tests: `./commons up` on a fresh data folder and free ports, for real.

The launcher is started in a session of its own; everything that it started is ended through it, by its pid.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from deploy.onehost import ports
from deploy.onehost.data_folder import DataFolder
from spawners import processes
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Portal:
    """One running portal; `data` outlives restarts."""

    data: Path
    port: int = field(default_factory=free_port)
    model: bool = True
    portal_file: Path | None = None  # None: the one of the checkout
    options: Sequence[str] = ()
    launcher: subprocess.Popen[bytes] | None = None
    ready: dict[str, object] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def api(self) -> str:
        return str(self.ready["api"])

    @property
    def gateway(self) -> str:
        return str(self.ready["gateway"])

    def password(self, user: str) -> str:
        demo = self.ready["demo"]
        assert isinstance(demo, list)
        return str(next(entry["password"] for entry in demo if entry["user"] == user))

    def pid(self, marker: str) -> int:
        """The pid of the portal's own program whose command line carries `marker`, below its launcher."""
        assert self.launcher is not None
        for process in psutil.Process(self.launcher.pid).children(recursive=True):
            try:
                command = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if marker in command and not command.startswith(("sh ", "setpriv", "/bin/sh")):
                return process.pid
        raise AssertionError(f"no program {marker}")

    def secret(self, name: str) -> str:
        return (self.data / "secrets" / name).read_text()

    @property
    def inner_ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads((self.data / "ports.json").read_text())
        return ports

    @property
    def runs(self) -> bool:
        """Whether its launcher lives."""
        return self.launcher is not None and self.launcher.poll() is None

    def serves(self) -> bool:
        """Whether hub and quota service answer at the public address."""
        return _answers(f"{self.url}hub/login") and _answers(f"{self.api}/health")

    def processes(self) -> dict[int, str]:
        """Every live process that was started for this data folder, by its environment or its command line."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            pid = int(folder.name)
            stat = processes.stat(pid)
            if stat is None or not stat.running or pid == os.getpid():
                continue
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if processes.environment(pid).get("COMMONS_DATA") == str(self.data) or str(self.data) in command:
                found[pid] = command
        return found

    def up(self, timeout_s: float = 240) -> Portal:
        """Start and wait until the ready file is written. Raises AssertionError with the launcher's output otherwise."""
        if not self.data.exists():
            self._choose_inner_ports()
        ready_file = self.data.parent / "ready.json"
        ready_file.unlink(missing_ok=True)
        argv = [str(ROOT / "commons"), "up", "--data", str(self.data), "--port", str(self.port)]
        argv += ["--ready-file", str(ready_file)] + ([] if self.model else ["--no-model"])
        argv += self.options
        output = self.data.parent / "launcher.log"
        environment = dict(os.environ)
        if self.portal_file is not None:
            environment["COMMONS_PORTAL_FILE"] = str(self.portal_file)
        with output.open("ab") as log:
            self.launcher = subprocess.Popen(
                argv, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + timeout_s
        while not ready_file.exists():
            assert self.launcher.poll() is None, output.read_text()[-3000:]
            assert time.monotonic() < deadline, "not ready: " + output.read_text()[-3000:]
            time.sleep(0.1)
        self.ready = json.loads(ready_file.read_text())
        return self

    def _choose_inner_ports(self) -> None:
        """Of this process's own block: what the portal chose itself, another suite's portal could choose before it listens."""
        folder = DataFolder(self.data)
        folder.make()
        folder.ports_file.write_text(json.dumps({name: free_port() for name in ports.NAMES}))

    def down(self, timeout_s: float = 150) -> int:
        """Ctrl-C: the launcher settles what runs and leaves nothing behind."""
        assert self.launcher is not None
        if self.launcher.poll() is None:
            self.launcher.send_signal(signal.SIGINT)
        return self.launcher.wait(timeout_s)

    def kill_launcher(self) -> None:
        assert self.launcher is not None
        os.kill(self.launcher.pid, signal.SIGKILL)
        self.launcher.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return bool(response.status == 200)
    except OSError:
        return False
