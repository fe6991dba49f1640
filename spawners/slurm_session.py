"""A session that is a Slurm job, from the hub's side: found again, judged, ended, moved. How it is started is `spawners.slurm`.

Invariants: only Slurm's own positive answer is an end; a stop that was not seen to work raises; what the hub forgets stands in the
session's file (`spawners.job_records`), which goes when the end was seen; a session that nobody takes up again has no credential of the
hub's any more; files are written away from the event loop.
"""

import asyncio
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from traitlets import Any as AnyTrait
from traitlets import Callable as CallableTrait
from traitlets import Instance, default

from spawners import job_spec, records
from spawners.delegate import BackendUnreachable, DeadlineRefused
from spawners.job_queue import JobQueue
from spawners.job_records import JobRecord, JobRecords, record_from
from spawners.job_state import Phase, exit_status, phase
from spawners.phrases import say
from spawners.profiles import Profile, Profiles
from spawners.session_traits import RunningSession, SessionTraits, StopUnconfirmedError
from spawners.slurmrestd import ActionRefused, Job, JobUnknown, SlurmUnreachable
from spawners.slurmrestd.model import is_anothers

# A submit without an answer is carried out within this time or never: the owner's token and the ticket are over then.
SETTLE_S: Final = 180
_TELL_AGAIN_S: Final = 15.0  # a cancel that Slurm took and did not carry out is told again


