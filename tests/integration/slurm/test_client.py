"""The client against real clusters of both releases: what is submitted, found, billed, cancelled, extended."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from quota.domain.ids import new_id
from spawners.slurm_commands import CommandClient, Commands
from spawners.slurmrestd import (
    ActionRefused,
    JobState,
    JobUnknown,
    SlurmClient,
    SlurmUnreachable,
    SubmitRefused,
)
from tests.integration.slurm import offices
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.offices import job
from tests.integration.slurm.options import ACCOUNT, ANN, BEN, GPU_TYPE, PARTITION, PORTAL_ACCOUNT
from tests.waiting import PATIENCE_S

SECRET = "canary-in-the-environment"


@pytest.fixture
def client(cluster: SlurmCluster, tmp_path: Path) -> SlurmClient:
    return offices.client(cluster, tmp_path)


@pytest.fixture(scope="session")
def early(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """Name and id of a job that fails at once, submitted first so that slurmctld has forgotten it by the last test."""
    name = new_id()
    client = offices.client(cluster, tmp_path_factory.mktemp("early"))
    return name, client.submit(job(name, "exit 3"), name, ANN.login)


Seen = TypeVar("Seen")


def seen(look: Callable[[], Seen], what: Callable[[Seen], bool], within_s: float = PATIENCE_S) -> Seen:
    """What was looked for once `what` is true of it."""
    give_up = time.monotonic() + within_s
    while not what(found := look()):
        assert time.monotonic() < give_up, f"not within {within_s} s: {found}"
        time.sleep(0.1)
    return found


def test_a_submitted_job_runs_as_its_owner_on_its_account_with_its_gpu(
    client: SlurmClient, early: tuple[str, int]
) -> None:
    name = new_id()
    job_id = client.submit(job(name, label="notebook"), name, ANN.login)
    running = seen(lambda: client.job(job_id), lambda one: one.running)
    assert (running.name, running.user, running.account, running.gpus) == (name, ANN.login, "cc-ocean", 1)
    assert (running.hold_id, running.label, running.time_limit_min) == (name, "notebook", 10)
    assert running.started_at_s is not None
    assert running.ends_at_s == running.started_at_s + 600
    assert client.node_address(running.batch_host) == "127.0.0.1"
    ended = client.cancel(job_id)
    assert ended is not None
    assert JobState.CANCELLED in ended.states


def test_a_job_is_submitted_once_however_often_it_is_asked_for(client: SlurmClient) -> None:
    name = new_id()
    first = client.submit(job(name), name, ANN.login)
    assert client.submit(job(name), name, ANN.login) == first
    client.cancel(first)
    assert client.submit(job(name), name, ANN.login) == first  # an ended job is an answer, too
    runs = seen(lambda: client.runs([first]), bool)  # slurmdbd learns of it a moment later
    assert {run.job_id for run in runs} == {first}


def test_a_job_that_somebody_else_named_like_a_hold_is_neither_taken_for_it_nor_ended(
    client: SlurmClient, cluster: SlurmCluster
) -> None:
    name = new_id()
    words = ("sbatch", "--parsable", f"--job-name={name}", f"--account={ACCOUNT}", "--chdir=/", "--output=/dev/null")
    theirs = int(cluster.run(*words, "--wrap", "sleep 60", account=BEN))
    seen(client.jobs, lambda jobs: theirs in {one.job_id for one in jobs})
    assert client.find(name, PORTAL_ACCOUNT) is None
    ours = client.submit(job(name), name, ANN.login)
    assert ours != theirs
    assert client.submit(job(name), name, ANN.login) == ours
    client.cancel(ours)
    try:
        assert seen(lambda: client.job(theirs), lambda one: one.running).account == ACCOUNT
    finally:
        cluster.run("scancel", str(theirs))


def test_forty_submits_of_one_hold_at_once_make_one_job(client: SlurmClient) -> None:
    name = new_id()

    def attempt(_: int) -> int | None:
        try:
            return client.submit(job(name), name, ANN.login)
        except SubmitRefused:
            return None

    with ThreadPoolExecutor(8) as threads:
        ids = {one for one in threads.map(attempt, range(40)) if one is not None}
    assert len(ids) == 1
    assert [one.job_id for one in client.jobs() if one.name == name] == list(ids)
    client.cancel(ids.pop())


def test_slurmrestd_and_the_commands_tell_the_same_free_gpus(
    client: SlurmClient, cluster: SlurmCluster, tmp_path: Path
) -> None:
    commands = CommandClient(Commands(wrapper=tuple(cluster.namespace.argv(()))), None, str)
    name = new_id()
    job_id = client.submit(job(name), name, ANN.login)
    seen(lambda: client.job(job_id), lambda one: one.running)
    # Others' have ended.
    seen(lambda: cluster.run("squeue", "-h", "-o", "%i").split(), lambda ids: ids == [str(job_id)])
    for nodes in (client.nodes(), commands.nodes()):
        assert [(one.name, one.total(GPU_TYPE), one.free("none")) for one in nodes] == [("gpu1", 4, 0), ("gpu2", 4, 0)]
        assert sum(one.free(GPU_TYPE) for one in nodes) == sum(one.free("") for one in nodes) == 7
        assert all(PARTITION in one.partitions and one.takes_jobs for one in nodes)
    cluster.run("scontrol", "update", "nodename=gpu2", "state=drain", "reason=test")
    try:
        for nodes in (client.nodes(), commands.nodes()):
            assert {one.name: one.takes_jobs for one in nodes} == {"gpu1": True, "gpu2": False}
    finally:
        cluster.run("scontrol", "update", "nodename=gpu2", "state=resume")
    client.cancel(job_id)


def test_only_a_job_that_neither_daemon_knows_is_unknown(client: SlurmClient) -> None:
    with pytest.raises(JobUnknown):
        client.job(4_000_000)
    assert client.cancel(4_000_000) is None
    assert client.find(new_id(), PORTAL_ACCOUNT) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"partition": "nowhere"}, "partition"),
        ({"account": "cc-nobody"}, "account"),
        ({"gpus": 999}, "available"),
        ({"gpus": 2, "gpu_type": "abacus"}, ""),
    ],
)
def test_a_job_that_slurm_cannot_take_is_refused_with_its_reason_and_leaves_nothing(
    client: SlurmClient, change: dict[str, Any], word: str
) -> None:
    name = new_id()
    with pytest.raises(SubmitRefused) as refused:
        client.submit(job(name, **change), name, ANN.login)
    assert word in str(refused.value).lower()
    assert not [one for one in client.jobs() if one.name == name and not one.ended]


def test_a_job_that_would_wait_for_ever_is_refused_or_says_so(client: SlurmClient) -> None:
    name = new_id()
    try:
        job_id = client.submit(job(name, time_limit_min=2000), name, ANN.login)  # the partition's MaxTime is a day
    except SubmitRefused:  # EnforcePartLimits=ALL, as deploy/slurm has it
        assert not [one for one in client.jobs() if one.name == name and not one.ended]
    else:
        assert seen(lambda: client.job(job_id), lambda one: one.never_starts).reason == "PartitionTimeLimit"
        client.cancel(job_id)


def test_a_job_that_comes_while_no_node_is_up_waits_for_one(client: SlurmClient, cluster: SlurmCluster) -> None:
    # So it is for seconds after slurmctld began anew: 22.05 answers with the job's id and error 2068, 24.11 with warnings.
    name = new_id()
    for node in cluster.options.node_names:
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        job_id = client.submit(job(name), name, ANN.login)
        assert not client.job(job_id).ended
        waiting = seen(lambda: client.job(job_id), lambda one: bool(one.reason))  # ReqNodeNotAvail, Resources, Priority
        assert (waiting.ended, waiting.never_starts) == (False, False)
    finally:
        for node in cluster.options.node_names:
            cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    seen(lambda: client.job(job_id), lambda one: one.running)
    client.cancel(job_id)


@pytest.mark.full  # Slurm itself decides when a requeued job may begin again: up to two minutes
def test_a_requeued_job_runs_again_under_its_id_and_each_run_is_a_row_of_its_own(
    client: SlurmClient, cluster: SlurmCluster
) -> None:
    name = new_id()
    job_id = client.submit(job(name, "sleep 60"), name, ANN.login)
    # Two submissions within a second would be one key to slurmdbd.
    seen(lambda: client.job(job_id), lambda one: one.running and time.time() > (one.submitted_at_s or 0) + 2)
    cluster.run("scontrol", "update", f"jobid={job_id}", "requeue=1")
    cluster.run("scontrol", "requeue", str(job_id))
    waiting = seen(lambda: client.job(job_id), lambda one: one.states == {JobState.PENDING})
    assert not waiting.ended
    assert (waiting.restarts, waiting.hold_id) == (1, name)
    time.sleep(2)  # slurmd launches no job that it killed in the same second: "already killed, do not launch"
    cluster.run("scontrol", "update", f"jobid={job_id}", "StartTime=now")  # else it waits two minutes
    seen(lambda: client.job(job_id), lambda one: one.running)
    client.cancel(job_id)
    runs = seen(lambda: client.runs([job_id]), lambda found: len(found) == 2 and found[1].ended_at_s is not None)
    assert len({run.key for run in runs}) == 2
    assert runs[0].submitted_at_s < runs[1].submitted_at_s
    assert {(run.hold_id, run.gpus) for run in runs} == {(name, 1)}


def test_an_extension_moves_the_end_and_stays_below_the_sites_longest(client: SlurmClient) -> None:
    name = new_id()
    job_id = client.submit(job(name), name, ANN.login)
    running = seen(lambda: client.job(job_id), lambda one: one.running)
    client.extend(job_id, 2000)  # beyond the partition's MaxTime: an operator may
    extended = client.job(job_id)
    assert extended.time_limit_min == 2000
    assert extended.ends_at_s == (running.started_at_s or 0) + 120_000
    client.extend(job_id, 15)  # a lower one changes nothing
    assert client.job(job_id).time_limit_min == 2000
    with pytest.raises(ActionRefused):
        client.extend(job_id, 7 * 24 * 60 + 1)
    client.cancel(job_id)
    with pytest.raises(ActionRefused):
        client.extend(job_id, 3000)


def test_values_of_the_environment_are_in_no_repr_no_log_and_no_refusal(
    client: SlurmClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    name = new_id()
    request = job(name, environment={"PATH": "/bin", "SECRET": SECRET}, partition="nowhere")
    with pytest.raises(SubmitRefused) as refused:
        client.submit(request, name, BEN.login)
    assert SECRET not in repr(request) + str(refused.value) + caplog.text


def test_a_token_that_is_not_slurms_is_an_outage_and_never_an_answer(cluster: SlurmCluster, tmp_path: Path) -> None:
    key = tmp_path / "other.key"
    key.write_bytes(b"x" * 32)
    stranger = offices.office(cluster, tmp_path, key_file=str(key))
    client = SlurmClient(stranger._http, stranger, stranger)
    with pytest.raises(SlurmUnreachable):
        client.job(1)
    with pytest.raises(SlurmUnreachable):
        client.jobs()
    with pytest.raises(SlurmUnreachable):
        client.submit(job(new_id()), new_id(), ANN.login)


def test_a_job_that_left_slurmctlds_memory_is_still_known_with_its_end(
    client: SlurmClient, early: tuple[str, int]
) -> None:
    name, job_id = early
    done = seen(lambda: client.job(job_id), lambda one: one.from_accounting)
    assert done.ended
    assert done.states == {JobState.FAILED}
    assert (done.name, done.hold_id, done.gpus) == (name, name, 1)  # v0.0.38 tells slurmdbd's exit codes wrong
    assert client.find(name, PORTAL_ACCOUNT) == done
