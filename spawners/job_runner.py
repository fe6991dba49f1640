"""The small process around each session inside its Slurm job: checks the GPUs, tells the hub the port, keeps the deadline.

It travels as text inside the batch script (`spawners.job_spec`), so it is one file of the standard library and runs on Python 3.8 and later
(annotations are never evaluated). What differs between sessions comes in the environment variable COMMONS_JOB (JSON, `Order`), which the session does not see.

Invariants: the port is told only once the session's own user listens on it, so that nobody on the node can stand in for the notebook;
the deadline lies in a file of its own, fsynced, and is kept with hub, slurmrestd and slurmctld all down: SIGTERM at it, SIGKILL
GRACE_S later; before it acts on the deadline it asks once more, the hub first and then Slurm, whether it was moved; nothing of the
session is left when this process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from typing import Any, NoReturn

EXIT_NO_GPU = 76
EXIT_NO_PORT = 77
EXIT_NO_PROGRAM = 127
GRACE_S = 60  # between SIGTERM and SIGKILL at the deadline, inside the hold's stop margin of two minutes
TICK_S = 0.5
ASK_BEFORE_S = 20  # how long before the deadline it asks whether it was moved; also how long it waits for an answer
HTTP_S = 5
ATTEMPTS = 3
_PR_SET_CHILD_SUBREAPER = 36
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def say(message: str) -> None:
    """Write a line to the job's own output."""
    print("session runner: " + message, file=sys.stderr, flush=True)


def now_ns() -> int:
    """Nanoseconds since the node started, sleep included: a changed wall clock moves no deadline."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Deadline:
    """The session's end as UTC milliseconds, in a file that outlives this process and can be replaced by others."""

    def __init__(self, folder: str, deadline_ms: int) -> None:
        self._path = os.path.join(folder, "deadline")
        self._wall_ms, self._boot_ns = time.time_ns() // 10**6, now_ns()
        self._seen: tuple[int, int] | None = None
        self.ms = deadline_ms
        self.write(deadline_ms)

    def now_ms(self) -> int:
        """The present on the clock that the deadline is kept by."""
        return self._wall_ms + (now_ns() - self._boot_ns) // 10**6

    def write(self, deadline_ms: int) -> None:
        """Replace the deadline, durably; in memory only where the file cannot be written."""
        self.ms = deadline_ms
        draft = self._path + ".tmp"
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(b"%d\n" % deadline_ms)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self._path)
            with contextlib.ExitStack() as after:
                folder = os.open(os.path.dirname(self._path), os.O_RDONLY)
                after.callback(os.close, folder)
                os.fsync(folder)
            self._seen = self._stamp()
        except OSError as error:
            say(f"the deadline is kept in memory only: {error}")

    def follow(self) -> None:
        """Read the file again where somebody replaced it; one without sense changes nothing."""
        stamp = self._stamp()
        if stamp is None or stamp == self._seen:
            return
        self._seen = stamp
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            match = re.fullmatch(rb"\s*([0-9]{1,15})\s*", file.read(64))
            if match:
                self.ms = int(match[1])

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