class JobSession(SessionTraits):
    """What is known of one session of one (user, server name)."""

    queue_of = CallableTrait(help="Gives the JobQueue of a cluster by its name.").tag(config=True)
    profiles = Instance(Profiles, args=((),), help="The catalogue of portal.toml.").tag(config=True)

    _record: JobRecord | None = None
    _starting = False
    _status: int | None = None  # the exit status of a session whose end was seen
    _listens = AnyTrait()  # set once the session's port is known and on disk
    _writing = AnyTrait()

    @default("_listens")
    def _listens_default(self) -> asyncio.Event:
        return asyncio.Event()

    @default("_writing")
    def _writing_default(self) -> asyncio.Lock:
        return asyncio.Lock()

    async def find_running(self) -> RunningSession | None:
        """What Slurm runs or has queued for this person and server name: by our own files, else by the job's label."""
        leaving = set()
        for record in await asyncio.to_thread(self._records.of, self.user.name, self.name):
            job = await self._look(record)
            over = job.ended if job is not None else self._settled(record)
            if job is not None and not over and not record.cancelled:
                return RunningSession(record.hold_id, record.profile)
            if over or record.cancelled:
                self._end_credential(record)
            seen_to_end = over and job is not None  # one that nobody saw end may still turn up by its label
            if record.cancelled or seen_to_end:
                leaving.add(record.hold_id)
            if over:
                await asyncio.to_thread(self._records.forget, record.hold_id)
            elif job is not None:
                await self._queue(record.cluster).tell_to_end(job)
        return await self._find_labelled(leaving)

    def adopt(self, running: RunningSession) -> None:
        """Take the session up from its file, credential included."""
        self.hold_id, self._status = running.hold_id, None
        self._record = self._records.read(running.hold_id) or self._record
        if self._record is not None:
            self.set_trait("api_token", self._record.api_token or self.api_token)
            if self._record.port:
                self._listens.set()

    async def poll(self) -> int | None:
        """None while the job waits, runs or cannot be judged; its exit status once Slurm says that it is over."""
        record = self._record
        if self._starting:
            return None
        if record is None:  # nothing is submitted without a file
            return self._status if self._status is not None else 0
        try:
            job = await self._look(record, calm=True)
            if job is None:
                return await self._end(1) if self._settled(record) else None
            return await self._end(exit_status(job)) if phase(job.states) is Phase.ENDED else None
        except (BackendUnreachable, OSError) as error:
            self.log.warning("Session %s of %s cannot be judged: %s", self.hold_id, self._log_name, error)
            return None

    async def stop(self, now: bool = False) -> None:
        """Cancel the job and see it end; pending ones cost nothing. Slurm's KillWait is the time between SIGTERM and SIGKILL."""
        if self._record is None:
            return
        self._starting, told = False, self._record
        await self._update(cancelled=True)
        queue = self._queue(self._record.cluster)
        give_up = time.monotonic() + queue.table.stop_wait
        tell_at = 0.0
        while await self.poll() is None and self._record is not None:
            if time.monotonic() >= tell_at:
                tell_at = time.monotonic() + (_TELL_AGAIN_S if await self._tell_to_end(self._record) else 1.0)
            if time.monotonic() >= give_up:
                self._end_credential(told)  # the hub forgets it with this stop, and nobody takes the session up again
                raise StopUnconfirmedError(
                    f"session {self.hold_id} was told to stop, and Slurm does not say that it ended"
                )
            queue.look_again()
            await asyncio.sleep(0.3)

    async def set_deadline(self, deadline_ms: int) -> None:
        """Raise Slurm's limit first, then the watchdog's deadline, which the session asks for; an earlier end is the watchdog's."""
        record = self._record
        if record is None:
            raise DeadlineRefused(say(self.language, "job.over"))
        job = await self._look(record)
        if job is None or job.ended or phase(job.states) is Phase.ENDING:
            raise DeadlineRefused(say(self.language, "job.over"))
        if phase(job.states) is not Phase.RUNNING or job.started_at_s is None or job.time_limit_min is None:
            raise DeadlineRefused(say(self.language, "job.not_begun"))
        queue = self._queue(record.cluster)
        own_ms = deadline_ms - 1000 * _suspended_s(job)
        minutes = job_spec.time_limit_min(-(-own_ms // 1000) - job.started_at_s, queue.table.limit_margin)
        try:
            if minutes > job.time_limit_min:
                await queue.set_limit(job, minutes)
        except (ActionRefused, JobUnknown) as error:
            raise DeadlineRefused(say(self.language, "job.limit_refused", why=error)) from error
        except SlurmUnreachable as error:
            raise BackendUnreachable(str(error)) from error
        await self._update(deadline_ms=own_ms)

    def get_state(self) -> dict[str, Any]:
        """The hold's id, and what its file says: the hub's database is its second place."""
        state: dict[str, Any] = super().get_state()
        return state if self._record is None else {**state, "hold_id": self.hold_id, "record": asdict(self._record)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the session that the hub remembers; its file counts where there is one."""
        super().load_state(state)
        hold_id, saved = state.get("hold_id"), state.get("record")
        if isinstance(hold_id, str) and records.is_hold_id(hold_id):
            self._record = record_from(saved) if isinstance(saved, dict) else None
            self.adopt(RunningSession(hold_id, ""))

    def clear_state(self) -> None:
        """Forget the session in memory; its file stays until its end was seen."""
        super().clear_state()
        self._record = self._status = None
        self._listens.clear()
        self.hold_id = ""

    # -- what the job itself tells and asks (spawners.callback) ---------------------------------------------------------------

    async def take_port(self, port: int) -> bool:
        """The session listens on `port`; False where this is known already, or nothing is waited for."""
        record = self._record
        if record is None or record.port or record.cancelled:
            return False
        await self._update(port=port)
        self._queue(record.cluster).look_again()
        self._listens.set()
        return True

    async def deadline_for_job(self) -> int:
        """The end that the job's watchdog has to keep, UTC ms; 0: the runtime from its own start."""
        record = self._record
        if record is None:
            return 0
        try:
            job = await self._look(record)
        except BackendUnreachable:
            return record.deadline_ms
        suspended_ms = 0 if job is None else 1000 * _suspended_s(job)
        if job is None or not suspended_ms or job.started_at_s is None:
            return record.deadline_ms
        return (record.deadline_ms or 1000 * (job.started_at_s + record.runtime_s)) + suspended_ms

    # -- small things ---------------------------------------------------------------------------------------------------------

    async def _look(self, record: JobRecord, *, calm: bool = False) -> Job | None:
        """The record's job; None where Slurm positively has none. Raises BackendUnreachable."""
        queue = self._queue(record.cluster)
        try:
            if record.job_id:
                job = await queue.job(record.job_id, calm=calm)
                return None if is_anothers(job, record.hold_id, record.account) else job
            found = await queue.find(record.hold_id, record.account)
            if found is not None and self._record is not None and self._record.hold_id == record.hold_id:
                await self._update(job_id=found.job_id)
            return found
        except JobUnknown:
            return None
        except SlurmUnreachable as error:
            raise BackendUnreachable(str(error)) from error

    async def _find_labelled(self, leaving: Collection[str]) -> RunningSession | None:
        """A job of this session that only its label tells of: the portal's files were lost. What is `leaving` is told to end."""
        for profile in self.profiles:
            if profile.slurm is None:
                continue
            label = job_spec.job_label(self.user.name, self.name, profile.id)
            try:
                jobs = await self._queue(profile.slurm.cluster).labelled(label)
            except SlurmUnreachable as error:
                raise BackendUnreachable(str(error)) from error
            for job in jobs:
                if not job.ended and job.name not in leaving:
                    await self._keep(self._record_of(job, profile))
                    return RunningSession(job.name, profile.id)
        return None

    def _record_of(self, job: Job, profile: Profile) -> JobRecord:
        assert profile.slurm is not None
        return JobRecord(
            hold_id=job.name, user=self.user.name, server_name=self.name, profile=profile.id, cluster=profile.slurm.cluster,
            login=job.user, account=job.account, runtime_s=60 * (job.time_limit_min or 0), gpus=profile.gpus,
            submitted_at_ms=1000 * (job.submitted_at_s or 0), api_token="", job_id=job.job_id,
        )  # fmt: skip

    async def _tell_to_end(self, record: JobRecord) -> bool:
        """Tell Slurm to end the job; False where it could not be told (yet)."""
        try:
            job = await self._look(record)
            if job is None:
                return False
            await self._queue(record.cluster).tell_to_end(job)
        except (SlurmUnreachable, BackendUnreachable, ActionRefused, JobUnknown) as error:
            self.log.warning("Session %s of %s cannot be told to end: %s", record.hold_id, self._log_name, error)
            return False
        return True

    def _end_credential(self, record: JobRecord) -> None:
        if self.end_credential is not None:
            self.end_credential(record.api_token)

    def _queue(self, cluster: str) -> JobQueue:
        queue: JobQueue = self.queue_of(cluster)
        return queue

    @property
    def _records(self) -> JobRecords:
        return JobRecords(Path(self.data_folder))

    async def _keep(self, record: JobRecord) -> None:
        """Take a record as this session's own, on disk before this returns."""
        self._record = record
        await self._update()

    async def _update(self, **changes: Any) -> None:
        """Change the record, in memory at once and on disk before this returns; the newest content wins."""
        if self._record is not None and changes:
            self._record = replace(self._record, **changes)
        async with self._writing:
            record = self._record
            if record is not None:
                await asyncio.to_thread(self._records.write, record)
        if self.keep_state is not None:
            await self.keep_state()

    async def _drop(self) -> None:
        """Forget the session: nothing of it is left anywhere."""
        record, self._record = self._record, None
        async with self._writing:
            if record is not None:
                await asyncio.to_thread(self._records.forget, record.hold_id)

    async def _end(self, status: int) -> int:
        """Keep that the session is over, with the reason of whoever stopped it."""
        self._status = status
        record, self._record = self._record, None
        async with self._writing:
            if record is not None:
                reason = self.stop_order.reason if record.cancelled else "exited"
                await asyncio.to_thread(self._records.end, record, reason, status)
        return status

    def _settled(self, record: JobRecord) -> bool:
        """Whether a submit without an answer can no longer be carried out."""
        return time.time() - record.submitted_at_ms / 1000 > SETTLE_S


def _suspended_s(job: Job) -> int:
    """Seconds by which Slurm moved a running job's end because it was suspended."""
    if job.ended or job.started_at_s is None or job.ends_at_s is None or job.time_limit_min is None:
        return 0
    return max(0, job.ends_at_s - job.started_at_s - 60 * job.time_limit_min)
