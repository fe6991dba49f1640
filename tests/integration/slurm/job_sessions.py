"""Sessions on a real test cluster, driven through spawner objects: what the hub would do, without a hub.

The jobs' own calls (the port, the deadline) go to a small server here that hands them to the spawner objects of this process.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from jupyterhub.objects import Hub
from traitlets.config import Config

from spawners import processes
from spawners.job_queue import JobQueue
from spawners.job_records import JobRecords
from spawners.profiles import Application, Backend, Profile, Profiles, SlurmPlace
from spawners.resources import ResourceRequest
from spawners.session_traits import HOLD_VARIABLE
from spawners.slurm import SlurmSession
from spawners.slurm_settings import SlurmTable
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.options import ANN, GPU_TYPE, PARTITION, Account
from tests.waiting import PATIENCE_S, eventually

PROGRAM: Final = """#!/usr/bin/python3 -IS
import os, signal, socket, sys, time
kind = os.environ["TEST_PROGRAM"]
if kind == "broken": print("no licence", flush=True); raise SystemExit(3)
if kind == "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN)
port = next(int(one.partition("=")[2]) for one in sys.argv if one.startswith("--port="))
listening = socket.socket()
listening.bind(("127.0.0.1", port)); listening.listen()
while True: time.sleep(600)
"""


def profile(profile_id: str, **changes: Any) -> Profile:
    values: dict[str, Any] = {
        "id": profile_id, "title": profile_id, "backend": Backend.SLURM, "hardware": GPU_TYPE, "cloud": "test", "gpus": 1,
        "applications": (Application("lab", "JupyterLab"),), "cpus": 1, "memory_bytes": 2**28, "default_runtime_s": 600,
        "longest_runtime_s": 86_400, "slurm": SlurmPlace("test", PARTITION, GPU_TYPE),
    }  # fmt: skip
    return Profile(**(values | changes))


def slurm_table(cluster: SlurmCluster, program: Path, **changes: Any) -> SlurmTable:
    return SlurmTable.model_validate({
        "url": cluster.url, "signer": "/unused", "account_prefix": "", "home": f"{cluster.homes}/{{login}}", "program": str(program),
        "listen": "127.0.0.1", "look": "1 s", "ask_every": "1 s", "stop_wait": "30 s", **changes,
    })  # fmt: skip


class JobServer(ThreadingHTTPServer):
    """Where jobs call: hands a port to the spawner whose credential it came with, and gives back its deadline."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.loop = loop
        self.spawners: dict[str, list[Any]] = {}
        self.told: dict[
            str, tuple[float, int]
        ] = {}  # by credential: when it asked last for its deadline, and the answer
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def ask(self, credential: str, work: Callable[[Any], Any]) -> list[Any]:
        found = self.spawners.get(credential.removeprefix("token "), [])
        return [asyncio.run_coroutine_threadsafe(work(one), self.loop).result(PATIENCE_S) for one in found]


