"""Fifty starts at once through our real hub: how long its event loop stands still. Sessions are jobs that answer as a notebook does.

The proxy, the signer and Slurm are real; the quota service is the tests' own at the wire. Callbacks are weighed and pauses told in the hub's process,
which has one core of its own, as a portal's hub has while its jobs start on nodes elsewhere: Slurm with its jobs, the proxy, the hub's own child
processes and everything else here share the other. Affinity only: nobody has a priority.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from tests.bench import loop_watch
from tests.integration.hub_process import SITE, Browser, HubProcess
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.hub_sessions import AT_ONCE, HOUR_MS, OPTIONS
from tests.integration.slurm.offices import running_signer, signer_settings
from tests.integration.slurm.options import ANN, PORTAL_ACCOUNT
from tests.integration.slurm.portal_file import PROJECT, slurm_portal
from tests.integration.slurm.test_whole_portal import SERVER

READY_WITHIN_S: Final = 240
CHILD_WITHIN_S: Final = 20
LOOK_S: Final = 2.0  # a look at fifty servers is work of the hub's own
_WATCHED: Final = """
from tests.bench import loop_watch
os.sched_setaffinity(0, {{{core}}})
loop_watch.write_down(DATA / "loop.jsonl")
c.Spawner.poll_interval = 10
"""


@contextmanager
def core_aside() -> Iterator[int]:
    """A core for the hub; this process, and what it starts meanwhile, keeps to the others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("bench slurm needs two cores: one is the hub's own")
    os.sched_setaffinity(0, cores[1:])
    try:
        yield cores[0]
    finally:
        os.sched_setaffinity(0, cores)


def longest_work(cluster: SlurmCluster, folder: Path, starts: int, core: int) -> tuple[list[loop_watch.Callback], int]:
    """The hub's callbacks and pauses from the first start until all are ready, the longest first; and how many became ready."""
    folder.mkdir()
    folder.chmod(0o755)
    settings = signer_settings(cluster, folder)
    program = cluster.base / "answers"
    program.write_text(SERVER)
    program.chmod(0o755)
    with running_signer(settings, folder):
        file = slurm_portal(cluster, folder, settings, program=f'"{program}"')
        file.write_text(_without_gpus(file.read_text()))
        hub = HubProcess(folder / "data", site=SITE + AT_ONCE + _WATCHED.format(core=core), portal_file=file)
        hub.quota.book.available, hub.quota.book.payers = {PROJECT: 100_000 * HOUR_MS}, {"pi": [PROJECT]}
        hub.quota.book.login, hub.quota.book.uid = ANN.login, ANN.uid
        try:
            hub.start()
            _keep_children_aside(hub, core)
            return _start(hub, Browser(hub, "pi").sign_in(), starts)
        finally:
            hub.end()
            cluster.run("scancel", "-A", PORTAL_ACCOUNT, check=False)


def _keep_children_aside(hub: HubProcess, core: int) -> None:
    """Move what the hub started itself off its core: its idle culler still imports when the hub answers already."""
    assert hub.hub is not None
    give_up_s = time.monotonic() + CHILD_WITHIN_S
    while not (children := psutil.Process(hub.hub.pid).children(recursive=True)):
        if time.monotonic() > give_up_s:
            raise RuntimeError("the hub started no idle culler")
        time.sleep(0.05)
    others = sorted(set(range(psutil.cpu_count() or 1)) - {core})
    for child in children:
        child.cpu_affinity(others)


def _start(hub: HubProcess, pi: Browser, starts: int) -> tuple[list[loop_watch.Callback], int]:
    began_s, give_up_s = time.time(), time.monotonic() + READY_WITHIN_S
    with ThreadPoolExecutor(starts) as pool:
        list(pool.map(lambda number: pi.start(OPTIONS, f"s{number}"), range(starts)))
    ready = 0
    while ready < starts and time.monotonic() < give_up_s:
        time.sleep(LOOK_S)
        servers = pi.api("GET", "/users/pi").json()["servers"].values()
        ready = sum(one["ready"] for one in servers)
        if not any(one["pending"] for one in servers):
            break
    seen = loop_watch.read(hub.data / "loop.jsonl", began_s)
    if not any(one.what == loop_watch.PAUSE for one in seen):  # every start takes longer than is worth a line
        raise RuntimeError("the hub's loop was not watched")
    return seen, ready


def _without_gpus(text: str) -> str:
    """The site with its cluster's profile so small that all starts run at once."""
    begin = text.index("[profiles.gpu1]")
    end = text.index("\n[", text.index("[profiles.gpu1.slurm]"))
    small = text[begin:end].replace("gpus = 1", "gpus = 0").replace("1 GiB", "256 MiB")
    return text[:begin] + "\n".join(line for line in small.splitlines() if "gpu_type" not in line) + text[end:]
