"""Evidence of sessions that are Slurm jobs: slurmctld says what lives, slurmdbd says what is billed.

Invariants: billed is Σ over all runs of the job of slurmdbd's elapsed time, never end − start: a suspension is not in it; an end counts
once slurmdbd has it, so that settlement waits for slurmdbd; an outage of either is Unreachable for the sessions of that cluster; two
calls a look and one more for each 200 jobs, however many sessions. Facts: docs/reference/slurm.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, ParamSpec, TypeVar

from quota.domain.errors import Unavailable
from quota.domain.ids import HoldId, ProjectId, is_id
from quota.domain.session import EndReason, Evidence, Run, Seen, Unreachable
from quota.service.session_ports import Asked
from quota.service.strays import Work
from spawners.job_runner import EXIT_NO_GPU
from spawners.slurmrestd import Job, JobRun, JobState, OutcomeUnknown, SlurmClient, SlurmError
from spawners.slurmrestd.model import is_anothers, is_of

log = logging.getLogger("quota.slurm")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOOK_BACK: Final = timedelta(hours=1)  # clocks of the portal and of Slurm may differ a little
# A job's owner can choose its exit status: what ran for longer than the check of its GPUs takes is charged whatever it says.
_CHECK_S: Final = 15
_REASONS: Final = (
    (JobState.OUT_OF_MEMORY, EndReason.OUT_OF_MEMORY),
    (JobState.TIMEOUT, EndReason.DEADLINE),
    (JobState.DEADLINE, EndReason.DEADLINE),
    (JobState.NODE_FAIL, EndReason.LOST),
    (JobState.BOOT_FAIL, EndReason.LOST),
    (JobState.CANCELLED, EndReason.STOPPED),
    (JobState.PREEMPTED, EndReason.STOPPED),
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster as the quota service reads it; `account` gives a project's Slurm account."""

    client: SlurmClient
    account: Callable[[str], str]


