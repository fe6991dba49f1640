"""A secret in a session's environment, its token and its ticket are nowhere that anybody else can read."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from quota.domain.ids import new_id
from spawners.slurmrestd import SlurmClient, SlurmUnreachable, SubmitOrder
from spawners.slurmrestd.wire import Credential, Http
from tests.integration.slurm import offices
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.offices import job
from tests.integration.slurm.options import ANN, BEN
from tests.waiting import PATIENCE_S

CANARY = "canary-5d1f0c"
LOOKS = (
    "scontrol show job -dd {id}",
    "squeue -j {id} -O ALL:2000",
    "sacct -j {id} -o ALL -P",
    "scontrol write batch_script {id} -",
    "ps axeww",
    "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline",
    "cat {home}/* {home}/.*",
    "ls {home}",
    "cat {base}/state/* {base}/state/*/* {base}/spool/*/* {base}/tickets/*/*",
)


def test_a_secret_of_a_session_is_in_no_view_log_or_process_list_of_anybody_else(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    office = offices.office(cluster, tmp_path)
    client = SlurmClient(Http(cluster.url), office, office)
    home = cluster.homes / ANN.login
    hold = new_id()
    said = home / f"said-{hold}"
    request = job(
        hold, f'echo "$SECRET" >{said}; sleep 600', working_directory=str(home),
        environment={"PATH": "/usr/bin:/bin", "SECRET": CANARY},
    )  # fmt: skip
    job_id = client.submit(request, hold, ANN.login)
    give_up = time.monotonic() + PATIENCE_S
    while not said.exists() or not said.read_text():
        assert time.monotonic() < give_up, client.job(job_id)
        time.sleep(0.1)
    assert said.read_text().strip() == CANARY
    for look in LOOKS:
        words = look.format(id=job_id, home=home, base=cluster.base)
        assert CANARY not in cluster.run("sh", "-c", f"{words} 2>&1", account=BEN, check=False), look
    assert CANARY not in cluster.run("sh", "-c", "cat /proc/[0-9]*/cmdline", check=False)  # not even for root
    for file in (cluster.base / "log").iterdir():
        assert CANARY.encode() not in file.read_bytes(), file
    assert CANARY not in (tmp_path / "audit.jsonl").read_text()
    client.cancel(job_id)


def test_neither_token_nor_ticket_nor_key_is_in_a_log(cluster: SlurmCluster, tmp_path: Path) -> None:
    office = offices.office(cluster, tmp_path)
    hold = new_id()
    permit = office.submit_as(SubmitOrder.of(job(hold), hold, ANN.login))
    Http(cluster.url).call("GET", "/slurm/v0.0.38/ping", permit.credential)
    key = cluster.key_file.read_bytes()
    for file in [*(cluster.base / "log").iterdir(), tmp_path / "audit.jsonl"]:
        content = file.read_bytes()
        assert permit.credential.token.encode() not in content, file
        assert permit.ticket.encode() not in content, file
        assert key not in content, file
    for account in (ANN, BEN):
        for path in (cluster.key_file, cluster.tickets / "new" / permit.ticket):
            assert "Permission denied" in cluster.run("cat", str(path), account=account, check=False)


def test_nobody_sees_that_somebody_else_has_a_job_and_the_portal_sees_all(
    slurm22: SlurmCluster, tmp_path: Path
) -> None:
    client = offices.client(slurm22, tmp_path)
    hold = new_id()
    job_id = client.submit(job(hold), hold, ANN.login)
    give_up = time.monotonic() + PATIENCE_S
    while not client.job(job_id).running or hold not in slurm22.run(
        "sacct", "-a", "-X", "-n", "-P", "-o", "jobname", "-S", "now-1hours"
    ):
        assert time.monotonic() < give_up, client.job(job_id)
        time.sleep(0.2)
    assert hold in [one.name for one in client.jobs()]
    looks = (
        "squeue -h -o %j",
        f"scontrol show job {job_id}",
        "sacct -a -X -n -P -o jobname -S now-1hours",
        "sreport -n job sizes",
    )
    for look in looks:
        assert hold not in slurm22.run("sh", "-c", f"{look} 2>&1", account=BEN, check=False), look
    for look in looks[:3]:
        assert hold in slurm22.run("sh", "-c", f"{look} 2>&1", account=ANN, check=False), look
    client.cancel(job_id)


@pytest.mark.full
def test_slurms_key_can_be_changed_and_what_the_old_one_signed_is_dead(slurm22: SlurmCluster, tmp_path: Path) -> None:
    """docs/howto/secrets.md: a new key in the file, the daemons and the signer started again; sessions that run go on."""
    client = offices.client(slurm22, tmp_path)
    hold = new_id()
    job_id = client.submit(job(hold), hold, ANN.login)
    old_signer, old_token = offices.office(slurm22, tmp_path), slurm22.token(ANN.login)
    kept = slurm22.key_file.read_bytes()
    try:
        _new_key(slurm22, os.urandom(32))
        with pytest.raises(SlurmUnreachable):  # a token that Slurm does not take is no word about the job
            client.job(job_id)
        answer = Http(slurm22.url).call("GET", "/slurm/v0.0.38/ping", Credential(ANN.login, old_token))
        assert answer.status in (401, 500, 511) or answer.number(), answer
        with pytest.raises(SlurmUnreachable):
            old_signer.cancel(job_id)
        renewed = offices.client(slurm22, tmp_path)  # what a signer that was started again is
        assert not renewed.job(job_id).ended
        ended = renewed.cancel(job_id)
        assert ended is None or ended.ended
    finally:
        _new_key(slurm22, kept)
    assert offices.client(slurm22, tmp_path).job(job_id).hold_id == hold


def _new_key(cluster: SlurmCluster, key: bytes) -> None:
    """In place, so that owner and mode stay; every daemon that reads it is started again."""
    cluster.key_file.write_bytes(key)
    for daemon in ("slurmrestd", "slurmctld", "slurmdbd"):
        cluster.end(daemon)
    for daemon in ("slurmdbd", "slurmctld", "slurmrestd"):
        cluster.begin(daemon)