class _Handler(BaseHTTPRequestHandler):
    server: JobServer

    def do_POST(self) -> None:
        port = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["port"]
        taken = self.server.ask(self.headers["Authorization"], lambda one: one.take_port(port))
        self._answer(204 if any(taken) else 409, b"")

    def do_GET(self) -> None:
        credential, began = self.headers["Authorization"], time.monotonic()
        deadline_ms = max(self.server.ask(credential, lambda one: one.deadline_for_job()), default=0)
        self._answer(200, json.dumps({"deadline_ms": deadline_ms}).encode())
        self.server.told[credential.removeprefix("token ")] = began, deadline_ms

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class SlurmUnderTest:
    """The contract's view of a cluster (tests.delegate_contract.BackendUnderTest)."""

    within_s: float = PATIENCE_S
    daemon = "slurmrestd"  # without it nobody can be asked
    deadline_grain_ms = 2000

    def __init__(
        self, cluster: SlurmCluster, folder: Path, queue: JobQueue, kind: type[SlurmSession], account: str, prefix: str
    ) -> None:
        self.cluster, self.queue, self.kind, self.account = cluster, queue, kind, account
        self.data = folder / "data"
        self.server = JobServer(asyncio.get_running_loop())
        self.profiles = Profiles((profile("one"), profile("two", gpus=2)))
        self._prefix = prefix

    def hold_id(self, name: str = "first") -> str:
        return f"{self._prefix}-{name}"

    def spawner(
        self, hold_id: str, *, user: str = "ada", server: str = "work", program: str = "polite", profile: str = "one",
        runtime_s: int = 600, owner: Account = ANN,
    ) -> Any:  # fmt: skip
        spawner = self.kind(
            user=SimpleNamespace(name=user, url=f"/user/{user}/", escaped_name=user, server_url=lambda _: "/"),
            hub=Hub(ip="127.0.0.1", port=self.server.server_port, base_url="/hub/", public_host=""),
            orm_spawner=SimpleNamespace(name=server, display_name="", server=None),
            config=Config(),
            data_folder=str(self.data),
        )
        spawner.profiles, spawner.queue_of = self.profiles, lambda _: self.queue
        spawner.hold_id, spawner.login, spawner.uid = hold_id, owner.login, owner.uid
        spawner.api_token = f"token-of-{hold_id}"
        spawner.session_environment = {"TEST_PROGRAM": program}
        spawner.resource_request = ResourceRequest(self.account, profile, "lab", runtime_s)
        self.server.spawners.setdefault(spawner.api_token, []).append(spawner)
        return spawner

    def impatient(self, spawner: Any) -> Any:
        table = self.queue.table.model_copy(update={"stop_wait": 1})
        spawner.queue_of = lambda _: _Impatient(self.queue, table)
        return spawner

    def squeue(self, form: str, *more: str) -> list[str]:
        """What Slurm itself says, one line a job."""
        return self.cluster.run("squeue", "-h", "-o", form, *more).splitlines()

    def job_ids(self, hold_id: str) -> list[str]:
        """Every job of this name that Slurm ever had, by its accounting."""
        listed = self.cluster.run("sacct", "-n", "-X", "-P", "-o", "jobid", f"--name={hold_id}", "-S", "now-1hours")
        return listed.split()

    async def runs(self, hold_id: str) -> bool:
        return await asyncio.to_thread(_any_runs, hold_id)

    async def kill(self, hold_id: str) -> None:
        await asyncio.to_thread(self.cluster.run, "scancel", "--name", hold_id)

    @asynccontextmanager
    async def dark(self) -> AsyncIterator[None]:
        # In good order: a slurmctld that crashes within seconds of a submit forgets the job itself (it writes its state every 5 s).
        await asyncio.to_thread(self.cluster.end, self.daemon)
        self.queue.look_again()
        try:
            yield
        finally:
            await asyncio.to_thread(self.cluster.begin, self.daemon)
            self.queue.look_again()

    async def deadline_ms(self, hold_id: str) -> int:
        """The watchdog's file, once it has what a question from now on was answered; Slurm's own limit where that is earlier."""
        path = self.cluster.homes / ANN.login / ".commons/sessions" / hold_id / "deadline"
        now = time.monotonic()

        async def follows() -> bool:
            asked, told_ms = self.server.told.get(f"token-of-{hold_id}", (0.0, 0))
            return asked > now and told_ms in (0, int(path.read_text()))  # 0: it keeps its own

        await eventually(follows, within_s=PATIENCE_S, what="the watchdog has asked and follows")
        (left,) = await asyncio.to_thread(self.squeue, "%L", "--name", hold_id)
        limit_ms = int((time.time() + _seconds(left)) * 1000)
        return min(int(path.read_text()), limit_ms)

    def forget(self, hold_id: str) -> None:
        """As if the session's files were lost, and its end with them."""
        for path in (self.data / "slurm").rglob(f"{hold_id}.json"):
            path.unlink()

    async def stop_reason(self, hold_id: str) -> str | None:
        return JobRecords(self.data).end_reason(hold_id)

    async def end(self) -> None:
        await asyncio.to_thread(self.cluster.run, "scancel", "-A", self.account, check=False)
        give_up = time.monotonic() + PATIENCE_S
        while await asyncio.to_thread(self.squeue, "%i", "-A", self.account):
            assert time.monotonic() < give_up, "jobs are left"
            await asyncio.sleep(0.1)
        self.server.shutdown()
        self.server.server_close()


class _Impatient:
    """A queue with another table."""

    def __init__(self, queue: JobQueue, table: SlurmTable) -> None:
        self._queue, self.table = queue, table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)


def _any_runs(hold_id: str) -> bool:
    """Whether a process of the session runs. One that was killed does nothing more, and on a busy machine is there for a moment."""
    for folder in Path("/proc").glob("[0-9]*"):
        found = processes.stat(int(folder.name))
        if found is None or not found.running or processes.environment(int(folder.name)).get(HOLD_VARIABLE) != hold_id:
            continue
        try:
            status = (folder / "status").read_text()
        except OSError:
            continue
        pending = [int(mask, 16) for mask in re.findall(r"^(?:SigPnd|ShdPnd):\s+(\w+)", status, re.MULTILINE)]
        if not any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending):
            print(status)
            return True
    return False


def _seconds(left: str) -> int:
    days, _, clock = left.strip().rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    return int(days or 0) * 86_400 + sum(part * (1, 60, 3600)[power] for power, part in enumerate(reversed(parts)))


def write_program(folder: Path) -> Path:
    """The sessions' program, where every account can run it."""
    path = folder / "program"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return path
