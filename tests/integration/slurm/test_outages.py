"""Slurm away in every way under a hub with a session that runs and one that waits: none is lost, doubled or orphaned.

By default each outage is as long as it takes to be noticed by every kind of look; with COMMONS_FULL=1 slurmrestd is dead for five minutes
and slurmctld for three, as the project promises.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.hub_process import Browser, HubProcess
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.cut_in import OUTAGES, Proxy
from tests.integration.slurm.hub_sessions import jobs, new_hold, partition, start, state, stopped
from tests.integration.slurm.options import PORTAL_ACCOUNT
from tests.waiting import PATIENCE_S, until

FULL = os.environ.get("COMMONS_FULL") == "1"
RESTD_S = 300 if FULL else 4  # several polls of a session, which the hub looks at each second here
CTLD_S = 180 if FULL else 20  # v0.0.38 takes 18 s for its lie "Unable to find JobId"
LIES_S = 60 if FULL else 4


@contextmanager
def dead(cluster: SlurmCluster, daemon: str) -> Iterator[None]:
    cluster.end(
        daemon
    )  # in good order: what slurmctld was told seconds before a crash is on no disk (docs/reference/slurm.md)
    try:
        yield
    finally:
        cluster.begin(daemon)


@contextmanager
def lying(proxy: Proxy) -> Iterator[None]:
    """Every answer is an error or garbage, one kind after the other."""
    proxy.fault = lambda method, path: OUTAGES[len(proxy.calls) % len(OUTAGES)]
    try:
        yield
    finally:
        proxy.fault = lambda method, path: None


def lives_on(pi: Browser, seconds: float) -> None:
    """For so long the one session is ready and answers, and the other still waits."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for name, ready in (("runs", True), ("waits", False)):
            server = pi.server(name)
            assert server is not None, f"{name} was given up"
            assert server["ready"] is ready, server
        assert pi.http.get("/user/pi/runs/api").json()["version"]
        time.sleep(0.5)


@pytest.mark.timeout(1200)
def test_two_sessions_outlive_every_outage_of_slurm_and_a_hub_that_is_killed_in_it(
    hub: HubProcess, pi: Browser, slurm22: SlurmCluster, before_slurmrestd: Proxy
) -> None:
    before = set(hub.quota.book.holds)
    start(pi, "runs")
    running = new_hold(hub, before)
    pi.ready("runs")
    partition(slurm22, "down")
    try:
        start(pi, "waits")
        waiting = new_hold(hub, {*before, running})
        until(lambda: state(slurm22, waiting) == "PENDING", within_s=PATIENCE_S, what="the job waits")
        with lying(before_slurmrestd):
            lives_on(pi, LIES_S)
            refused(hub, pi)
        with dead(slurm22, "slurmrestd"):
            refused(hub, pi)
            hub.kill_hub()
            hub.start_hub()
            pi.ready("runs")
            lives_on(pi, RESTD_S)
        with dead(slurm22, "slurmctld"):
            lives_on(pi, CTLD_S)
        assert state(slurm22, waiting) == "PENDING"
    finally:
        partition(slurm22, "up")
    pi.ready("waits")
    assert set(hub.quota.book.open_holds()) - before == {running, waiting}
    for hold_id, name in ((running, "runs"), (waiting, "waits")):
        assert len(jobs(slurm22, hold_id)) == 1
        stopped(pi, slurm22, hold_id, name)
    nothing_is_left(slurm22)


def refused(hub: HubProcess, pi: Browser) -> None:
    """A start meanwhile is refused in words and leaves no hold; what its start page is told is said at once."""
    before = set(hub.quota.book.open_holds())
    answer = pi.start({"project": "ocean", "profile": "gpu1", "runtime_s": 3600}, "late")
    assert answer.status_code in (202, 503), answer.text
    until(lambda: pi.server("late") is None, within_s=PATIENCE_S, what="the start is refused")
    until(lambda: set(hub.quota.book.open_holds()) == before, within_s=PATIENCE_S, what="its hold is given back")


def nothing_is_left(cluster: SlurmCluster) -> None:
    def look() -> bool:
        return not cluster.run("squeue", "-h", "-A", PORTAL_ACCOUNT, "-o", "%i %j %T").strip()

    until(look, within_s=PATIENCE_S, what="no job of the portal's account")
