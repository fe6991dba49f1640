"""A job is made of the site's words and the ledger's ids; nothing that a person posts, and no secret, gets into its script or its terms."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from spawners import job_spec
from spawners.job_spec import Owner, SessionStart, SpecError
from spawners.profiles import Backend, ProfileTable, SlurmPlace
from spawners.slurm_settings import SlurmTable
from tests.unit.spawners.test_profiles import profile

CANARY = "canary-5e1f"
CLUSTER = SlurmTable(url="http://127.0.0.1:6820", signer="/run/signer.sock", prologue="module load cuda")
PROFILE = profile(
    id="h100",
    backend=Backend.SLURM,
    gpus=2,
    cpus=8,
    memory_bytes=3 * 2**30 + 1,
    slurm=SlurmPlace("main", "gpu", "h100", "normal"),
)
HOSTILE = ("$(touch /tmp/x)", "`id`", "a\nb", "'; id #", '"', "COMMONS_SESSION_RUNNER", "\x1b[2J", "é水")


def start(**changes: Any) -> SessionStart:
    values: dict[str, Any] = {
        "hold_id": "h1",
        "owner": Owner("cc-30001", "cc-p1"),
        "profile": PROFILE,
        "runtime_s": 3600,
        "deadline_ms": 0,
        "callback_url": "http://127.0.0.1:8081/hub/api/commons/",
        "arguments": ("--ServerApp.default_url=/lab",),
        "environment": {"JUPYTERHUB_API_TOKEN": CANARY, "LANG": "C.UTF-8"},
    }
    return SessionStart(**(values | changes))


def test_the_terms_are_the_profiles_and_the_ledgers() -> None:
    request = job_spec.job_request(start(), CLUSTER)
    assert job_spec.shown(request) == {
        "name": "h1",
        "account": "cc-p1",
        "partition": "gpu",
        "qos": "normal",
        "time_limit_min": 61,
        "working_directory": "/home/cc-30001",
        "gpus": 2,
        "gpu_type": "h100",
        "cpus": 8,
        "memory_mib": 3073,
        "standard_output": "/dev/null",
        "label": "",
    }
    assert request.gres == "gpu:h100:2"
    assert request.environment["PATH"] == "/opt/commons/bin:/usr/local/bin:/usr/bin:/bin"
    assert (request.environment["HOME"], request.environment["USER"]) == ("/home/cc-30001", "cc-30001")


def test_a_session_on_a_node_shows_of_nbgrader_what_is_of_use_there() -> None:
    """What hides the rest lies where the notebook server's own packages are."""
    student = {"COMMONS_COURSE": "ml"}
    for more, folder in (({}, "without_course"), (student, "without_teaching")):
        environment = job_spec.job_request(start(environment=more), CLUSTER).environment
        assert environment["JUPYTER_CONFIG_PATH"] == f"/opt/commons/share/commons/{folder}"
    teacher = start(environment={**student, "COMMONS_TEACHES": "1"})
    assert "JUPYTER_CONFIG_PATH" not in job_spec.job_request(teacher, CLUSTER).environment


@pytest.mark.parametrize(
    ("runtime_s", "margin_s"), [(1, 60), (59, 90), (60, 90), (61, 60), (3599, 90), (3600, 90), (86_400, 75)]
)
def test_the_limit_never_cuts_the_runtime_and_stays_inside_the_stop_margin(runtime_s: int, margin_s: int) -> None:
    limit_s = 60 * job_spec.time_limit_min(runtime_s, margin_s)
    assert runtime_s <= limit_s <= runtime_s + margin_s
    assert limit_s + 30 <= runtime_s + 120  # slurmctld looks every 30 s and stamps the end with its SIGTERM


@pytest.mark.parametrize(("runtime_s", "margin_s"), [(0, 90), (-5, 90), (600, 59)])
def test_a_limit_that_would_cut_is_an_error(runtime_s: int, margin_s: int) -> None:
    with pytest.raises(SpecError):
        job_spec.time_limit_min(runtime_s, margin_s)


@pytest.mark.parametrize("text", HOSTILE)
def test_the_script_is_the_same_whatever_is_started_and_carries_no_secret(text: str) -> None:
    plain = job_spec.job_request(start(), CLUSTER)
    odd = job_spec.job_request(
        start(hold_id="h2", arguments=(text,), environment={"KEY": text, "JUPYTERHUB_API_TOKEN": CANARY}), CLUSTER
    )
    assert odd.script == plain.script == job_spec.script(CLUSTER)
    assert CANARY not in odd.script
    assert CANARY not in repr(odd) + repr(start()) + json.dumps(job_spec.shown(odd))
    assert odd.environment["KEY"] == text  # passed as it is: the environment is no shell
    assert CANARY not in odd.environment[job_spec.ORDER_VARIABLE]
    assert json.loads(odd.environment[job_spec.ORDER_VARIABLE])["argv"] == [CLUSTER.program, text]


