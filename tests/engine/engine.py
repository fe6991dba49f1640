"""Starts and stops a real dockerd in a namespace of its own; `stop` leaves no process, mount, bridge or namespace behind.

One engine at a time works on the cache's data: others wait for the lock. What a killed test run left is ended first, by its
pid and start. Source: docs.docker.com, dockerd's daemon.json; "live-restore" lets containers outlive a restart of the engine.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import docker
import docker.errors

from tests.engine import debs, gpus
from tests.engine.namespace import Namespace

# The helper's user: the only one beside root who may open the engine's socket.
HELPER_ID: Final = 64055
POOLS: Final[list[dict[str, Any]]] = [{"base": "10.200.0.0/16", "size": 28}]
LOCK_DEADLINE_S: Final = 900
_START_DEADLINE_S: Final = 150
_MANAGED: Final = "org.compute-commons.hold"


class Engine:
    """One engine. `cdi=False` makes one that knows no devices."""

    def __init__(self, *, cdi: bool = True) -> None:
        self.home = debs.cache()
        name = (
            f"cc-engine-{hashlib.sha256(str(self.home).encode()).hexdigest()[:6]}"  # one an engine's data, side by side
        )
        self.namespace = Namespace(name)
        self.run = Path("/run/compute-commons") / name
        self.socket = self.run / "docker.sock"
        self.cdi_folder = self.run / "cdi"
        self._cdi = cdi
        self._lock = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self, timeout_s: int = 300) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.url, version="1.45", timeout=timeout_s)

    def start(self) -> Engine:
        """Start on fresh state but for images. Raises debs.NoEngine where this machine cannot."""
        if os.geteuid() != 0:
            raise debs.NoEngine("a container engine needs root: run the tests as root")
        self._programs = debs.programs(debs.cache())
        self._take_lock()
        self._end_leftovers()
        self.run.mkdir(parents=True, exist_ok=True)
        if self._cdi:
            gpus.write_cdi(self.cdi_folder, self.run / "devices")
        self.namespace.make()
        self._free_containers()
        self.up()
        self.remove_containers()
        return self

    def up(self) -> None:
        """Start dockerd and wait until it answers; after `down`, what ran is found again."""
        config = self.run / "daemon.json"
        config.write_text(json.dumps(self._configuration()))
        path = f"{self._programs}/usr/sbin:{self._programs}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        argv = ["nsenter", f"--net={self.namespace.path}", str(self._programs / "usr/sbin/dockerd")]
        with (self.run / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*argv, "--config-file", str(config)],
                env={"PATH": path, "HOME": "/root"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + _START_DEADLINE_S
        while not self._answers():
            log_text = (self.run / "dockerd.log").read_text(errors="replace")[-3000:]
            assert self._process.poll() is None, f"dockerd ended: {log_text}"
            assert time.monotonic() < end, f"dockerd does not answer: {log_text}"
            time.sleep(0.05)

    def down(self) -> None:
        """Stop dockerd; containers run on (live-restore)."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)

    def restart(self, *, cdi: bool) -> None:
        """Start anew with or without support for devices; what ran runs on."""
        self.down()
        self._cdi = cdi
        self.up()

    def stop(self) -> None:
        """Remove containers and networks, then everything that the engine put on the machine."""
        try:
            if self._process is not None and self._process.poll() is None:
                self.remove_containers()
                self.down()
        finally:
            self._clean()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def _configuration(self) -> dict[str, Any]:
        return {
            "data-root": str(self.home / "data"),
            "exec-root": str(self.run / "exec"),
            "pidfile": str(self.run / "dockerd.pid"),
            "hosts": [self.url],
            "group": str(HELPER_ID),
            "iptables": True,
            "ip6tables": False,
            "ip-forward": True,
            "ip-masq": False,
            "bridge": "none",
            "userland-proxy": False,
            "live-restore": True,
            "storage-driver": "overlay2",
            "log-driver": "json-file",
            "default-address-pools": POOLS,
            "features": {"cdi": self._cdi},
            "cdi-spec-dirs": [str(self.cdi_folder)] if self._cdi else [],
        }

    def _answers(self) -> bool:
        try:
            with_client = self.client(timeout_s=5)
            try:
                return bool(with_client.ping())
            finally:
                with_client.close()
        except (docker.errors.DockerException, OSError):
            return False

    def remove_containers(self) -> None:
        client = self.client()
        for container in client.containers.list(all=True, ignore_removed=True):
            with suppress(docker.errors.NotFound):
                container.remove(force=True, v=True)
        for network in client.networks.list():
            if network.name.startswith("cc-"):
                with suppress(docker.errors.NotFound):  # a helper clears up behind a container
                    network.remove()
        for volume in client.volumes.list():
            volume.remove(force=True)
        client.close()

    def _take_lock(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.home / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + LOCK_DEADLINE_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                assert time.monotonic() < end, "another test run holds the engine"
                time.sleep(0.5)

    def _end_leftovers(self) -> None:
        """End the dockerd of a test run that was killed, which held the lock that is ours now."""
        try:
            pid = int((self.run / "dockerd.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            pass
        else:
            if str(self.run / "daemon.json").encode() in command:
                os.kill(pid, signal.SIGTERM)
                end = time.monotonic() + 60
                while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
                    time.sleep(0.1)
        self._clean()

    def _free_containers(self) -> None:
        """Let go of files that a test put in the way of a removal and was killed before it took them away."""
        argv = ["chattr", "-R", "-f", "-i", str(self.home / "data" / "containers")]
        subprocess.run(argv, check=False, capture_output=True, timeout=60)

    def _clean(self) -> None:
        """Containers that a killed dockerd left, mounts deepest first, the namespace, the run folder."""
        self._kill_shims()
        for mount in sorted(self._mounts(), key=len, reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True, timeout=30)
        self.namespace.remove()
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.run)], check=False, timeout=60)

    def _kill_shims(self) -> None:
        marker = str(self.run / "exec" / "containerd").encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes()
                if b"containerd-shim" in words.split(b"\0", 1)[0] and marker in words:
                    for child in (folder / "task" / folder.name / "children").read_text().split():
                        os.kill(int(child), signal.SIGKILL)
                    os.kill(int(folder.name), signal.SIGKILL)

    def _mounts(self) -> list[str]:
        prefixes = (f"{self.run}/", f"{self.home}/data")
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return [point for point in points if point.startswith(prefixes)]
