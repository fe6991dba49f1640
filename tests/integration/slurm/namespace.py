"""A mount, process and host-name namespace: what runs in it sees the cluster's own accounts and ends with one process.

Invariant: nothing outlives the namespace, and the namespace does not outlive the test session: its first process is killed with
the process that made it. The network is the machine's own: daemons listen on 127.0.0.1.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil

from tests.integration.slurm.config import HOST, HOSTS, NSSWITCH
from tests.waiting import PATIENCE_S

PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_SETUP: Final = """
root=$1 base=$2
hostname "$3"
if [ "$root" != / ]; then
  mount --bind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/tmp"
  mkdir -p "$root$base"
  mount --bind "$base" "$root$base"
fi
mount -t proc proc "$root/proc"
mount --bind "$base/etc/nsswitch.conf" "$root/etc/nsswitch.conf"
mount --bind "$base/etc/hosts" "$root/etc/hosts"
mkdir -p "$root/var/lib/extrausers"
mount --bind "$base/extrausers" "$root/var/lib/extrausers"
: >"$base/run/namespace"
exec chroot "$root" /bin/bash -c 'while :; do sleep 3600 & wait $!; done'  # bash collects what nobody waits for
"""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A running namespace; `pid` is its first process as this side sees it."""

    base: Path
    pid: int
    keeper: subprocess.Popen[bytes]
    environment: Mapping[str, str]

    @classmethod
    def start(cls, root: Path, base: Path, environment: Mapping[str, str]) -> Namespace:
        """Make the namespace over `root` ("/" is the machine itself); `base` has the same path inside."""
        (base / "etc/nsswitch.conf").write_text(NSSWITCH)
        (base / "etc/hosts").write_text(HOSTS)
        ready = base / "run/namespace"
        ready.unlink(missing_ok=True)
        argv = [
            "setpriv", "--pdeathsig", "KILL", "unshare", "-m", "-p", "-u", "-f", "--kill-child", "--propagation", "private",
            "bash", "-ec", _SETUP, "setup", str(root), str(base), HOST,
        ]  # fmt: skip
        with (base / "log/namespace.out").open("ab") as log:
            keeper = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        give_up = time.monotonic() + PATIENCE_S
        while not ready.exists() or not _is_inside(keeper, root):
            if keeper.poll() is not None or time.monotonic() > give_up:
                keeper.kill()
                raise RuntimeError(f"no namespace: {(base / 'log/namespace.out').read_text()}")
            time.sleep(0.01)
        return cls(base, psutil.Process(keeper.pid).children()[0].pid, keeper, environment)

    def argv(self, command: Sequence[str], uid: int | None = None) -> list[str]:
        """The command line that runs `command` inside, as `uid` where it is given."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-r", "-w"]
        if uid is not None:
            enter += ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        return [*enter, "env", "-i", *(f"{name}={value}" for name, value in self.environment.items()), *command]

    def spawn(self, command: Sequence[str], log: IO[bytes], uid: int | None = None) -> Inside:
        """Start a daemon inside."""
        entering = subprocess.Popen(
            self.argv(command, uid), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
        )
        return Inside(entering)

    def stop(self) -> None:
        """Kill everything inside."""
        self.keeper.kill()
        self.keeper.wait(PATIENCE_S)
        give_up = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{self.pid}").exists() and time.monotonic() < give_up:  # its last processes are still ending
            time.sleep(0.01)


def _is_inside(keeper: subprocess.Popen[bytes], root: Path) -> bool:
    """Whether the first process has the root that others enter: until its chroot they would be on the machine itself."""
    children = psutil.Process(keeper.pid).children()
    try:
        return bool(children) and os.path.samefile(f"/proc/{children[0].pid}/root/etc", root / "etc")
    except OSError:
        return False


@dataclass(slots=True)
class Inside:
    """A daemon inside: nsenter waits outside for the process that counts."""

    entering: subprocess.Popen[bytes]

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.entering.poll() is None

    def send(self, what: signal.Signals) -> None:
        """Signal the daemon itself and whatever it forked."""
        pids = [process.pid for process in self._processes()]
        if what is signal.SIGCONT and self.alive():  # nsenter stops itself when what it waits for is stopped
            pids.append(self.entering.pid)
        for pid in pids:
            try:
                os.kill(pid, what)
            except ProcessLookupError:
                continue

    def end(self, what: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait; SIGKILL where it does not go."""
        self.send(signal.SIGCONT)
        self.send(what)
        try:
            self.entering.wait(PATIENCE_S)  # slurmctld writes its state down: killed amid that, it forgets jobs
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.entering.wait(PATIENCE_S)

    def _processes(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.entering.pid).children()
        except psutil.NoSuchProcess:
            return []


def programs_missing(names: Sequence[str]) -> list[str]:
    """Which of these programs the machine does not have."""
    return [name for name in names if shutil.which(name, path=PATH) is None]
