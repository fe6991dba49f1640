"""ClusterWatch: what every session of a cluster asks, answered by one call to slurmrestd at a time.

Invariants: calls to slurmrestd a minute do not grow with the number of sessions; an answer is at most `max_age_s` old; an outage is
shared as an outage and never as "not there"; a job that is missing from the list is asked for on its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from spawners.slurmrestd.client import SlurmClient
from spawners.slurmrestd.model import Job, JobState

T = TypeVar("T")
MAX_AGE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Room:
    """GPUs of one type in a partition: how many there are, and how many a job could get now."""

    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Line:
    """Who waits for a partition: how many jobs, and when Slurm expects the last of them to start (None: it does not say)."""

    waiting: int
    expected_at_s: int | None
    room: Room | None = None  # None: nobody asked for its GPUs


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


class SharedLook(Generic[T]):
    """One answer for all who ask: one call at a time in a thread; an outage is shared as an outage. For one event loop."""

    def __init__(self, ask: Callable[[], T], threads: ThreadPoolExecutor) -> None:
        self._ask, self._threads = ask, threads
        self._asking: asyncio.Task[T] | None = None
        self._asked_s = float("-inf")

    async def answer(self, max_age_s: float) -> T:
        """The answer, at most so old. Raises what `ask` raises."""
        task = self._asking
        if task is None or (task.done() and time.monotonic() - self._asked_s > max_age_s):
            task = self._asking = asyncio.create_task(self._look())
        return await asyncio.shield(task)

    def forget(self) -> None:
        """Make the next look a fresh one."""
        self._asked_s = float("-inf")

    async def _look(self) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask)
        finally:
            self._asked_s = time.monotonic()


class ClusterWatch:
    """Shared by all spawners of a process; to be used on one event loop."""

    def __init__(self, client: SlurmClient, *, max_age_s: float = MAX_AGE_S) -> None:
        self._client = client
        self._max_age_s = max_age_s
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="slurm-watch")
        self._jobs = SharedLook(self._snapshot, self._threads)
        self._nodes = SharedLook(client.nodes, self._threads)

    async def snapshot(self, max_age_s: float | None = None) -> Snapshot:
        """All jobs, at most so old; concurrent callers share one call. Raises SlurmUnreachable."""
        return await self._jobs.answer(self._max_age_s if max_age_s is None else max_age_s)

    async def room(self, partition: str, gpu_type: str, max_age_s: float) -> Room:
        """A partition's GPUs of one type, "": of any; at most so old. Raises SlurmUnreachable."""
        nodes = [one for one in await self._nodes.answer(max_age_s) if partition in one.partitions]
        return Room(sum(one.free(gpu_type) for one in nodes), sum(one.total(gpu_type) for one in nodes))

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
        self._jobs.forget()

    def _snapshot(self) -> Snapshot:
        return Snapshot({job.job_id: job for job in self._client.jobs()})
