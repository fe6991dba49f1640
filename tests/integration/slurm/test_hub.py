"""A real hub whose sessions are jobs of a real Slurm: as their owner, never twice, whatever is killed; the quota service is faked."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.hub_process import Browser, HubProcess, until
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.offices import running_signer, signer_settings
from tests.integration.slurm.options import ANN, BEN, PARTITION, PORTAL_ACCOUNT
from tests.integration.slurm.portal_file import PROJECT, open_python, slurm_portal

HOUR_MS = 3_600_000
OPTIONS: dict[str, Any] = {"project": PROJECT, "profile": "gpu1", "runtime_s": 3600}


@pytest.fixture(scope="module")
def hub(slurm22: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("slurmhub")
    open_python(slurm22)
    settings = signer_settings(slurm22, folder)
    with running_signer(settings, folder):
        one = HubProcess(folder / "data", portal_file=slurm_portal(slurm22, folder, settings))
        one.quota.book.available, one.quota.book.payers = {PROJECT: 100 * HOUR_MS}, {"pi": [PROJECT]}
        one.quota.book.login, one.quota.book.uid = ANN.login, ANN.uid
        try:
            one.start()
            yield one
        finally:
            one.end()
            slurm22.run("scancel", "-A", PORTAL_ACCOUNT, check=False)


@pytest.fixture
def pi(hub: HubProcess) -> Browser:
    return Browser(hub, "pi").sign_in()


def start(pi: Browser, server: str = "") -> None:
    answer = pi.start(OPTIONS, server)
    assert answer.status_code in (201, 202), f"{answer.text}\n{pi.hub.log[-3000:]}"


def jobs(cluster: SlurmCluster, hold_id: str, *, ever: bool = True) -> list[str]:
    """Every job that Slurm ever had under this hold, as `id state user account`; slurmdbd learns of a start seconds later."""

    def look() -> list[str]:
        form = "jobid%20,state%20,user%20,account%20"
        listed = cluster.run("sacct", "-n", "-X", "-P", "-D", "-o", form, f"--name={hold_id}", "-S", "now-1hours")
        return [line.replace("|", " ") for line in listed.splitlines()]

    def begun() -> list[str] | None:
        return [one for one in look() if " PENDING " not in one] or None

    if ever:
        until(begun, within_s=30, what="slurmdbd knows of the job")
    return look()


def new_hold(hub: HubProcess, before: set[str]) -> str:
    until(lambda: set(hub.quota.book.holds) - before, within_s=20, what="the hold is placed")
    (hold_id,) = set(hub.quota.book.holds) - before
    return hold_id


def state(cluster: SlurmCluster, hold_id: str) -> str:
    return cluster.run("squeue", "-h", "-o", "%T", f"--name={hold_id}", check=False).strip()


def stopped(pi: Browser, cluster: SlurmCluster, hold_id: str, server: str = "") -> None:
    pi.stop(server)
    assert state(cluster, hold_id) in ("", "CANCELLED")
    until(lambda: hold_id in {one for one, _ in pi.hub.quota.book.ended}, within_s=20, what="the hint")


def partition(cluster: SlurmCluster, state: str) -> None:
    cluster.run("scontrol", "update", f"partitionname={PARTITION}", f"state={state}")


def said(pi: Browser, server: str) -> str:
    """The first thing that the pending page hears of the queue."""
    path = f"/hub/api/users/pi/servers/{server}/progress?_xsrf={pi.xsrf}"
    with pi.http.stream("GET", path, timeout=30) as events:
        assert events.status_code == 200
        for line in events.iter_lines():
            if line.startswith("data:") and json.loads(line[5:])["progress"] >= 30 and "Asking" not in line:
                return str(json.loads(line[5:])["message"])
    return ""


def test_a_person_without_an_account_on_this_machine_runs_a_notebook_as_themselves(
    hub: HubProcess, pi: Browser, slurm22: SlurmCluster
) -> None:
    assert ANN.login not in Path("/etc/passwd").read_text()
    before = set(hub.quota.book.holds)
    start(pi)
    hold_id = new_hold(hub, before)
    pi.ready()
    (job,) = jobs(slurm22, hold_id)
    job_id, *rest = job.split()
    assert rest == ["RUNNING", ANN.login, PORTAL_ACCOUNT]
    assert pi.http.get("/user/pi/api").json()["version"]
    lab = pi.http.get("/user/pi/lab", headers={"Sec-Fetch-Mode": "navigate"})
    assert "JupyterLab" in lab.text

    # Nobody but the job's owner and root sees a credential of it.
    secret = f"key-of-{hold_id}"
    everything = [one.info for one in psutil.process_iter(["environ", "cmdline", "uids", "pid"])]
    own = [one for one in everything if secret in str(one["environ"])]
    assert own
    assert {one["uids"].real for one in own} == {ANN.uid}
    token = own[0]["environ"]["JUPYTERHUB_API_TOKEN"]
    for one in everything:
        assert not {secret, token} & set(" ".join(one["cmdline"] or []).split()), one["cmdline"]
    shown = slurm22.run("scontrol", "show", "job", job_id) + slurm22.run(
        "scontrol", "write", "batch_script", job_id, "-"
    )
    assert secret not in shown
    assert token not in shown
    for path in [*(slurm22.base / "log").iterdir(), *(hub.data / "logs").iterdir()]:
        content = path.read_bytes()
        assert secret.encode() not in content, path
        assert token.encode() not in content, path
    denied = slurm22.run("cat", f"/proc/{_inside(own[0]['pid'])}/environ", account=BEN, check=False)
    assert "Permission denied" in denied
    assert "Permission denied" in slurm22.run("ls", str(slurm22.homes / ANN.login), account=BEN, check=False)

    # The port route takes one integer, from the session, while it is waited for: this one is known.
    headers = {"Authorization": f"token {token}"}
    url = f"{hub.url}hub/api/commons/port"
    assert pi.http.post(url, json={"port": 4242}, headers=headers).status_code == 409
    assert pi.http.post(url, json={"port": 4242, "cmd": "sh"}, headers=headers).status_code == 400
    assert pi.http.post(url, content=b"x" * 200, headers=headers).status_code == 413
    assert pi.http.post(url, json={"port": 4242}, headers={"Authorization": "token wrong"}).status_code == 403
    assert pi.http.post(f"{hub.url}hub/api/batchspawner", json={"port": 4242}, headers=headers).status_code == 404
    stopped(pi, slurm22, hold_id)


def _inside(pid: int) -> str:
    """A process's pid as the cluster sees it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("NSpid:")).split()[-1]


