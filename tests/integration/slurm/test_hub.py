"""A real hub whose sessions are jobs of a real Slurm: as their owner, never twice, whatever is killed; the quota service is faked."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.hub_process import Browser, HubProcess
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.cut_in import Proxy
from tests.integration.slurm.hub_sessions import jobs, new_hold, partition, says, start, state, stopped
from tests.integration.slurm.options import ANN, BEN, PORTAL_ACCOUNT
from tests.waiting import PATIENCE_S, until


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
        until(lambda: state(slurm22, hold_id) == "PENDING", within_s=PATIENCE_S, what="the job waits")
        hub.kill_hub()
        hub.start_hub()
        server = pi.server("s-1")
        assert server is not None
        assert not server["ready"]
        assert state(slurm22, hold_id) == "PENDING"
        says(pi, "s-1", "The cluster starts no jobs of this kind at the moment. Place in the queue: 1.")
    finally:
        partition(slurm22, "up")
    pi.ready("s-1")
    assert len(jobs(slurm22, hold_id)) == 1
    assert set(hub.quota.book.holds) - before == {hold_id}

    # What the hub's database forgets, as after a power cut, is found by the session's own file: its token, too.
    credential = credential_of(hub, hold_id)
    hub.kill_hub()
    forget_all(hub, tokens=True)
    hub.start_hub()
    assert not lets_in(hub, credential)
    start(pi, "s-1")
    pi.ready("s-1")
    assert lets_in(hub, credential)
    assert len(jobs(slurm22, hold_id)) == 1
    assert set(hub.quota.book.holds) - before == {hold_id}
    stopped(pi, slurm22, hold_id, "s-1")


@pytest.mark.parametrize(
    "step",
    ["sent", "runs", *(pytest.param(step, marks=pytest.mark.full) for step in ("hold", "submit", "waits"))],
)
def test_a_hub_killed_at_any_step_of_a_start_loses_and_doubles_nothing(
    hub: HubProcess, pi: Browser, slurm22: SlurmCluster, before_slurmrestd: Proxy, step: str
) -> None:
    before, server, pause = set(hub.quota.book.holds), "s-1", hub.data / "pause"
    try:
        if step == "hold":
            pause.touch()
        if step == "sent":  # slurmctld has the job, and nobody hears of it
            before_slurmrestd.post_answers.clear()
        if step == "waits":
            partition(slurm22, "down")
        start(pi, server)
        hold_id = new_hold(hub, before)
        if step == "submit":
            until(lambda: (hub.data / f"slurm/{hold_id}.json").exists(), within_s=PATIENCE_S, what="it is on disk")
        elif step == "sent":
            until(lambda: state(slurm22, hold_id), within_s=PATIENCE_S, what="the job is there")
        elif step == "waits":
            until(lambda: state(slurm22, hold_id) == "PENDING", within_s=PATIENCE_S, what="the job waits")
        elif step == "runs":
            until(lambda: state(slurm22, hold_id) == "RUNNING", within_s=PATIENCE_S, what="the job runs")
        hub.kill_hub()
    finally:
        pause.unlink(missing_ok=True)
        before_slurmrestd.post_answers.set()
        partition(slurm22, "up")
    hub.start_hub()
    fate = until(lambda: _fate(pi, slurm22, server, hold_id), within_s=PATIENCE_S, what="a session, or nothing")
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


def test_a_job_that_ended_while_the_hub_had_forgotten_it_leaves_no_credential(
    hub: HubProcess, pi: Browser, slurm22: SlurmCluster
) -> None:
    before = set(hub.quota.book.holds)
    start(pi, "s-1")
    hold_id = new_hold(hub, before)
    pi.ready("s-1")
    credential = credential_of(hub, hold_id)
    assert lets_in(hub, credential)
    hub.kill_hub()
    forget_all(hub)
    slurm22.run("scancel", "--name", hold_id)
    until(lambda: not state(slurm22, hold_id), within_s=PATIENCE_S, what="the job is over")
    hub.start_hub()
    assert lets_in(hub, credential)  # JupyterHub keeps what it does not know to be over
    start(pi, "s-1")
    pi.ready("s-1")
    assert not lets_in(hub, credential)
    stopped(pi, slurm22, next(iter(set(hub.quota.book.holds) - before - {hold_id})), "s-1")


def forget_all(hub: HubProcess, *, tokens: bool = False) -> None:
    """Take every session out of a killed hub's database, on demand with the tokens of their servers."""
    with closing(sqlite3.connect(hub.data / "hub" / "jupyterhub.sqlite")) as database, database:
        database.execute("UPDATE spawners SET state = '{}', server_id = NULL, started = NULL")
        if tokens:
            database.execute("DELETE FROM api_tokens WHERE note LIKE 'Server at %'")


def credential_of(hub: HubProcess, hold_id: str) -> str:
    return str(json.loads((hub.data / f"slurm/{hold_id}.json").read_text())["api_token"])


def lets_in(hub: HubProcess, credential: str) -> bool:
    answer = httpx.get(f"{hub.url}hub/api/user", headers={"Authorization": f"token {credential}"}, timeout=PATIENCE_S)
    assert answer.status_code in (200, 403), answer.text
    return answer.status_code == 200


def chooser(pi: Browser) -> str:
    return pi.http.get("/hub/spawn/pi/other", headers={"Sec-Fetch-Mode": "navigate"}).text


def test_a_job_that_waits_is_cancelled_without_having_used_anything(
    hub: HubProcess, pi: Browser, slurm22: SlurmCluster
) -> None:
    before = set(hub.quota.book.holds)
    partition(slurm22, "down")
    try:
        start(pi, "s-1")
        hold_id = new_hold(hub, before)
        until(lambda: state(slurm22, hold_id) == "PENDING", within_s=PATIENCE_S, what="the job waits")
        until(lambda: "jobs that wait for it: 1" in chooser(pi), within_s=PATIENCE_S, what="the chooser says so")
        stopped(pi, slurm22, hold_id, "s-1")
    finally:
        partition(slurm22, "up")
    until(lambda: "8 of 8 GPUs free now" in chooser(pi), within_s=PATIENCE_S, what="the chooser says so")

    def used() -> list[str]:  # slurmdbd hears of an end a moment after slurmctld
        form = ("-o", "state,elapsedraw", f"--name={hold_id}", "-S", "now-1hours")
        return slurm22.run("sacct", "-n", "-X", "-P", *form).splitlines()

    until(lambda: all(line.startswith("CANCELLED") for line in used()), within_s=PATIENCE_S, what="its end is booked")
    assert all(line.endswith("|0") for line in used())
