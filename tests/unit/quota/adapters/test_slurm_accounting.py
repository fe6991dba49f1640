"""What Slurm's two memories say of a session, as evidence; `look` and `seen` are pure, the client is faked at its own methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from quota.adapters.slurm_accounting import Cluster, SlurmAccounting, look, seen
from quota.domain.ids import HoldId, ProjectId
from quota.domain.session import EndReason, Evidence, Seen, Unreachable
from quota.service.session_ports import Asked
from spawners.slurmrestd import ExitStatus, Job, JobRun, JobState, SlurmUnreachable

HOLD = HoldId("h1")
T0 = 1_800_000_000


def at(offset_s: int) -> datetime:
    return datetime.fromtimestamp(T0 + offset_s, UTC)


def job(*states: JobState, **more: object) -> Job:
    made = Job(
        job_id=7, name="h1", user="cc-20001", account="cc-p1", partition="gpu", states=frozenset(states), reason="", submitted_at_s=T0,
        started_at_s=T0 + 10, ends_at_s=T0 + 610, time_limit_min=10, nodes="gpu1", batch_host="gpu1", gpus=1, exit=ExitStatus(),
        label="", hold_id="h1",
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def run(
    state: JobState, submitted: int, start: int | None, end: int | None, elapsed: int, suspended: int = 0
) -> JobRun:
    return JobRun(
        cluster="ci", job_id=7, submitted_at_s=T0 + submitted, name="h1", user="cc-20001", account="cc-p1", partition="gpu",
        states=frozenset({state}), started_at_s=None if start is None else T0 + start, ended_at_s=None if end is None else T0 + end,
        elapsed_s=elapsed, suspended_s=suspended, gpus=1, exit=ExitStatus(), hold_id="h1", nodes="" if start is None else "gpu1",
    )  # fmt: skip


def evidence(jobs: Sequence[Job], runs: Sequence[JobRun]) -> Evidence:
    found = seen(HOLD, jobs, runs)
    assert isinstance(found, Evidence), found
    return found


def billed_ms(found: Evidence) -> int:
    return sum(one.billed_ms for one in found.billed)


def test_a_job_that_neither_daemon_has_is_positively_nothing() -> None:
    assert seen(HOLD, [], []) is None


def test_a_waiting_job_costs_nothing_and_says_why_it_waits() -> None:
    found = evidence([job(JobState.PENDING, reason="Priority", nodes="")], [])
    assert (found.started_at, found.waiting_since, found.note, billed_ms(found)) == (None, at(0), "Priority", 0)


def test_a_running_job_is_billed_what_slurmdbd_has_counted() -> None:
    found = evidence([job(JobState.RUNNING)], [run(JobState.RUNNING, 0, 10, None, 25)])
    assert (found.started_at, found.alive_at, found.ended_at, found.ends_at) == (at(10), at(35), None, at(610))
    assert billed_ms(found) == 25_000


def test_a_start_that_slurmdbd_does_not_know_yet_is_waited_for() -> None:
    assert isinstance(seen(HOLD, [job(JobState.RUNNING)], []), Unreachable)


def test_an_end_counts_once_slurmdbd_has_it() -> None:
    ended = job(JobState.COMPLETED, ends_at_s=T0 + 40)
    assert isinstance(seen(HOLD, [ended], []), Unreachable)
    assert isinstance(seen(HOLD, [ended], [run(JobState.RUNNING, 0, 10, None, 30)]), Unreachable)
    found = evidence([ended], [run(JobState.COMPLETED, 0, 10, 40, 30)])
    assert (found.ended_at, found.reason, billed_ms(found)) == (at(40), EndReason.EXITED, 30_000)


def test_a_suspension_is_not_billed_and_shows() -> None:
    found = evidence([job(JobState.SUSPENDED)], [run(JobState.SUSPENDED, 0, 10, None, 20, suspended=100)])
    assert (found.suspended, found.ends_at, billed_ms(found)) == (True, None, 20_000)
    over = evidence([], [run(JobState.COMPLETED, 0, 10, 140, 30, suspended=100)])
    assert (over.ended_at, billed_ms(over)) == (at(140), 30_000)


def test_a_requeued_job_is_billed_for_all_its_runs_and_not_for_the_wait_between() -> None:
    first, second = run(JobState.REQUEUED, 0, 10, 20, 10), run(JobState.RUNNING, 20, 140, None, 5)
    waiting = evidence([job(JobState.PENDING, reason="BeginTime")], [first, run(JobState.PENDING, 20, None, None, 0)])
    assert (waiting.started_at, waiting.ended_at, billed_ms(waiting)) == (at(10), None, 10_000)
    running = evidence([job(JobState.RUNNING)], [first, second])
    assert (running.started_at, running.alive_at, billed_ms(running)) == (at(10), at(145), 15_000)
    over = evidence([], [first, run(JobState.COMPLETED, 20, 140, 150, 10)])
    assert (over.ended_at, billed_ms(over)) == (at(150), 20_000)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (JobState.COMPLETED, EndReason.EXITED),
        (JobState.FAILED, EndReason.EXITED),
        (JobState.CANCELLED, EndReason.STOPPED),
        (JobState.TIMEOUT, EndReason.DEADLINE),
        (JobState.OUT_OF_MEMORY, EndReason.OUT_OF_MEMORY),
        (JobState.NODE_FAIL, EndReason.LOST),
        (JobState.PREEMPTED, EndReason.STOPPED),
    ],
)
def test_every_end_has_its_reason(state: JobState, reason: EndReason) -> None:
    assert evidence([], [run(state, 0, 10, 40, 30)]).reason is reason


def test_a_job_cancelled_while_it_waited_never_ran() -> None:
    found = evidence([job(JobState.CANCELLED, nodes="")], [run(JobState.CANCELLED, 0, None, 5, 0)])
    assert (found.started_at, found.reason, billed_ms(found)) == (None, EndReason.CANCELLED, 0)


def test_a_job_that_slurmctld_dropped_without_an_end_in_slurmdbd_is_not_over() -> None:
    assert isinstance(seen(HOLD, [], [run(JobState.RUNNING, 0, 10, None, 25)]), Unreachable)


class Silent:
    """A cluster that cannot be asked."""

    def jobs(self) -> list[Job]:
        raise SlurmUnreachable("slurmctld is away")


async def test_an_outage_is_an_outage_of_that_clusters_sessions() -> None:
    accounting = SlurmAccounting({"one": Cluster(Silent(), str)}, lambda profile: "one" if profile == "h100" else "two")  # type: ignore[arg-type]
    asked = [
        Asked(HoldId("a"), "slurm", "h100", ProjectId("p1"), at(0)),
        Asked(HoldId("b"), "slurm", "other", ProjectId("p1"), at(0)),
    ]
    found = await accounting.read(asked)
    assert all(isinstance(one, Unreachable) for one in found.values())
    assert len(found) == 2


class Crowded:
    """A cluster on which others work, too."""

    def __init__(self, jobs: Sequence[Job], runs: Sequence[JobRun]) -> None:
        self._jobs, self._runs = list(jobs), list(runs)

    def jobs(self) -> list[Job]:
        return self._jobs

    def runs_of(self, **_: object) -> list[JobRun]:
        return self._runs

    def runs(self, job_ids: Sequence[int]) -> list[JobRun]:
        return [one for one in self._runs if one.job_id in job_ids]


def looked(jobs: Sequence[Job], runs: Sequence[JobRun]) -> Seen:
    cluster = Cluster(Crowded(jobs, runs), lambda project: f"cc-{project}")  # type: ignore[arg-type]
    asked = Asked(HoldId("hold-0001"), "slurm", "h100", ProjectId("p1"), at(0))
    return look(cluster, [asked])[asked.hold_id]


OURS = {"name": "hold-0001", "hold_id": "hold-0001"}


@pytest.mark.parametrize("account", ["research", "cc-p2"])
def test_a_job_that_somebody_named_like_a_hold_is_no_evidence_of_it(account: str) -> None:
    theirs = {"job_id": 9, "name": "hold-0001", "hold_id": "", "account": account}
    alive = job(JobState.RUNNING, **theirs)
    theirs_ran = replace(run(JobState.RUNNING, 0, 10, None, 500), **theirs)  # type: ignore[arg-type]
    assert looked([alive], [theirs_ran]) is None
    ended = replace(run(JobState.COMPLETED, 0, 10, 40, 30), **OURS)  # type: ignore[arg-type]
    found = looked([alive], [theirs_ran, ended])
    assert isinstance(found, Evidence)
    assert (found.reason, billed_ms(found)) == (EndReason.EXITED, 30_000)


def test_a_number_that_slurmctld_gave_twice_is_billed_to_each_hold_for_its_own_job() -> None:
    before = replace(run(JobState.COMPLETED, -9000, -8990, -5390, 3600), name="hold-0000", hold_id="hold-0000")
    own = replace(run(JobState.RUNNING, 0, 10, None, 25), **OURS)  # type: ignore[arg-type]
    found = looked([job(JobState.RUNNING, **OURS)], [before, own])
    assert isinstance(found, Evidence)
    assert billed_ms(found) == 25_000


def test_what_slurmdbd_lost_the_name_of_is_still_the_holds() -> None:
    """A job cancelled before slurmdbd heard of its start is called `allocation` there."""
    unnamed = replace(run(JobState.CANCELLED, 0, None, 5, 0), name="allocation", hold_id="")
    found = looked([job(JobState.CANCELLED, nodes="", **OURS)], [unnamed])
    assert isinstance(found, Evidence)
    assert found.reason is EndReason.CANCELLED


@pytest.mark.parametrize("heard_by", ["slurmctld", "slurmdbd"])
def test_a_start_without_its_gpus_costs_nothing(heard_by: str) -> None:
    status = ExitStatus(code=76)
    last = replace(run(JobState.FAILED, 0, 10, 12, 2), exit=status if heard_by == "slurmdbd" else ExitStatus())
    jobs = [job(JobState.FAILED, exit=status)] if heard_by == "slurmctld" else []
    found = evidence(jobs, [last])
    assert (found.started_at, found.reason, billed_ms(found)) == (None, EndReason.DEVICE_MISSING, 0)


def test_nobody_runs_for_nothing_by_choosing_an_exit_status() -> None:
    found = evidence([job(JobState.FAILED, exit=ExitStatus(code=76))], [run(JobState.FAILED, 0, 10, 40, 30)])
    assert billed_ms(found) == 30_000