class SlurmAccounting:
    """`SessionEvidence` over clusters; `cluster_of` names the cluster of a profile, "" for none."""

    def __init__(self, clusters: Mapping[str, Cluster], cluster_of: Callable[[str], str]) -> None:
        self._clusters = dict(clusters)
        self._cluster_of = cluster_of
        self._looking = {name: asyncio.Lock() for name in clusters}

    async def read(self, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        """One look at each cluster."""
        by_cluster: defaultdict[str, list[Asked]] = defaultdict(list)
        for one in asked:
            by_cluster[self._cluster_of(one.profile)].append(one)
        looks = await asyncio.gather(*(self._cluster(name, some) for name, some in by_cluster.items()))
        return {hold_id: seen for look in looks for hold_id, seen in look.items()}

    async def settled(self, hold_ids: Sequence[HoldId]) -> None:
        """Nothing to remove: slurmdbd keeps its rows as the site says."""

    async def _cluster(self, name: str, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        cluster = self._clusters.get(name)
        if cluster is None:
            return {one.hold_id: Unreachable(f"the cluster {name!r} is not configured") for one in asked}
        lock = self._looking[name]
        if lock.locked():  # the look before still waits for a slow daemon: a second one would wait behind it
            return {one.hold_id: Unreachable(f"the cluster {name} is being asked since the last look") for one in asked}
        async with lock:
            try:
                return await asyncio.shield(asyncio.to_thread(look, cluster, asked))
            except (SlurmError, Unavailable) as error:
                return {one.hold_id: Unreachable(f"the cluster {name}: {error}") for one in asked}


def look(cluster: Cluster, asked: Sequence[Asked]) -> dict[HoldId, Seen]:
    """What the cluster says of these sessions. Raises SlurmUnreachable."""
    accounts = {one.hold_id: cluster.account(one.project_id) for one in asked}
    alive: defaultdict[HoldId, list[Job]] = defaultdict(list)
    for job in cluster.client.jobs():
        hold_id = _hold_of(job)
        if hold_id is not None and hold_id in accounts and is_of(job, hold_id, accounts[hold_id]):
            alive[hold_id].append(job)
    ids = {job.job_id: hold_id for hold_id, jobs in alive.items() for job in jobs}
    gone = [one for one in asked if one.hold_id not in alive]
    if gone:
        of = sorted({accounts[one.hold_id] for one in gone})
        since = min(one.placed_at for one in gone) - _LOOK_BACK
        for run in cluster.client.runs_of(accounts=of, since_s=int(since.timestamp())):
            hold_id = _hold_of(run)
            if hold_id is not None and hold_id in accounts and is_of(run, hold_id, accounts[hold_id]):
                ids[run.job_id] = hold_id
    runs: defaultdict[HoldId, list[JobRun]] = defaultdict(list)
    for run in cluster.client.runs(sorted(ids)):
        hold_id = ids[run.job_id]
        if not is_anothers(run, hold_id, accounts[hold_id]):  # a number that slurmctld gave a second time
            runs[hold_id].append(run)
    return {one.hold_id: seen(one.hold_id, alive[one.hold_id], runs[one.hold_id]) for one in asked}


def _hold_of(one: Job | JobRun) -> HoldId | None:
    """The hold that a job names: by the plugin's word, or by its name where a site has no job_submit.lua."""
    name = one.hold_id or one.name
    return HoldId(name) if is_id(name) else None


def seen(hold_id: HoldId, jobs: Sequence[Job], runs: Sequence[JobRun]) -> Seen:
    """Evidence of one hold: its jobs in slurmctld's memory, and all their runs in slurmdbd, oldest first."""
    if not jobs and not runs:
        return None
    job = max(jobs, key=lambda one: one.job_id, default=None)
    ran = [run for run in runs if run.ran]
    # What slurmctld has dropped is over once its newest run has an end: nothing can run it again.
    over = job.ended if job is not None else runs[-1].ended_at_s is not None
    if over and (not runs or any(run.ended_at_s is None for run in runs)):
        return Unreachable("slurmctld has the end of the job and slurmdbd has not yet")
    stretches = _stretches(ran)
    if not ran:
        if over:
            return Evidence(hold_id, None, None, None, _never(job, runs))
        if job is None or JobState.PENDING not in job.states:
            return Unreachable("slurmctld has started the job and slurmdbd does not know yet")
        return Evidence(hold_id, None, None, None, waiting_since=_at(job.submitted_at_s), note=job.reason)
    started_at, alive_at = stretches[0].from_at, stretches[-1].to_at
    if over and _without_gpus(runs, job):
        return Evidence(hold_id, None, None, None, EndReason.DEVICE_MISSING)
    if over:
        return Evidence(hold_id, started_at, alive_at, alive_at, _reason(runs[-1], job), runs=stretches)
    if job is None:
        return Unreachable("slurmdbd has no end of the job and slurmctld does not show it")
    suspended = JobState.SUSPENDED in job.states
    return Evidence(
        hold_id,
        started_at,
        alive_at,
        None,
        runs=stretches,
        suspended=suspended,
        ends_at=None if suspended or not job.running else _at(job.ends_at_s),
        note=job.reason,
    )


def _stretches(ran: Sequence[JobRun]) -> tuple[Run, ...]:
    found: list[Run] = []
    for run in ran:
        assert run.started_at_s is not None
        to_s = max(run.ended_at_s or 0, run.started_at_s + run.elapsed_s + run.suspended_s)
        from_at, to_at = _instant(run.started_at_s), _instant(to_s)
        if found and from_at < found[-1].to_at:  # a requeue's rows may share a second
            from_at = found[-1].to_at
            to_at = max(from_at + timedelta(seconds=run.elapsed_s), to_at)
        found.append(Run(from_at, to_at, run.elapsed_s * 1000))
    return tuple(found)


def _never(job: Job | None, runs: Sequence[JobRun]) -> EndReason:
    states = (job.states if job is not None else frozenset()) | (runs[-1].states if runs else frozenset())
    return EndReason.CANCELLED if JobState.CANCELLED in states else EndReason.NEVER_STARTED


def _without_gpus(runs: Sequence[JobRun], job: Job | None) -> bool:
    """Whether the session was never started because its GPUs were not there (spawners.job_runner)."""
    said = {runs[-1].exit.code, job.exit.code if job is not None else 0}  # v0.0.38 tells slurmdbd's exit codes wrong
    return EXIT_NO_GPU in said and sum(run.elapsed_s for run in runs) <= _CHECK_S


def _reason(last: JobRun, job: Job | None) -> EndReason:
    states = last.states | (job.states if job is not None else frozenset())
    return next((reason for state, reason in _REASONS if state in states), EndReason.EXITED)


def _at(seconds: int | None) -> datetime | None:
    return None if seconds is None else _instant(seconds)


def _instant(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


class SlurmWorks:
    """`quota.service.strays.Works` over the same clusters."""

    def __init__(self, clusters: Mapping[str, Cluster]) -> None:
        self._clusters = dict(clusters)

    async def alive(self) -> Sequence[Work]:
        """See Works."""
        return [work for name, cluster in self._clusters.items() for work in await _asked(_alive, name, cluster)]

    async def over(self, projects: Sequence[ProjectId], since: datetime) -> Sequence[Work]:
        """See Works."""
        if not projects:
            return []
        looks = [await _asked(_over, name, one, projects, since) for name, one in self._clusters.items()]
        return [work for look in looks for work in look]

    async def cancel(self, work: Work) -> None:
        """See Works; that it ended is seen at the next pass."""
        await _asked(_cancel, self._clusters[work.cluster].client, work.job_id)


P = ParamSpec("P")
T = TypeVar("T")


async def _asked(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except SlurmError as error:
        raise Unavailable(str(error)) from error


def _cancel(client: SlurmClient, job_id: int) -> None:
    try:
        client.cancel(job_id, within_s=0)
    except OutcomeUnknown as error:  # told; the next pass sees whether it ended
        log.info("%s", error)


def _alive(name: str, cluster: Cluster) -> list[Work]:
    prefix = cluster.account("")
    return [
        Work(
            name, job.job_id, f"{name}:{job.job_id}", _hold_of(job), job.account, job.user, job.gpus,
            _at(job.started_at_s), None, 0,
        )
        for job in cluster.client.jobs()
        if job.account.startswith(prefix) and not job.ended
    ]  # fmt: skip


def _over(name: str, cluster: Cluster, projects: Sequence[ProjectId], since: datetime) -> list[Work]:
    accounts = [cluster.account(one) for one in projects]
    ids = {run.job_id for run in cluster.client.runs_of(accounts=accounts, since_s=int(since.timestamp()))}
    return [
        Work(
            name, run.job_id, ":".join(map(str, run.key)), _hold_of(run), run.account, run.user, run.gpus,
            _at(run.started_at_s), _at(max(run.ended_at_s, (run.started_at_s or 0) + run.elapsed_s)), run.elapsed_s * 1000,
        )
        for run in cluster.client.runs(sorted(ids))
        if run.ran and run.ended_at_s is not None
    ]  # fmt: skip