def test_a_job_that_waits_while_the_hub_is_killed_is_submitted_once_and_becomes_a_session(
    hub: HubProcess, pi: Browser, slurm22: SlurmCluster
) -> None:
    before = set(hub.quota.book.holds)
    partition(slurm22, "down")
    try:
        start(pi, "s-1")
        hold_id = new_hold(hub, before)
        until(lambda: state(slurm22, hold_id) == "PENDING", within_s=20, what="the job waits")
        hub.kill_hub()
        hub.start_hub()
        server = pi.server("s-1")
        assert server is not None
        assert not server["ready"]
        assert state(slurm22, hold_id) == "PENDING"
        assert "The cluster starts no jobs of this kind at the moment. Place in the queue: 1." in said(pi, "s-1")
    finally:
        partition(slurm22, "up")
    pi.ready("s-1")
    assert len(jobs(slurm22, hold_id)) == 1
    assert set(hub.quota.book.holds) - before == {hold_id}

    # What the hub's database forgets is found by the session's own file.
    hub.kill_hub()
    with sqlite3.connect(hub.data / "hub" / "jupyterhub.sqlite") as database:
        database.execute("UPDATE spawners SET state = '{}', server_id = NULL, started = NULL")
    database.close()
    hub.start_hub()
    start(pi, "s-1")
    pi.ready("s-1")
    assert len(jobs(slurm22, hold_id)) == 1
    assert set(hub.quota.book.holds) - before == {hold_id}
    stopped(pi, slurm22, hold_id, "s-1")


@pytest.mark.parametrize("step", [pytest.param("hold", marks=pytest.mark.full), "submit", "runs"])
def test_a_hub_killed_at_any_step_of_a_start_loses_and_doubles_nothing(
    hub: HubProcess, pi: Browser, slurm22: SlurmCluster, step: str
) -> None:
    before, server, pause = set(hub.quota.book.holds), "s-1", hub.data / "pause"
    if step == "hold":
        pause.touch()
    start(pi, server)
    hold_id = new_hold(hub, before)
    if step == "submit":
        until(lambda: (hub.data / f"slurm/{hold_id}.json").exists(), within_s=20, what="it is on disk")
    elif step == "runs":
        until(lambda: state(slurm22, hold_id) == "RUNNING", within_s=20, what="the job runs")
    hub.kill_hub()
    pause.unlink(missing_ok=True)
    hub.start_hub()
    fate = until(lambda: _fate(pi, slurm22, server, hold_id), within_s=90, what="a session, or nothing")
    assert len(jobs(slurm22, hold_id, ever=fate == "ready")) == (0 if fate == "gone" else 1)
    if fate == "ready":
        stopped(pi, slurm22, hold_id, server)
    assert state(slurm22, hold_id) in ("", "CANCELLED")


def _fate(pi: Browser, cluster: SlurmCluster, server: str, hold_id: str) -> str | None:
    """What became of a start: a session that is ready, or nothing at all anywhere."""
    found = pi.server(server)
    if found is not None and found["ready"]:
        return "ready"
    return "gone" if found is None and not state(cluster, hold_id) else None


def test_a_job_that_waits_is_cancelled_without_having_used_anything(
    hub: HubProcess, pi: Browser, slurm22: SlurmCluster
) -> None:
    before = set(hub.quota.book.holds)
    partition(slurm22, "down")
    try:
        start(pi, "s-1")
        hold_id = new_hold(hub, before)
        until(lambda: state(slurm22, hold_id) == "PENDING", within_s=20, what="the job waits")
        stopped(pi, slurm22, hold_id, "s-1")
    finally:
        partition(slurm22, "up")
    used = slurm22.run("sacct", "-n", "-X", "-P", "-o", "state,elapsedraw", f"--name={hold_id}", "-S", "now-1hours")
    assert all(line.startswith("CANCELLED") and line.endswith("|0") for line in used.splitlines())


def test_while_slurm_is_away_sessions_go_on_and_starts_are_refused(
    hub: HubProcess, pi: Browser, slurm22: SlurmCluster
) -> None:
    before = set(hub.quota.book.holds)
    start(pi, "s-1")
    hold_id = new_hold(hub, before)
    pi.ready("s-1")
    slurm22.kill("slurmrestd")
    try:
        time_ends = time.monotonic() + 4  # several polls
        assert pi.start(OPTIONS, "s-2").status_code in (201, 202, 503)
        until(lambda: time.monotonic() > time_ends, within_s=10, what="the hub polled")
        server = pi.server("s-1")
        assert server is not None
        assert server["ready"]
        hub.kill_hub()
        hub.start_hub()
        pi.ready("s-1")
        assert pi.http.get("/user/pi/s-1/api").json()["version"]
    finally:
        slurm22.begin("slurmrestd")
    assert set(hub.quota.book.open_holds()) - before == {hold_id}
    assert len(jobs(slurm22, hold_id)) == 1
    stopped(pi, slurm22, hold_id, "s-1")
