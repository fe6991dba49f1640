"""`./commons bench slurm`: sessions as jobs against batchspawner's stock SlurmSpawner, on one real Slurm 22.05.

Start to ready: from `start()` to a TCP connection to the session, the same tiny program in both. Calls: what spawners cause at slurmrestd
while 1, 50 and 500 sessions are polled every 10 s; bounded by one look each `look` seconds. Loop: a task on the real hub's event loop
wakes every 5 ms while 50 starts that were asked for at once become ready; the goal holds for how much too late it ever woke, by the clock: nobody
else was answered meanwhile, whatever the reason. The hub has one core to itself for that, and everything else here (a second Slurm with its jobs,
proxy, quota service, this process) the others. Told beside it: of that pause, the loop's own CPU time and its waiting for the core, which
others' work had; and the longest single piece.
Needs root and two cores.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from batchspawner import SlurmSpawner
from jupyterhub.objects import Hub
from traitlets.config import Config

from spawners.job_queue import RestQueue
from spawners.signer.client import SignerClient
from spawners.slurm import SlurmRestSpawner
from spawners.slurmrestd.client import SlurmClient
from spawners.slurmrestd.wire import Answer, Http, Params
from tests.bench.loop_watch import PAUSE, Callback
from tests.bench.result import BenchResult, Better, Goal
from tests.bench.slurm_hub import core_aside, longest_work
from tests.integration.slurm.cluster import SlurmCluster, running_cluster
from tests.integration.slurm.job_sessions import SlurmUnderTest, slurm_table
from tests.integration.slurm.offices import running_signer, signer_settings
from tests.integration.slurm.options import ACCOUNT, ANN, PARTITION, PORTAL_ACCOUNT, Options
from tests.integration.slurm.portal_file import as_owner, open_python

ROUNDS: Final = 8
AT_ONCE: Final = 50
SESSIONS: Final = (1, 50, 500)
WATCHED_S: Final = 30
POLL_S: Final = 10
GOAL_LOOP_MS: Final = 50
PROGRAM: Final = """#!/usr/bin/python3
import os, re, socket, sys, time
words = [*sys.argv, os.environ.get("JUPYTERHUB_SERVICE_URL", "")]
port = next(int(found[1]) for word in words for found in [re.search(r"^(?:--port=|https?://[^:/]*:)([0-9]+)", word)] if found)
listening = socket.socket()
listening.bind(("127.0.0.1", port)); listening.listen()
time.sleep(600)
"""
LUA: Final = Path(__file__).resolve().parents[2] / "deploy/slurm/job_submit.lua"


class CountingReader:
    """Counts what is asked of slurmrestd."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.calls = 0

    def get(self, path: str, params: Params = ()) -> Answer:
        self.calls += 1
        answer: Answer = self._reader.get(path, params)
        return answer


def wait_for_port(port: int) -> None:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.005)
    raise RuntimeError("nobody listens")


async def ours_s(under_test: SlurmUnderTest, number: int) -> float:
    spawner = under_test.spawner(f"bench-{number}", server=f"s{number}")
    began = time.perf_counter()
    _, port = await spawner.start()
    await asyncio.to_thread(wait_for_port, port)
    took = time.perf_counter() - began
    await spawner.stop()
    return took


def stock(under_test: SlurmUnderTest, folder: Path, program: Path, number: int) -> Any:
    """batchspawner as its documentation sets it up, with the words of this cluster."""
    cluster, name = under_test.cluster, ANN.login
    config = Config()
    config.SlurmSpawner.exec_prefix = f"{as_owner(cluster, folder)} {name}"
    config.SlurmSpawner.req_partition, config.SlurmSpawner.req_gres = PARTITION, "gpu:h100:1"
    config.SlurmSpawner.req_options, config.SlurmSpawner.req_srun = f"--account={ACCOUNT}", ""
    config.SlurmSpawner.req_runtime = "10"
    config.SlurmSpawner.req_memory, config.SlurmSpawner.req_nprocs = "256", "1"
    config.SlurmSpawner.batch_query_cmd = "squeue -h -j {job_id} -o '%T 127.0.0.1'"
    config.SlurmSpawner.state_exechost_re = r" ([0-9.]+)$"
    config.SlurmSpawner.batchspawner_singleuser_cmd = f"{Path(sys.executable).with_name('batchspawner-singleuser')}"
    config.SlurmSpawner.cmd = [str(program)]
    spawner = _Stock(
        user=SimpleNamespace(name=name, url=f"/user/{name}/", escaped_name=name, server_url=lambda _: "/"),
        hub=Hub(ip="127.0.0.1", port=under_test.server.server_port, base_url="/hub/", public_host=""),
        orm_spawner=SimpleNamespace(name="", display_name="", server=None),
        db=SimpleNamespace(commit=lambda: None),
        config=config,
    )
    spawner.api_token, spawner.req_homedir = f"stock-{number}", f"{cluster.homes}/{name}"
    spawner.environment = {"TEST_PROGRAM": "polite", "SLURM_CONF": str(cluster.conf)}
    return spawner


class _Stock(SlurmSpawner):  # type: ignore[misc]  # traitlets boundary
    """Takes its port from this process's small server in the place of the stock route, and knows no Unix account here."""

    def user_env(self, env: dict[str, str]) -> dict[str, str]:
        return env

    async def take_port(self, port: int) -> bool:
        self.port = port
        return True