class Hub(threading.Thread):
    """Tells the hub the port and asks it for the deadline, away from the loop that keeps the deadline."""

    def __init__(self, order: dict[str, Any], token: str) -> None:
        super().__init__(daemon=True)
        self._order, self._token = order, token
        self._wake = threading.Event()
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect())
        self.port: int | None = None  # set once the session listens
        self._question = False
        self.asked_ns = 0  # when the last question was answered, or given up
        self.deadline_ms: int | None = None  # the newest answer

    def tell(self, port: int) -> None:
        """Tell the hub this port, as soon and as often as it takes."""
        self.port = port
        self._wake.set()

    def ask(self) -> None:
        """Ask for the deadline now."""
        self._question = True
        self._wake.set()

    def run(self) -> NoReturn:
        """Tell the port until it was taken; ask from time to time, and when told to."""
        every_s: float = self._order["ask_every_s"]
        told, wait_s, ask_at_ns = False, 0.2, now_ns() + int(every_s * 10**9)
        while True:
            if self._wake.wait(wait_s):
                self._wake.clear()
            if self.port is not None and not told:
                told = self._tell()
                wait_s = every_s if told else min(wait_s * 2, 5)
            if self._question or now_ns() >= ask_at_ns:
                self._question = False
                self._ask()
                ask_at_ns = now_ns() + int(every_s * 10**9)

    def _tell(self) -> bool:
        body = json.dumps({"port": self.port}).encode()
        try:
            self._call("port", body)
            return True
        except urllib.error.HTTPError as error:
            if error.code != 409:  # 409: the hub waits for no port, so it knows this one
                say(f"the hub refused the port: {error.code}")
            return error.code == 409
        except (OSError, ValueError) as error:
            say(f"the hub cannot be told the port yet: {error}")
            return False

    def _ask(self) -> None:
        try:
            answer = json.loads(self._call("deadline", None))["deadline_ms"]
            if isinstance(answer, int) and answer > 0:
                self.deadline_ms = answer
        except (OSError, ValueError, KeyError, TypeError):
            left_s = slurm_time_left_s()
            if left_s is not None:
                self.deadline_ms = time.time_ns() // 10**6 + (left_s - self._order["limit_margin_s"]) * 1000
        self.asked_ns = now_ns()

    def _call(self, name: str, body: bytes | None) -> bytes:
        request = urllib.request.Request(self._order["callback_url"] + name, data=body)  # noqa: S310 (the site's own address)
        request.add_header("Authorization", "token " + self._token)
        request.add_header("Content-Type", "application/json")
        with self._opener.open(request, timeout=HTTP_S) as answer:
            return bytes(answer.read(4096))


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A credential is sent to one place only."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """Follow nothing."""


def slurm_time_left_s() -> int | None:
    """Seconds until Slurm's own limit; None where Slurm does not say."""
    argv = ["squeue", "--noheader", "--jobs", os.environ.get("SLURM_JOB_ID", ""), "--format", "%L"]
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.fullmatch(rb"\s*(?:([0-9]+)-)?(?:([0-9]+):)?([0-9]+):([0-9]+)\s*", done.stdout)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def gpus_visible(environment: dict[str, str]) -> int:
    """How many GPUs this job may use, by what Slurm's gres plugin set."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        devices = [one for one in environment.get(name, "").split(",") if one.strip() and one != "NoDevFiles"]
        if devices:
            return len(devices)
    return 0


def listener(port: int) -> int | None:
    """The uid that listens on this TCP port, None where nobody does. proc(5), /proc/net/tcp."""
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(path) as table:
            for line in table:
                words = line.split()
                if len(words) > 7 and words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                    return int(words[7])
    return None


def free_port(address: str, first: int, last: int) -> int:
    """A port that nobody listens on; 0 where there is none. Where `first` is 0, as `spawners.ports` has it: this file is alone on its node."""
    candidates = range(first, last + 1) if first else range(61_000, 65_000)
    start = int.from_bytes(os.urandom(2), "big") % len(candidates)
    for port in [*candidates[start:], *candidates[:start]]:
        with contextlib.suppress(OSError), socket.socket() as probe:
            # An earlier session's ended connection may linger.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            return port
    return 0


class Session:
    """The session's program, and everything that it started."""

    def __init__(self, order: dict[str, Any], environment: dict[str, str]) -> None:
        self._order, self._environment = order, environment
        self._child: subprocess.Popen[bytes] | None = None
        self._kill_at_ns: int | None = None
        self._kernels = ""  # the folder of their sockets
        self.port = 0
        self.exit_status: int | None = None

    def start(self) -> None:
        """Start the program on a free port; its exit status is set at once where it cannot run."""
        order = self._order
        self.port = free_port(order["listen"], order["first_port"], order["last_port"])
        if not self.port:
            self.exit_status = EXIT_NO_PORT
            return
        environment = dict(self._environment)
        url = environment.get("JUPYTERHUB_SERVICE_URL", "")
        place = rf"\g<1>://{order['listen']}:{self.port}"
        environment["JUPYTERHUB_SERVICE_URL"] = re.sub(r"^(https?)://[^/]*", place, url)
        argv = [*order["argv"], "--ip=" + order["listen"], f"--port={self.port}"]
        # With a full /tmp they listen on TCP; why they should not: spawners.kernel_sockets.
        with contextlib.suppress(OSError):
            self._kernels = environment["JUPYTER_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="commons-", dir="/tmp")
            argv.append("--KernelManager.transport=ipc")
        try:
            self._child = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, preexec_fn=_become_session)
        except OSError as error:
            say(f"cannot run {argv[0]}: {error}")
            self.exit_status = EXIT_NO_PROGRAM

    def stop(self, grace_s: float) -> None:
        """Ask it to end; it is killed `grace_s` later. The earliest kill counts."""
        kill_at_ns = now_ns() + int(grace_s * 10**9)
        self._kill_at_ns = kill_at_ns if self._kill_at_ns is None else min(self._kill_at_ns, kill_at_ns)
        self._signal(signal.SIGTERM)

    def look(self) -> bool:
        """Collect what ended, kill what had its time; returns whether any child is left."""
        if self._kill_at_ns is not None and now_ns() >= self._kill_at_ns:
            self._signal(signal.SIGKILL)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if self._child is not None and pid == self._child.pid:
                code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
                self.exit_status = self._child.returncode = code

    def sweep(self) -> None:
        """Kill what it left behind: as subreaper this process is the ancestor of all of it."""
        give_up_ns = now_ns() + 10 * 10**9
        while self.look() and now_ns() < give_up_ns:
            for pid in own_children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)
        shutil.rmtree(self._kernels, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self.exit_status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)


