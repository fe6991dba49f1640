"""The process around a session inside its job, run for real: GPUs, port, deadline, the end of everything it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from spawners import job_runner, processes
from spawners.job_spec import RUNNER
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

PROGRAM = """
import os, signal, socket, subprocess, sys, time
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.environ["HOME"] + "/arguments", "w").write("\\n".join(sys.argv))
open(os.environ["HOME"] + "/environment.part", "w").write("\\n".join(f"{k}={v}" for k, v in os.environ.items()))
os.rename(os.environ["HOME"] + "/environment.part", os.environ["HOME"] + "/environment")
if "stray" in sys.argv:
    subprocess.Popen(["setsid", "sleep", "600"], env={"COMMONS_HOLD_ID": "stray-of-" + os.environ["HOME"]})
listening = socket.socket()
if "mute" not in sys.argv:
    port = next(int(one.partition("=")[2]) for one in sys.argv if one.startswith("--port="))
    listening.bind(("127.0.0.1", port)); listening.listen()
if "brief" in sys.argv: sys.exit(3)
while True: time.sleep(600)
"""


class FakeHub(ThreadingHTTPServer):
    """Takes ports and answers with a deadline, as spawners.callback does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ports: list[int] = []
        self.credentials: set[str] = set()
        self.deadline_ms = 0
        self.refuse_first = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hub/api/commons/"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.credentials.add(self.headers["Authorization"])
        if self.server.refuse_first:
            self.server.refuse_first -= 1
            self._answer(503, b"")
            return
        self.server.ports.append(body["port"])
        self._answer(204, b"")

    def do_GET(self) -> None:
        self._answer(200, json.dumps({"deadline_ms": self.server.deadline_ms}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class JobUnderTest:
    """One runner as Slurm would start it: its text on stdin, its order in the environment."""

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url
        (home / "program.py").write_text(PROGRAM)
        self.folder = home / ".commons/sessions/h1"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str, environment: dict[str, str] | None = None, **changes: Any) -> JobUnderTest:
        order = {
            "hold_id": "h1", "argv": [sys.executable, str(self.home / "program.py"), *words], "gpus": 0, "runtime_s": 600,
            "deadline_ms": 0, "grace_s": 60, "limit_margin_s": 90, "ask_every_s": 60, "callback_url": self.url, "listen": "127.0.0.1",
            "first_port": 0, "last_port": 0,
        } | changes  # fmt: skip
        variables = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "JUPYTERHUB_API_TOKEN": "t0",
            "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:0/user/ada/",
            "COMMONS_JOB": json.dumps(order),
        }
        with RUNNER.open("rb") as text:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-"], stdin=text, env=variables | (environment or {}), cwd=self.home
            )
        return self

    def wait(self, within_s: float = PATIENCE_S) -> int:
        assert self.process is not None
        return self.process.wait(within_s)

    @property
    def running(self) -> bool:
        assert self.process is not None
        return self.process.poll() is None

    @property
    def deadline_ms(self) -> int:
        try:
            return int((self.folder / "deadline").read_text())
        except FileNotFoundError:
            return 0

    def programs(self) -> list[int]:
        """Pids of everything that the session runs."""
        assert self.process is not None
        return sorted(processes.descendants(self.process.pid))

    def environment(self) -> dict[str, str]:
        lines = until(lambda: (self.home / "environment").exists(), within_s=PATIENCE_S, what="the program runs")
        assert lines
        return dict(line.split("=", 1) for line in (self.home / "environment").read_text().splitlines())

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            for pid in [*self.programs(), self.process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(PATIENCE_S)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    one = FakeHub()
    yield one
    one.shutdown()
    one.server_close()


@pytest.fixture
def job(tmp_path: Path, hub: FakeHub) -> Iterator[JobUnderTest]:
    one = JobUnderTest(tmp_path, hub.url)
    yield one
    one.end()


def soon_ms(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


def reached(job: JobUnderTest, look: Callable[[], object], what: str) -> None:
    until(lambda: bool(look()), within_s=PATIENCE_S, what=what)


def test_the_port_is_told_once_the_session_listens_with_its_own_credential(job: JobUnderTest, hub: FakeHub) -> None:
    hub.refuse_first = 2
    job.start()
    reached(job, lambda: hub.ports, "the port is told")
    with socket.create_connection(("127.0.0.1", hub.ports[0]), timeout=PATIENCE_S):
        pass
    assert hub.credentials == {"token t0"}
    environment = job.environment()
    assert environment["JUPYTERHUB_SERVICE_URL"] == f"http://127.0.0.1:{hub.ports[0]}/user/ada/"
    assert "COMMONS_JOB" not in environment
    assert job.folder.stat().st_mode & 0o777 == 0o700
    assert abs(job.deadline_ms - soon_ms(600)) < 60_000
    assert job.process
    job.process.terminate()
    assert job.wait() == 128 + signal.SIGTERM
    assert len(hub.ports) == 1


def test_a_sessions_kernels_have_a_folder_of_their_own_that_goes_with_it(job: JobUnderTest, hub: FakeHub) -> None:
    job.start()
    reached(job, lambda: hub.ports, "it runs")
    folder = Path(job.environment()["JUPYTER_RUNTIME_DIR"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(f"{folder}/kernel-{uuid.uuid4()}-ipc-5") <= 107  # unix(7)
    assert "--KernelManager.transport=ipc" in (job.home / "arguments").read_text().splitlines()
    (folder / "kernel-1-ipc-1").touch()
    assert job.process
    job.process.terminate()
    job.wait()
    assert not folder.exists()


def test_a_program_that_does_not_listen_has_no_port_to_tell(job: JobUnderTest, hub: FakeHub) -> None:
    job.start("mute", deadline_ms=soon_ms(1.5))
    assert job.wait() == 128 + signal.SIGTERM
    assert hub.ports == []


@pytest.mark.parametrize(("devices", "status"), [("0", 76), ("NoDevFiles", 76), ("", 76), ("0,1", 3), ("0,1,2", 3)])
def test_without_its_gpus_nothing_is_started(job: JobUnderTest, devices: str, status: int) -> None:
    job.start("brief", environment={"CUDA_VISIBLE_DEVICES": devices}, gpus=2)
    assert job.wait() == status
    assert (job.home / "environment").exists() is (status != job_runner.EXIT_NO_GPU)


def test_the_deadline_is_kept_while_nobody_else_is_there_and_the_kill_follows_the_grace(job: JobUnderTest) -> None:
    job.url = f"http://127.0.0.1:{free_port()}/"
    job.start("deaf", deadline_ms=soon_ms(3600), grace_s=2)
    job.environment()  # which it writes once it is deaf
    due_ms = soon_ms(2)
    (job.folder / "deadline").write_text(f"{due_ms}\n")
    assert job.wait() == 128 + signal.SIGKILL
    assert time.time() * 1000 >= due_ms + 2000


def test_an_extension_at_the_hub_moves_the_deadline_on_disk_before_it_is_acted_on(
    job: JobUnderTest, hub: FakeHub
) -> None:
    hub.deadline_ms = later = soon_ms(3600)
    first = soon_ms(2)
    job.start(deadline_ms=first)
    reached(job, lambda: job.deadline_ms == later, "the new deadline is on disk")
    reached(job, lambda: time.time() * 1000 > first + 1000, "the old deadline has passed")
    assert job.running
    hub.deadline_ms = soon_ms(-1)  # and an earlier one counts as well, from the next question on
    (job.folder / "deadline").write_text(f"{soon_ms(1)}\n")
    assert job.wait() == 128 + signal.SIGTERM


def test_slurms_own_limit_counts_where_the_hub_is_away(job: JobUnderTest) -> None:
    squeue = job.home / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho ' 1-02:03:30'\n")
    squeue.chmod(0o755)
    job.url = f"http://127.0.0.1:{free_port()}/"
    job.start(deadline_ms=soon_ms(2), environment={"PATH": f"{squeue.parent}:{os.environ['PATH']}"})
    expected_ms = soon_ms(26 * 3600 + 2 * 60)  # what is left, without the margin of 90 s
    reached(job, lambda: abs(job.deadline_ms - expected_ms) < 60_000, "Slurm's limit is on disk")
    assert job.running


def test_a_deadline_file_that_makes_no_sense_changes_nothing(job: JobUnderTest, hub: FakeHub) -> None:
    job.start(deadline_ms=soon_ms(3600))
    reached(job, lambda: hub.ports, "it runs")
    (job.folder / "deadline").write_text("soon\n")
    time_left = soon_ms(2)
    reached(job, lambda: time.time() * 1000 > time_left, "it had time to look")
    assert job.running


def test_nothing_of_a_session_outlives_its_runner(job: JobUnderTest, hub: FakeHub) -> None:
    job.start("stray")
    reached(job, lambda: hub.ports, "it runs")
    strays = [pid for pid in job.programs() if processes.environment(pid).get("COMMONS_HOLD_ID")]
    assert strays
    assert job.process
    job.process.terminate()
    job.wait()
    assert all(processes.stat(pid) is None for pid in strays)


def test_a_port_that_another_user_of_the_node_took_is_never_told(job: JobUnderTest, hub: FakeHub) -> None:
    port = free_port()
    job.start("mute", first_port=port, last_port=port)
    job.environment()
    listen = (
        f"import os, socket, time; os.setuid(65534); s = socket.create_server(('127.0.0.1', {port})); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", listen])
    try:
        assert job.wait() == job_runner.EXIT_NO_PORT
    finally:
        other.kill()
        other.wait()
    assert hub.ports == []