async def stock_s(under_test: SlurmUnderTest, folder: Path, program: Path, number: int) -> float:
    spawner = stock(under_test, folder, program, number)
    under_test.server.spawners[spawner.api_token] = [spawner]
    began = time.perf_counter()
    _, port = await spawner.start()
    await asyncio.to_thread(wait_for_port, port)
    took = time.perf_counter() - began
    await spawner.stop()
    return took


async def calls_a_minute(under_test: SlurmUnderTest, reader: CountingReader, sessions: int) -> float:
    """Polls of so many sessions, each every POLL_S as JupyterHub does; all of them look at jobs that really run."""
    first = under_test.spawner(f"calls-{sessions}", server=f"c{sessions}")
    await first.start()
    state = first.get_state()
    crowd = [under_test.spawner("", server=f"c{sessions}") for _ in range(sessions)]
    for one in crowd:
        one.load_state(state)
    before, began = reader.calls, time.monotonic()

    async def polled(one: Any, offset_s: float) -> None:
        await asyncio.sleep(offset_s)
        while time.monotonic() - began < WATCHED_S:
            assert await one.poll() is None
            await asyncio.sleep(POLL_S)

    await asyncio.gather(*(polled(one, POLL_S * place / sessions) for place, one in enumerate(crowd)))
    rate = (reader.calls - before) * 60 / (time.monotonic() - began)
    await first.stop()
    return rate


@dataclass(frozen=True, slots=True)
class Loop:
    """What stopped the hub's loop while AT_ONCE starts went on: its callbacks and its pauses, the longest first."""

    work: Sequence[Callback]
    pauses: Sequence[Callback]
    ready: int

    @classmethod
    def of(cls, seen: Sequence[Callback], ready: int) -> Loop:
        """Tell the two apart."""
        return cls([one for one in seen if one.what != PAUSE], [one for one in seen if one.what == PAUSE], ready)


def measure_hub() -> Loop:
    """The real hub on a core of its own; its cluster is made while this process keeps to the others, and so do its jobs."""
    with core_aside() as core, clean_cluster() as (cluster, folder):
        return Loop.of(*longest_work(cluster, folder / "hub", AT_ONCE, core))


async def measure(cluster: SlurmCluster, folder: Path, signer: SignerClient) -> BenchResult:
    program = cluster.base / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    reader = CountingReader(signer)
    table = slurm_table(cluster, program, stop_wait="2 min", ask_every="1 min", look="2 s")
    queue = RestQueue(table, SlurmClient(Http(cluster.url), reader, signer))
    under_test = SlurmUnderTest(cluster, folder, queue, SlurmRestSpawner, PORTAL_ACCOUNT, "bench")
    pairs = [(await ours_s(under_test, n), await stock_s(under_test, folder, program, n)) for n in range(ROUNDS)]
    ours, theirs = (statistics.median(one) for one in zip(*pairs, strict=True))
    calls = {count: await calls_a_minute(under_test, reader, count) for count in SESSIONS}
    await under_test.end()
    hub = await asyncio.to_thread(measure_hub)
    few, many = calls[min(SESSIONS)], calls[max(SESSIONS)]
    return BenchResult(
        "slurm",
        [
            Goal("start to ready, ours / stock", ours / theirs, 1.0, Better.LOWER),
            Goal(
                "calls a minute at 500 sessions / at 1",
                many / few,
                1.5,  # flat: a resting session's look may be as old as the time between two polls
                Better.LOWER,
            ),
            Goal(
                f"the hub's event loop, {AT_ONCE} starts at once: longest pause between two ticks, ms by the clock",
                hub.pauses[0].clock_ms,
                GOAL_LOOP_MS,
                Better.LOWER,
            ),
            Goal(f"starts of {AT_ONCE} that became ready in the hub", hub.ready, AT_ONCE, Better.HIGHER),
        ],
        {
            "start to ready, ours, s": ours,
            "start to ready, stock SlurmSpawner, s": theirs,
            **{f"calls to slurmrestd a minute, {count} sessions": rate for count, rate in calls.items()},
            **_parts("that pause", hub.pauses[0]),
            "the longest single piece, ms by the clock": hub.work[0].clock_ms,
            **_parts("that piece", hub.work[0]),
        },
    )


def _parts(name: str, one: Callback) -> dict[str, float]:
    return {f"of {name}, ms of CPU": one.cpu_ms, f"of {name}, waiting for its core, ms": one.waited_ms}


@contextmanager
def clean_cluster() -> Iterator[tuple[SlurmCluster, Path]]:
    """A cluster of its own and a folder that its people may read."""
    with running_cluster(Options(min_job_age_s=5, submit_lua=LUA)) as cluster, tempfile.TemporaryDirectory() as folder:
        open_python(cluster)
        Path(folder).chmod(0o755)
        yield cluster, Path(folder)


def main(argv: Sequence[str]) -> BenchResult:
    """Measure on clusters of its own."""
    if os.geteuid() != 0:
        raise SystemExit("bench slurm starts a real Slurm and needs root")
    with clean_cluster() as (cluster, folder), running_signer(signer_settings(cluster, folder), folder) as signer:
        return asyncio.run(measure(cluster, folder, signer))
