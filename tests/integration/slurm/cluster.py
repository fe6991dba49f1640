"""A real Slurm on this machine: slurmctld, slurmd for each fake node, slurmdbd on MariaDB, slurmrestd with JWT, fake GPUs.

Invariants: its ports, accounts and files are its own, so that several test sessions can each run one; `stop` leaves no process,
no mount and no file; a daemon that does not come up fails with what it logged. Needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import jwt

from tests import daemons
from tests.integration.slurm import config
from tests.integration.slurm.image import image
from tests.integration.slurm.namespace import PATH, Inside, Namespace
from tests.integration.slurm.options import (
    ACCOUNT,
    CLUSTER,
    OPERATOR,
    PORTAL_ACCOUNT,
    REST_USER,
    SLURM_UID,
    Account,
    Options,
    Ports,
    Release,
)
from tests.waiting import PATIENCE_S

_PROBE_S: Final = 10  # clients of a dead daemon retry for long
_API: Final = {
    Release.V22_05: ("-s", "openapi/v0.0.38,openapi/dbv0.0.38"),
    Release.V24_11: ("-s", "slurmctld,slurmdbd", "-d", "v0.0.40,v0.0.41,v0.0.42"),
}
_MARIADB: Final = (
    "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=64M", "--innodb-lock-wait-timeout=900",
    "--max-allowed-packet=16M", "--innodb-flush-log-at-trx-commit=2", "--skip-name-resolve",
)  # fmt: skip


class SlurmCluster:
    """A running cluster. Daemons are named slurmctld, slurmdbd, slurmrestd, mariadb, munged and slurmd-gpu1, …"""

    def __init__(self, options: Options, base: Path) -> None:
        self.options = options
        self.base = base
        self.ports = Ports.free(options.nodes)
        self.url = f"http://127.0.0.1:{self.ports.slurmrestd}"
        self.key_file = base / "state/jwt_hs256.key"
        self.conf = base / "etc/slurm.conf"
        self.homes = base / "homes"
        self.extrausers = base / "extrausers"
        self.tickets = base / "tickets"
        self._daemons: dict[str, Inside] = {}
        self._namespace: Namespace | None = None

    # -- what tests do with it ------------------------------------------------------------------------------------------------

    def run(self, *command: str, account: Account | None = None, check: bool = True, stdin: str = "") -> str:
        """Run a command inside the cluster, as root or as `account`; what it printed (both streams where it failed)."""
        argv = self.namespace.argv(command, None if account is None else account.uid)
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE_S, cwd="/"
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} exited {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def token(self, login: str, life_s: int = 120, key: bytes | None = None) -> str:
        """A token as slurmrestd takes it; the portal itself gets its tokens from the signer."""
        now = int(time.time())
        return jwt.encode({"iat": now, "exp": now + life_s, "sun": login}, key or self.key_file.read_bytes(), "HS256")

    def kill(self, daemon: str) -> None:
        """End a daemon as a crash would."""
        self._daemons[daemon].end(signal.SIGKILL)

    def end(self, daemon: str) -> None:
        """End a daemon in good order."""
        self._daemons[daemon].end()

    def freeze(self, daemon: str) -> None:
        """Stop a daemon in its tracks: its port stays open and nothing answers."""
        self._daemons[daemon].send(signal.SIGSTOP)

    def thaw(self, daemon: str) -> None:
        """Let a frozen daemon go on."""
        self._daemons[daemon].send(signal.SIGCONT)

    def begin(self, daemon: str) -> None:
        """Start one daemon (again) and wait until it answers."""
        if self._lives(daemon):
            return
        with (self.base / "log" / f"{daemon}.out").open("ab") as log:
            self._daemons[daemon] = self.namespace.spawn(self._command(daemon), log)
        self._await(daemon, self._probe(daemon))
        if daemon == "slurmctld":  # until its nodes have reported, every job waits for ReqNodeNotAvail
            self._await("the nodes", lambda: not self._nodes_unknown())

    def log(self, name: str) -> str:
        """A daemon's own log, such as `slurmctld`."""
        return (self.base / "log" / f"{name}.log").read_text(errors="replace")

    @property
    def namespace(self) -> Namespace:
        assert self._namespace is not None
        return self._namespace

    # -- start and stop -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring everything up, from an empty folder to idle nodes."""
        root = image() if self.options.release is Release.V24_11 else Path("/")
        self._write()
        environment = {"PATH": PATH, "SLURM_CONF": str(self.conf), "LC_ALL": "C.UTF-8", "HOME": "/root", "TZ": "UTC"}
        self._namespace = Namespace.start(root, self.base, environment)
        with (self.base / "log/mysql-install.out").open("ab") as log:
            folder, temporary = str(self.base / "mysql"), str(self.base / "mysql-tmp")
            argv = ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={folder}", f"--tmpdir={temporary}",
                    "--auth-root-authentication-method=socket", "--skip-test-db"]  # fmt: skip
            self.run("chown", "-R", "mysql:mysql", folder, temporary, str(self.base / "run/mysql"))
            subprocess.run(self.namespace.argv(argv), stdout=log, stderr=log, check=True, timeout=PATIENCE_S, cwd="/")
        self.begin("munged")
        self.begin("mariadb")
        self._make_database()
        self.begin("slurmdbd")
        self._make_accounts()  # the cluster has to be known to slurmdbd before slurmctld starts
        self.begin("slurmctld")
        for name in self.options.node_names:
            self.begin(f"slurmd-{name}")
        self.begin("slurmrestd")
        self._await("idle nodes", self._nodes_idle)

    def stop(self) -> None:
        """End everything at once; the caller removes the folder."""
        if self._namespace is not None:
            self._namespace.stop()
        for daemon in self._daemons.values():
            daemon.entering.wait(PATIENCE_S)

    def _write(self) -> None:
        base, options = self.base, self.options
        base.chmod(0o755)
        for name in (
            "etc",
            "run",
            "run/mysql",
            "spool",
            "dev",
            "log",
            "state",
            "mysql",
            "mysql-tmp",
            "munge",
            "homes",
            "extrausers",
        ):
            (base / name).mkdir(mode=0o755)
        (base / "log").chmod(0o1777)
        for name in ("state", "mysql", "munge"):
            (base / name).chmod(0o700)
        _secret(base / "munge/munge.key", 1024, 0o400)
        _secret(self.key_file, 32, 0o600)
        for number in range(options.gpus):  # fake GPUs: more names of /dev/null
            os.mknod(base / f"dev/nvidia{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            (base / f"dev/nvidia{number}").chmod(0o666)
        self.conf.write_text(config.slurm_conf(options, self.ports, base))
        (base / "etc/gres.conf").write_text(config.gres_conf(options, base))
        (base / "etc/cgroup.conf").write_text(config.cgroup_conf(options))
        slurmdbd = base / "etc/slurmdbd.conf"
        slurmdbd.write_text(config.slurmdbd_conf(options, self.ports, base))
        slurmdbd.chmod(0o600)
        if options.submit_lua is not None:
            lua = config.job_submit_lua(options.submit_lua.read_text(), self.tickets)
            (base / "etc/job_submit.lua").write_text(lua)
        self.tickets.mkdir()
        os.chown(self.tickets, 0, SLURM_UID)
        self.tickets.chmod(0o2770)
        for name, content in config.passwd(options, self.homes).items():
            (self.extrausers / name).write_text(content)
        for account in options.people:
            home = self.homes / account.login
            home.mkdir(mode=0o700)
            os.chown(home, account.uid, account.uid)
        for path in (base / "state", self.key_file, slurmdbd):
            os.chown(path, SLURM_UID, SLURM_UID)

    def _make_database(self) -> None:
        sql = (
            f"CREATE DATABASE IF NOT EXISTS {config.DATABASE};"
            f"CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{config.DATABASE_PASSWORD}';"
            f"GRANT ALL ON {config.DATABASE}.* TO 'slurm'@'127.0.0.1';"
        )
        self.run("mariadb", "--no-defaults", "-S", f"{self.base}/run/mysql/s.sock", "-uroot", stdin=sql)

    def _make_accounts(self) -> None:
        self.run("sacctmgr", "-i", "add", "cluster", CLUSTER)
        both = f"{ACCOUNT},{PORTAL_ACCOUNT}"
        self.run("sacctmgr", "-i", "add", "account", both, "Description=research", "Organization=ci")
        people = ",".join(one.login for one in self.options.people)
        self.run("sacctmgr", "-i", "add", "user", people, f"account={both}", f"defaultaccount={ACCOUNT}")
        self.run("sacctmgr", "-i", "add", "user", OPERATOR.login, "account=root", "adminlevel=Operator")

    # -- the daemons ----------------------------------------------------------------------------------------------------------

    def _command(self, daemon: str) -> Sequence[str]:
        base, run = self.base, self.base / "run"
        if daemon.startswith("slurmd-"):
            return ("slurmd", "-D", "-N", daemon.removeprefix("slurmd-"))
        if daemon in ("slurmctld", "slurmdbd"):
            return (daemon, "-D")
        if daemon == "slurmrestd":  # refuses to be root or SlurmUser
            who = ("setpriv", f"--reuid={REST_USER.uid}", f"--regid={REST_USER.uid}", "--clear-groups")
            listen = f"127.0.0.1:{self.ports.slurmrestd}"
            return (*who, "env", "SLURM_JWT=daemon", "slurmrestd", "-a", "rest_auth/jwt",
                    *_API[self.options.release], "-t", "8", listen)  # fmt: skip
        if daemon == "munged":
            return ("munged", "-F", "--force", f"--key-file={base}/munge/munge.key", f"--socket={run}/munge.socket",
                    f"--pid-file={run}/munged.pidfile", f"--log-file={base}/log/munged.log",
                    f"--seed-file={base}/munge/munged.seed")  # fmt: skip
        # A MariaDB that starts removes everybody's temporary tables from its tmpdir: in /tmp, those of a cluster beside it.
        return ("mariadbd", "--no-defaults", "--user=mysql", f"--datadir={base}/mysql", f"--tmpdir={base}/mysql-tmp",
                f"--socket={run}/mysql/s.sock",
                "--bind-address=127.0.0.1", f"--port={self.ports.mariadb}", f"--pid-file={run}/mysql/pid", *_MARIADB)  # fmt: skip

    def _probe(self, daemon: str) -> Callable[[], bool]:
        if daemon == "munged":
            return lambda: (self.base / "run/munge.socket").exists()
        if daemon == "mariadb":
            socket_file = f"{self.base}/run/mysql/s.sock"
            return lambda: self._says("mariadb-admin", "--no-defaults", "-S", socket_file, "-uroot", "ping") is not None
        if daemon == "slurmdbd":
            return lambda: self._says("sacctmgr", "-n", "show", "cluster") is not None
        if daemon == "slurmctld":
            return lambda: "is UP" in (self._says("scontrol", "ping") or "")
        if daemon == "slurmrestd":
            return lambda: _listens(self.ports.slurmrestd)
        return lambda: True  # a slurmd shows in the state of its node

    def _nodes_idle(self) -> bool:
        states = re.findall(r"^(\S+) (idle|mixed|allocated)$", self._says("sinfo", "-hNo", "%N %T") or "", re.MULTILINE)
        return {name for name, _ in states} == set(self.options.node_names)

    def _nodes_unknown(self) -> bool:
        """Whether a node that lives has not reported to slurmctld yet."""
        living = [name for name in self.options.node_names if self._lives(f"slurmd-{name}")]
        states = self._says("sinfo", "-hN", "-n", ",".join(living), "-o", "%T") if living else ""
        return states is None or "unknown" in states

    def _lives(self, daemon: str) -> bool:
        return daemon in self._daemons and self._daemons[daemon].alive()

    def _says(self, *command: str) -> str | None:
        """What a probe printed; None where it failed or took too long."""
        argv = self.namespace.argv(("timeout", str(_PROBE_S), *command))
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/", stdin=subprocess.DEVNULL)
        return done.stdout if done.returncode == 0 else None

    def _await(self, what: str, ready: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not ready():
            daemon = self._daemons.get(what)
            if time.monotonic() > give_up or (daemon is not None and not daemon.alive()):
                logs = "\n".join(
                    f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
                    for path in (self.base / "log").iterdir()
                )
                raise RuntimeError(f"{what} did not come up\n{logs}")
            time.sleep(0.05)


@contextmanager
def running_cluster(options: Options) -> Iterator[SlurmCluster]:
    """A cluster in a temporary folder, gone without leftovers at the end."""
    lacking = daemons.missing_slurm()
    if lacking:
        raise RuntimeError(f"needs Debian's packages {' '.join(lacking)}")
    if os.geteuid() != 0:
        raise RuntimeError("a Slurm cluster for tests needs root: namespaces, several users")
    base = Path(tempfile.mkdtemp(prefix="commons-slurm-"))
    cluster = SlurmCluster(options, base)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(base, ignore_errors=True)


def _secret(path: Path, size: int, mode: int) -> None:
    path.write_bytes(os.urandom(size))
    path.chmod(mode)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
