"""ClusterWatch: what every session of a cluster asks, answered by one call to slurmrestd at a time.

Invariants: calls to slurmrestd a minute do not grow with the number of sessions; an answer is at most `max_age_s` old; an outage is
shared as an outage and never as "not there"; a job that is missing from the list is asked for on its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from spawners.slurmrestd.client import SlurmClient
from spawners.slurmrestd.errors import SlurmUnreachable
from spawners.slurmrestd.model import Job, JobState

MAX_AGE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Line:
    """Who waits for a partition: how many jobs, and when Slurm expects the last of them to start (None: it does not say)."""

    waiting: int
    expected_at_s: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All jobs of slurmctld at one moment."""

    jobs: Mapping[int, Job]

    def place_in_queue(self, job: Job) -> int:
        """How many pending jobs of its partition come before a pending job, it included; by priority, then by id."""
        before = [
            one
            for one in self.jobs.values()
            if JobState.PENDING in one.states
            and one.partition == job.partition
            and (-one.priority, one.job_id) <= (-job.priority, job.job_id)
        ]
        return len(before)

    def line(self, partition: str) -> Line:
        """Who waits for a partition."""
        jobs = [one for one in self.jobs.values() if one.partition == partition and JobState.PENDING in one.states]
        planned = [one.started_at_s for one in jobs if one.started_at_s is not None]
        return Line(len(jobs), max(planned, default=None))


class ClusterWatch:
    """Shared by all spawners of a process; to be used on one event loop."""

    def __init__(self, client: SlurmClient, *, max_age_s: float = MAX_AGE_S) -> None:
        self._client = client
        self._max_age_s = max_age_s
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="slurm-watch")
        self._asking: asyncio.Task[Snapshot] | None = None
        self._asked_s = float("-inf")

    async def snapshot(self, max_age_s: float | None = None) -> Snapshot:
        """All jobs, at most so old; concurrent callers share one call. Raises SlurmUnreachable."""
        task, max_age_s = self._asking, self._max_age_s if max_age_s is None else max_age_s
        if task is None or (task.done() and time.monotonic() - self._asked_s > max_age_s):
            task = self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(task)

    async def job(self, job_id: int, max_age_s: float | None = None) -> Job:
        """One job. Raises JobUnknown, SlurmUnreachable as `SlurmClient.job` does."""
        found = (await self.snapshot(max_age_s)).jobs.get(job_id)
        if found is not None:
            return found
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._client.job, job_id)

    async def by_name(self, name: str) -> Job | None:
        """The newest job of this name that slurmctld has in memory."""
        found = [job for job in (await self.snapshot()).jobs.values() if job.name == name]
        return max(found, key=lambda job: job.job_id, default=None)

    def forget(self) -> None:
        """Make the next look a fresh one, such as after a submit."""
        self._asked_s = float("-inf")

    async def _ask(self) -> Snapshot:
        loop = asyncio.get_running_loop()
        try:
            jobs = await loop.run_in_executor(self._threads, self._client.jobs)
        except SlurmUnreachable:
            self._asked_s = time.monotonic()
            raise
        self._asked_s = time.monotonic()
        return Snapshot({job.job_id: job for job in jobs})