def test_the_script_is_bash_around_python() -> None:
    script = job_spec.script(CLUSTER)
    assert script.startswith("#!/bin/bash\n")
    assert "\nmodule load cuda\n" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, capture_output=True)
    body = re.search(r"<<'COMMONS_SESSION_RUNNER'\n(.*)\nCOMMONS_SESSION_RUNNER\n", script, re.DOTALL)
    assert body
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(ast.parse(body[1], feature_version=(3, 8)))
        for name in (node.names if isinstance(node, ast.Import) else [])
    }
    assert not imported & {"spawners", "jupyterhub", "requests", "tornado"}


@pytest.mark.parametrize("login", ["", "-x", "Root", "a b", "a/b", "a;id", "../x", "x" * 33, "ä"])
def test_what_is_no_login_gets_no_job(login: str) -> None:
    with pytest.raises(SpecError):
        job_spec.job_request(start(owner=Owner(login, "cc-p1")), CLUSTER)


@pytest.mark.parametrize("project", ["", " ", "a b", "a;id", "p\n", "$(id)", "x" * 70, "é", "p/q"])
def test_what_is_no_account_gets_no_job(project: str) -> None:
    table = CLUSTER.model_copy(update={"account_prefix": ""})
    with pytest.raises(ValueError, match="account"):
        table.account(project)


def test_an_account_is_folded_as_slurm_folds_it() -> None:
    assert CLUSTER.account("P7") == "cc-p7"


@pytest.mark.parametrize(
    "environment", [{"A B": "x"}, {"A=B": "x"}, {"": "x"}, {"A": "x\0y"}, {"É": "x"}, {"A": "x" * 200_000}]
)
def test_a_variable_that_no_job_can_have_is_an_error_that_does_not_repeat_its_value(
    environment: dict[str, str],
) -> None:
    with pytest.raises(SpecError) as caught:
        job_spec.job_request(start(environment=environment), CLUSTER)
    assert "xx" not in str(caught.value)


def test_a_session_cannot_replace_its_own_order_or_home() -> None:
    request = job_spec.job_request(start(environment={"COMMONS_JOB": "{}", "HOME": "/root", "PATH": "/evil"}), CLUSTER)
    assert json.loads(request.environment["COMMONS_JOB"])["hold_id"] == "h1"
    assert request.environment["HOME"] == "/home/cc-30001"
    assert request.environment["PATH"].startswith("/opt/commons/bin:")


def test_a_profile_without_a_cluster_is_an_error() -> None:
    with pytest.raises(SpecError):
        job_spec.job_request(start(profile=replace(PROFILE, slurm=None)), CLUSTER)


TABLE: dict[str, Any] = {
    "title": "1 × H100",
    "backend": "slurm",
    "hardware": "h100",
    "cloud": "campus",
    "applications": [{"id": "lab", "title": "JupyterLab"}],
    "gpus": 1,
    "cpus": 4,
    "memory": "16 GiB",
    "default_runtime": "1 h",
    "longest_runtime": "12 h",
    "slurm": {"cluster": "main", "partition": "gpu", "gpu_type": "h100"},
}


@pytest.mark.parametrize("word", ["-x", "a b", "a,b", "", "a\nb", "$(id)", "a;b", "x" * 65])
def test_a_partition_is_one_plain_word(word: str) -> None:
    with pytest.raises(ValidationError):
        ProfileTable.model_validate({**TABLE, "slurm": {**TABLE["slurm"], "partition": word}})


@pytest.mark.parametrize("change", [{"backend": "local"}, {"slurm": None}])
def test_the_backend_slurm_and_the_table_slurm_belong_together(change: dict[str, object]) -> None:
    assert ProfileTable.model_validate(TABLE).to_profile("h100").slurm == SlurmPlace("main", "gpu", "h100")
    with pytest.raises(ValidationError, match="slurm"):
        ProfileTable.model_validate({**TABLE, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"url": ""},
        {"signer": ""},
        {"home": "/home/all"},
        {"home": "/home/$(id)/{login}"},
        {"python": "python3"},
        {"program": "/opt/a b/x"},
        {"path": "/a:$HOME"},
        {"ports": (80, 90)},
        {"ports": (9000, 8000)},
        {"limit_margin": "2 min"},
        {"hub_url": "http://hub/?x"},
        {"sudo": ("sudo", "-u", "$(id)")},
    ],
)
def test_a_cluster_that_could_not_work_or_could_hide_something_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SlurmTable.model_validate({"url": "http://127.0.0.1:6820", "signer": "/run/signer.sock", **change})


def test_sbatch_needs_no_slurmrestd() -> None:
    assert SlurmTable.model_validate({"access": "sbatch"}).url == ""
