"""A cluster as a session sees it, whichever way jobs reach it: slurmrestd (here) or the commands (`spawners.batch`).

Invariants: nothing blocks the event loop: every call runs in a thread of a pool of its own; what every session asks again and again
is one shared answer (`ClusterWatch`); an outage raises SlurmUnreachable and is never an empty answer.
"""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, ParamSpec, Protocol, TypeVar

from spawners.job_spec import Owner
from spawners.slurm_settings import SlurmTable
from spawners.slurmrestd import (
    ClusterWatch,
    Job,
    JobRequest,
    OutcomeUnknown,
    SlurmClient,
    SlurmUnreachable,
    SubmitRefused,
)
from spawners.slurmrestd.model import JobState
from spawners.slurmrestd.watch import Line
from spawners.steward.client import StewardClient, StewardRefusal, StewardUnreachable

_CALM: Final = 5  # a hub polls each session every ten seconds: however many they are, they cost what one costs

P = ParamSpec("P")
T = TypeVar("T")

THREADS: Final = 4  # calls that change something, side by side; more of them only take the event loop's turns


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pending job stands: how many of its partition come before it, it included; 0 where that is not known."""

    number: int
    expected_at_s: int | None


class JobQueue(Protocol):
    """One cluster. Everything raises SlurmUnreachable where the cluster does not answer."""

    table: SlurmTable
    turn: asyncio.Lock  # held by who does more than a moment's work on the event loop: one start at a time

    async def submit(self, request: JobRequest, hold_id: str, owner: Owner) -> int:
        """Submit, unless a job of this name exists: then that one's id. Raises SubmitRefused, OutcomeUnknown."""

    async def job(self, job_id: int, *, calm: bool = False) -> Job:
        """One job, at most `table.look` old, five times that if `calm`. Raises JobUnknown only where Slurm positively has none."""

    async def find(self, name: str, account: str) -> Job | None:
        """The newest job of this name on this account, alive or over; None where there never was one."""

    async def labelled(self, label: str) -> list[Job]:
        """Jobs in slurmctld's memory that carry this label and are the portal's by the plugin's own word."""

    async def tell_to_end(self, job: Job) -> None:
        """Ask Slurm to end a job; whether it did, `job` says. Raises ActionRefused."""

    async def set_limit(self, job: Job, minutes: int) -> None:
        """Raise a job's time limit, counted from its start. Raises ActionRefused, JobUnknown."""

    async def node_address(self, name: str) -> str:
        """Where a node is reached."""

    async def place(self, job: Job) -> Place:
        """A pending job's place in the queue."""

    async def line(self, partition: str, gpu_type: str | None = None) -> Line:
        """Who waits for a partition, with its free GPUs where a type is named ("": any)."""

    def look_again(self) -> None:
        """Make the next look a fresh one."""


class RestQueue:
    """A cluster behind slurmrestd and the signer."""

    def __init__(self, table: SlurmTable, client: SlurmClient) -> None:
        self.table = table
        self.turn = asyncio.Lock()
        self._client = client
        self._watch = ClusterWatch(client, max_age_s=table.look)
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="slurm")
        self._steward = StewardClient(table.steward) if table.steward else None

    async def submit(self, request: JobRequest, hold_id: str, owner: Owner) -> int:
        """See JobQueue. Before it, the owner gets an account, a home and the project's Slurm account, once."""
        if self._steward is not None:
            try:
                await self._call(self._steward.ensure, owner.login, request.account)
            except StewardUnreachable as error:
                raise SlurmUnreachable(str(error)) from None
            except StewardRefusal as error:
                raise SubmitRefused(str(error)) from None
        job_id = await self._call(self._client.submit, request, hold_id, owner.login)
        self._watch.forget()
        return job_id

    async def job(self, job_id: int, *, calm: bool = False) -> Job:
        """See JobQueue."""
        return await self._watch.job(job_id, _CALM * self.table.look if calm else None)

    async def find(self, name: str, account: str) -> Job | None:
        """See JobQueue."""
        return await self._call(self._client.find, name, account)

    async def labelled(self, label: str) -> list[Job]:
        """See JobQueue."""
        snapshot = await self._watch.snapshot()
        return [job for job in snapshot.jobs.values() if job.label == label and job.hold_id == job.name]

    async def tell_to_end(self, job: Job) -> None:
        """See JobQueue."""
        try:
            await self._call(functools.partial(self._client.cancel, within_s=0), job.job_id)
        except OutcomeUnknown:  # told; that its end is still to be seen is what every cancel says at first
            pass
        finally:
            self._watch.forget()

    async def set_limit(self, job: Job, minutes: int) -> None:
        """See JobQueue."""
        await self._call(self._client.extend, job.job_id, minutes)
        self._watch.forget()

    async def node_address(self, name: str) -> str:
        """See JobQueue."""
        own = self.table.addresses.get(name)
        return own if own else await self._call(self._client.node_address, name)

    async def place(self, job: Job) -> Place:
        """See JobQueue."""
        snapshot = await self._watch.snapshot()
        return Place(snapshot.place_in_queue(job) if JobState.PENDING in job.states else 0, job.started_at_s)

    async def line(self, partition: str, gpu_type: str | None = None) -> Line:
        """See JobQueue."""
        age_s = _CALM * self.table.look
        line = (await self._watch.snapshot(age_s)).line(partition)
        return line if gpu_type is None else replace(line, room=await self._watch.room(partition, gpu_type, age_s))

    def look_again(self) -> None:
        """See JobQueue."""
        self._watch.forget()

    async def _call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(work, *args, **kwargs))
