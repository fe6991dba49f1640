"""The signer as a process: whom it serves, what it refuses, what it writes down; and what job_submit.lua makes of its tickets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jwt
import pytest

from quota.domain.ids import new_id
from spawners.signer.client import SignerClient
from spawners.signer.office import Office
from spawners.slurmrestd import ActionRefused, SlurmClient, SlurmUnreachable, SubmitOrder, SubmitRefused
from spawners.slurmrestd.wire import Http
from tests.integration.slurm import offices
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.offices import job
from tests.integration.slurm.options import ACCOUNT, ANN, BEN, OPERATOR, PARTITION, PORTAL_ACCOUNT
from tests.waiting import PATIENCE_S


def order(hold: str, **more: object) -> SubmitOrder:
    return replace(SubmitOrder.of(job(hold), hold, ANN.login), **more)  # type: ignore[arg-type]


@pytest.fixture
def office(slurm22: SlurmCluster, tmp_path: Path) -> Office:
    return offices.office(slurm22, tmp_path)


def test_a_session_goes_through_a_signer_of_its_own_process(slurm22: SlurmCluster, tmp_path: Path) -> None:
    with offices.running_signer(offices.signer_settings(slurm22, tmp_path), tmp_path) as signer:
        client = SlurmClient(Http(slurm22.url), signer, signer)
        hold = new_id()
        job_id = client.submit(job(hold), hold, ANN.login)
        client.extend(job_id, 20)
        assert client.job(job_id).time_limit_min == 20
        ended = client.cancel(job_id)
        assert ended is not None
        assert ended.ended
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(one["verb"], one["outcome"]) for one in lines] == [
        ("submit_as", "minted"), ("extend", "done"), ("cancel", "done"),
    ]  # fmt: skip
    assert (lines[0]["login"], lines[0]["uid"], lines[0]["hold"], lines[0]["peer_uid"]) == (ANN.login, ANN.uid, hold, 0)
    with pytest.raises(SlurmUnreachable):
        signer.get("/slurm/v0.0.38/jobs")


@pytest.mark.parametrize(
    "login",
    ["root", "slurm", OPERATOR.login, "cc-0", "cc-999", "cc-20000", "cc-60000", "cc-030001", "cc-30001\n", "ann", ""],
)
def test_nobody_but_the_portals_people_gets_a_token(office: Office, login: str) -> None:
    with pytest.raises(SubmitRefused):
        office.submit_as(order(new_id(), login=login))


def test_a_persons_token_lives_a_minute_and_names_that_person_only(office: Office, slurm22: SlurmCluster) -> None:
    permit = office.submit_as(order(new_id()))
    claims = jwt.decode(permit.credential.token, slurm22.key_file.read_bytes(), ["HS256"])
    assert claims["sun"] == ANN.login
    assert 0 < claims["exp"] - claims["iat"] <= 120
    assert permit.credential.token not in repr(permit)
    assert permit.ticket not in repr(permit)


@pytest.mark.parametrize(
    "change",
    [
        {"account": ACCOUNT},
        {"account": "root"},
        {"time_limit_min": 0},
        {"time_limit_min": 10**6},
        {"name": "two\nlines"},
        {"gres": "gpu=1"},
        {"hold_id": "../../etc"},
    ],
)
def test_an_order_beyond_the_sites_terms_gets_neither_token_nor_ticket(
    office: Office, slurm22: SlurmCluster, change: dict[str, object]
) -> None:
    before = set((slurm22.tickets / "new").iterdir())
    with pytest.raises(SubmitRefused):
        office.submit_as(order(new_id(), **change))
    assert set((slurm22.tickets / "new").iterdir()) == before


def test_nothing_is_minted_that_cannot_be_written_down(slurm22: SlurmCluster, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        offices.office(slurm22, tmp_path, audit_file="/dev/full").submit_as(order(new_id()))


def test_jobs_of_other_accounts_are_neither_cancelled_nor_extended(office: Office, slurm22: SlurmCluster) -> None:
    said = slurm22.run(
        "sbatch",
        "--parsable",
        f"--account={ACCOUNT}",
        "--chdir=/",
        "--output=/dev/null",
        "--wrap",
        "sleep 60",
        account=BEN,
    )
    foreign = int(said)
    with pytest.raises(ActionRefused):
        office.cancel(foreign)
    with pytest.raises(ActionRefused):
        office.extend(foreign, 70)
    slurm22.run("scancel", str(foreign))


@pytest.mark.parametrize(
    "path",
    [
        "/slurm/v0.0.38/job/submit",
        "/slurmdb/v0.0.38/users",
        "/slurmdb/v0.0.38/config",
        "/slurm/v0.0.38/jobs/../../x",
        "/etc/passwd",
    ],
)
def test_only_a_fixed_list_of_paths_is_read(office: Office, path: str) -> None:
    with pytest.raises(ActionRefused):
        office.get(path)


def test_a_process_that_is_not_named_gets_nothing(slurm22: SlurmCluster, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        if parent.name.startswith("pytest"):
            parent.chmod(0o755)
    settings = offices.signer_settings(slurm22, tmp_path, peers={"root": ["read"], "nobody": ["cancel"]})
    with offices.running_signer(settings, tmp_path) as signer:
        with pytest.raises(ActionRefused):
            signer.submit_as(order(new_id()))
        assert signer.get("/slurm/v0.0.38/ping").status == 200
        asking = (
            "import socket,sys;c=socket.socket(socket.AF_UNIX);c.connect(sys.argv[1]);"
            'c.sendall(b\'{"verb":"read","path":"/slurm/v0.0.38/ping"}\\n\');print(c.recv(4096).decode())'
        )
        said = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", asking, settings.socket],
            capture_output=True, text=True, check=True, timeout=PATIENCE_S, cwd="/",
        )  # fmt: skip
        assert json.loads(said.stdout)["error"] == "action_refused"


@pytest.mark.parametrize(
    "line", [b"\n", b"{}\n", b"[1]\n", b'{"verb":"mint"}\n', b'{"verb":"cancel","job_id":"7"}\n', b"x" * 70_000 + b"\n"]
)
def test_nonsense_is_answered_and_ends_nothing(slurm22: SlurmCluster, tmp_path: Path, line: bytes) -> None:
    with offices.running_signer(offices.signer_settings(slurm22, tmp_path), tmp_path) as signer:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(tmp_path / "signer.sock"))
            connection.sendall(line)
            assert b'"error"' in connection.recv(4096)
        assert isinstance(signer, SignerClient)
        assert signer.get("/slurm/v0.0.38/ping").status == 200


def test_settings_that_cannot_be_used_are_named_and_end_the_signer(tmp_path: Path) -> None:
    file = tmp_path / "signer.toml"
    file.write_text('socket = "/x"\nurl = "ftp://x"\ntoken_life = "1 h"\n[peers]\nroot = ["mint"]\n')
    done = subprocess.run(
        [sys.executable, "-m", "spawners.signer", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        cwd=offices.ROOT,
    )
    assert done.returncode == 2
    assert {line.split(": ")[1] for line in done.stderr.splitlines()} >= {
        "url",
        "token_life",
        "peers.root.0",
        "key_file",
    }


# -- what the cluster makes of tickets -------------------------------------------------------------------------------------------


def sbatch(cluster: SlurmCluster, *words: str) -> str:
    return cluster.run(
        "sbatch", "--parsable", f"--account={PORTAL_ACCOUNT}", f"--partition={PARTITION}", "--nodes=1", "--chdir=/", "--output=/dev/null",
        *words, "--wrap", "sleep 60", account=ANN, check=False,
    )  # fmt: skip


def test_sbatch_on_a_project_is_rejected_and_told_why(slurm22: SlurmCluster) -> None:
    assert "takes jobs from the portal only" in sbatch(slurm22)
    assert "unknown or was used" in sbatch(slurm22, f"--comment=cct:{'0' * 32}")


def test_an_account_in_capitals_is_the_same_account(slurm22: SlurmCluster) -> None:
    said = slurm22.run(
        "sbatch",
        "--account=CC-OCEAN",
        "--chdir=/",
        "--output=/dev/null",
        "--wrap",
        "sleep 60",
        account=ANN,
        check=False,
    )
    assert "portal" in said


@pytest.mark.parametrize(
    ("words", "term"),
    [
        (("--time=11", "--gres=gpu:h100:1"), "minutes"),
        (("--time=10", "--gres=gpu:h100:2"), "gres"),
        (("--time=10", "--gpus=1"), "gres"),
        (("--time=10", "--gres=gpu:h100:1", "--gpus=h100:1"), "tres_per_job"),
        (("--time=10", "--gres=gpu:h100:1", "--job-name=other"), "name"),
        (("--time=10", "--gres=gpu:h100:1", "--qos=normal"), "qos"),
    ],
)
def test_a_ticket_is_for_the_job_that_it_names_and_is_gone_after_one_try(
    office: Office, slurm22: SlurmCluster, words: tuple[str, ...], term: str
) -> None:
    hold = new_id()
    permit = office.submit_as(order(hold))
    named = () if any("job-name" in word for word in words) else (f"--job-name={hold}",)
    assert f"{term} differs" in sbatch(slurm22, f"--comment={permit.comment('')}", *named, *words)
    right = ("--time=10", "--gres=gpu:h100:1", f"--job-name={hold}")
    assert "unknown or was used" in sbatch(slurm22, f"--comment={permit.comment('')}", *right)
    with pytest.raises(SubmitRefused, match="had its job"):
        office.submit_as(order(hold))


def test_a_ticket_of_somebody_else_is_refused(office: Office, slurm22: SlurmCluster) -> None:
    hold = new_id()
    permit = office.submit_as(order(hold, login=BEN.login))
    said = sbatch(slurm22, f"--comment={permit.comment('')}", "--time=10", "--gres=gpu:h100:1", f"--job-name={hold}")
    assert "uid differs" in said


def test_an_owner_changes_nothing_about_a_session_and_the_operator_may(slurm22: SlurmCluster, tmp_path: Path) -> None:
    client = offices.client(slurm22, tmp_path)
    hold = new_id()
    job_id = client.submit(job(hold), hold, ANN.login)
    for change in ("TimeLimit=20", "TimeLimit=5", "Comment=x", "JobName=y", f"Account={ACCOUNT}", "Requeue=1"):
        slurm22.run("scontrol", "update", f"jobid={job_id}", change, account=ANN, check=False)
    kept = client.job(job_id)
    assert (kept.time_limit_min, kept.name, kept.account, kept.hold_id) == (10, hold, PORTAL_ACCOUNT, hold)
    slurm22.run("scontrol", "update", f"jobid={job_id}", "TimeLimit=20", account=OPERATOR)
    assert client.job(job_id).time_limit_min == 20
    client.cancel(job_id)


def test_where_the_ticket_folder_is_gone_nothing_starts(office: Office, slurm22: SlurmCluster) -> None:
    hold = new_id()
    permit = office.submit_as(order(hold))
    hidden = slurm22.tickets.rename(slurm22.base / "hidden")
    try:
        said = sbatch(
            slurm22, f"--comment={permit.comment('')}", "--time=10", "--gres=gpu:h100:1", f"--job-name={hold}"
        )
        assert "Access/permission denied" in said
    finally:
        hidden.rename(slurm22.tickets)