def _become_session() -> None:
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def own_children() -> list[int]:
    """The pids whose parent is this process."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


class Watch:
    """The loop: the port to the hub, the deadline from it, the stop when it is due."""

    def __init__(self, order: dict[str, Any], session: Session, deadline: Deadline, hub: Hub) -> None:
        self._order, self._session, self._deadline, self._hub = order, session, deadline, hub
        self._stopping = False
        self._asking_ns: int | None = None

    def run(self) -> int:
        """Until the session has ended; returns its exit status."""
        while self._session.exit_status is None:
            self._port()
            self._deadline.follow()
            self._take_answer()
            self._stop_when_due()
            received = signal.sigtimedwait(_SIGNALS, 0.1 if self._hub.port is None else TICK_S)
            if received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT):
                say("told to stop")
                self._stopping = True
                self._session.stop(self._order["grace_s"])
            self._session.look()
        return self._session.exit_status

    def _port(self) -> None:
        if self._hub.port is None:
            uid = listener(self._session.port)
            if uid == os.getuid():
                self._hub.tell(self._session.port)
            elif uid is not None:
                say(f"another user of this node took port {self._session.port}")
                self._session.stop(0)

    def _take_answer(self) -> None:
        answer, self._hub.deadline_ms = self._hub.deadline_ms, None
        if answer is not None and answer != self._deadline.ms:
            self._deadline.write(answer)

    def _stop_when_due(self) -> None:
        left_s = (self._deadline.ms - self._deadline.now_ms()) / 1000
        if self._stopping or left_s > ASK_BEFORE_S:
            self._asking_ns = None
            return
        # A suspended job wakes up past its deadline, and an extension may just have been granted.
        if self._asking_ns is None:
            self._asking_ns = now_ns()
            self._hub.ask()
        asked = self._hub.asked_ns >= self._asking_ns or now_ns() - self._asking_ns > ASK_BEFORE_S * 10**9
        if left_s <= 0 and asked and self._hub.deadline_ms is None:
            say("the session's time is over")
            self._stopping = True
            self._session.stop(self._order["grace_s"])


def main() -> int:
    """Run the session that COMMONS_JOB describes; returns its exit status."""
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    order = json.loads(os.environ.pop("COMMONS_JOB"))
    environment = dict(os.environ)
    folder = os.path.join(environment.get("HOME", "/"), ".commons", "sessions", order["hold_id"])
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    except OSError as error:
        say(f"no folder for the session's log and deadline: {error}")
    visible = gpus_visible(environment)
    if visible < order["gpus"]:
        say(f"{visible} of {order['gpus']} GPUs are there: nothing is started")
        return EXIT_NO_GPU
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    deadline = Deadline(folder, order["deadline_ms"] or time.time_ns() // 10**6 + order["runtime_s"] * 1000)
    hub = Hub(order, environment.get("JUPYTERHUB_API_TOKEN", ""))
    status = EXIT_NO_PORT
    for _ in range(ATTEMPTS):
        session = Session(order, environment)
        session.start()
        if not hub.is_alive():
            hub.start()
        status = Watch(order, session, deadline, hub).run()
        session.sweep()
        cannot = session.exit_status in (EXIT_NO_PORT, EXIT_NO_PROGRAM)
        if hub.port is not None or cannot or not _port_taken(session.port):
            break
    return status


def _port_taken(port: int) -> bool:
    uid = listener(port)
    return uid is not None and uid != os.getuid()


if __name__ == "__main__":
    sys.exit(main())
