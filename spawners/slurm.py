"""Sessions as Slurm jobs: how one is started, whichever way jobs reach the cluster, and the way through slurmrestd.

Invariants: a session is on disk before its job can exist, so that a hub that is killed at any step submits nothing twice; a start
that fails leaves no job; a session counts as started only when Slurm says that it has its GPUs and its own process listens.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from jupyterhub.spawner import Spawner
from jupyterhub.utils import url_path_join
from traitlets import default

from spawners import job_spec
from spawners.delegate import BackendUnreachable
from spawners.job_records import JobRecord
from spawners.job_spec import Owner, SessionStart, SpecError
from spawners.job_state import Phase, Waiting, ending, exit_status, phase, waiting
from spawners.phrases import instant, say
from spawners.session_traits import HOLD_VARIABLE, refused
from spawners.slurm_session import JobSession
from spawners.slurmrestd import Job, JobUnknown, OutcomeUnknown, SlurmUnreachable, SubmitRefused

_OWN_SECRETS: Final = frozenset({"CONFIGPROXY_AUTH_TOKEN", "JUPYTERHUB_CRYPT_KEY", "JUPYTERHUB_COOKIE_SECRET"})


class SlurmSession(JobSession, Spawner):
    """One session of one (user, server name), started as a job."""

    @default("env_keep")
    def _env_keep_default(self) -> list[str]:
        return ["LANG", "LC_ALL", "TZ"]

    async def start(self) -> tuple[str, int]:
        """Adopt, else submit; returns where the session listens, once it does. A job may wait for days before that."""
        self._starting = True
        try:
            running = await self.find_running()
            if running is not None:
                self.log.warning("Adopting session %s of %s", running.hold_id, self._log_name)
                self.adopt(running)
            else:
                await self._submit()
            return await self._until_it_listens()
        except (SlurmUnreachable, BackendUnreachable, OSError) as error:
            self.log.warning("Session %s of %s is not started: %s", self.hold_id, self._log_name, error)
            raise refused(
                say(self.language, "job.unreachable"), reason="backend_unreachable", status_code=503
            ) from None
        finally:
            self._starting = False

    async def get_url(self) -> str:
        """Where the session listens. A hub that starts while the job waits in the queue waits here for it."""
        record = self._record
        if record is not None and not (record.port and record.address):
            self._starting = True
            try:
                await self._until_it_listens()
            except Exception as error:  # an edge: at boot an exception here would end the hub's own start
                self.log.warning("Session %s of %s: %s", self.hold_id, self._log_name, error)
            finally:
                self._starting = False
            record = self._record
        if record is None or not record.port or self.server is None:
            return str(await super().get_url())
        return f"http://{_host(record.address)}:{record.port}{self.server.base_url}"

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Slurm's reason in plain words, the place in the queue and the expected start, whenever they change."""
        yield {"progress": 30, "message": say(self.language, "job.asked")}
        last: object = None
        while not self._listens.is_set():
            event = await self._queue_event()
            if event is not None and event != last:
                yield event
                last = event
            await _either(self._listens, 2.0)

    # -- the steps of a start -------------------------------------------------------------------------------------------------

    async def _submit(self) -> None:
        if await asyncio.to_thread(self._records.end_reason, self.hold_id) is not None:
            raise refused(say(self.language, "hold_used"), reason="hold_used", status_code=409)
        profile = self._job_profile()
        cluster_name = profile.slurm.cluster
        queue = self._queue(cluster_name)
        # Many starts resume at once, and each takes some milliseconds of the event loop here.
        async with queue.turn:
            start = self._session_start(profile)
            try:
                request = job_spec.job_request(start, queue.table)
            except SpecError as error:
                self.log.error("Session %s of %s has no job: %s", self.hold_id, self._log_name, error)
                raise refused(say(self.language, "job.misconfigured"), reason="no_job", status_code=500) from None
        now_ms = time.time_ns() // 10**6
        await self._keep(JobRecord(
            hold_id=self.hold_id, user=self.user.name, server_name=self.name, profile=start.profile.id, cluster=cluster_name,
            login=start.owner.login, account=start.owner.account, runtime_s=start.runtime_s, gpus=start.profile.gpus,
            submitted_at_ms=now_ms, api_token=self.api_token, deadline_ms=start.deadline_ms,
        ))  # fmt: skip
        try:
            job_id = await queue.submit(request, self.hold_id, start.owner)
        except SubmitRefused as error:
            self.log.error(
                "Job %s of %s is refused by %s: %s (error %d)",
                self.hold_id, self._log_name, cluster_name, error, error.number,
            )  # fmt: skip
            await self._drop()
            raise self._not_taken(str(error)) from None
        except OutcomeUnknown as error:
            self.log.warning("Whether job %s exists is not known yet: %s", self.hold_id, error)
            return
        except SlurmUnreachable:
            await self._drop()  # nothing was sent
            raise
        self.log.info("Session %s of %s is job %s of %s", self.hold_id, self._log_name, job_id, cluster_name)
        await self._update(job_id=job_id)

    async def _until_it_listens(self) -> tuple[str, int]:
        """Follow the job until its session listens on the GPUs that were asked for; cancels what cannot become that."""
        running_since: float | None = None
        never_fits_since: float | None = None
        while True:  # bounded by longest_wait and start_deadline; an outage only makes it wait
            record = self._wanted()
            look_s = self._queue(record.cluster).table.look
            try:
                job = await self._look(record)
            except BackendUnreachable as error:
                self.log.warning("The job of session %s cannot be seen: %s", self.hold_id, error)
                never_fits_since = None
                await _either(self._listens, look_s)
                continue
            stage = Phase.PENDING if job is None else phase(job.states)
            if job is None:
                if self._settled(record):
                    await self._drop()
                    raise self._not_taken(say(self.language, "job.lost"))
            elif stage in (Phase.ENDED, Phase.ENDING):
                await self._end(exit_status(job))
                raise self._ended_early(ending(job))
            elif stage is Phase.RUNNING:
                running_since = running_since or time.monotonic()
                if await self._has_address(job, record) and self._wanted().port and self._listens.is_set():
                    return self._wanted().address, self._wanted().port
                await self._while_it_begins(running_since, record)
            else:
                never_fits = waiting(job.reason) is Waiting.NEVER_FITS
                never_fits_since = (never_fits_since or time.monotonic()) if never_fits else None
                await self._while_pending(never_fits_since, record)
            await _either(None if self._listens.is_set() else self._listens, min(look_s, 1.0))

    def _ended_early(self, how: str) -> Exception:
        text = say(self.language, "job.nothing_runs", why=say(self.language, f"job.end.{how}"))
        if how == "no_gpus":  # nobody pays for a start without its GPUs (quota.adapters.slurm_accounting)
            return refused(text, reason="device_missing", status_code=503)
        return refused(text, reason="job_ended", status_code=500)

    async def _while_pending(self, never_fits_since: float | None, record: JobRecord) -> None:
        """Give up what Slurm calls impossible look after look: it says so, too, while it starts, nodes are away or a QOS is changed."""
        table = self._queue(record.cluster).table
        if never_fits_since is not None and time.monotonic() - never_fits_since > table.never_fits_for:
            await self._give_up("job.never_fits", "never_fits")
        if time.time() - record.submitted_at_ms / 1000 > table.longest_wait:
            await self._give_up("job.waited_too_long", "waited_too_long")

    async def _while_it_begins(self, running_since: float, record: JobRecord) -> None:
        if time.monotonic() - running_since > self._queue(record.cluster).table.start_deadline:
            await self._give_up("job.no_answer", "no_answer")

    async def _has_address(self, job: Job, record: JobRecord) -> bool:
        """Whether the node's address is known, asked for once; gives up an allocation without the GPUs."""
        if job.gpus < record.gpus:
            await self._give_up("job.without_gpus", "device_missing")
        if not record.address and job.batch_host:
            try:
                address = await self._queue(record.cluster).node_address(job.batch_host)
            except SlurmUnreachable as error:
                self.log.warning("The address of node %s is not known yet: %s", job.batch_host, error)
                return False
            await self._update(address=address)
        return bool(self._wanted().address)

    async def _give_up(self, why: str, reason: str) -> None:
        """End the job and refuse; raises StopUnconfirmedError where its end cannot be seen: its file stays, the next look ends it."""
        await self.stop()
        text = say(self.language, "job.given_up", why=say(self.language, why))
        raise refused(text, reason=reason, status_code=500)

    def _not_taken(self, why: str) -> Exception:
        text = say(self.language, "job.not_taken", why=why[:300])
        return refused(text, reason="submit_refused", status_code=503)

    def _wanted(self) -> JobRecord:
        """The session's record; who waits for a session that was stopped meanwhile is cancelled."""
        if self._record is None or self._record.cancelled:
            raise asyncio.CancelledError
        return self._record

    async def _queue_event(self) -> dict[str, Any] | None:
        record = self._record
        if record is None or not record.job_id:
            return None
        try:
            queue = self._queue(record.cluster)
            job = await queue.job(record.job_id)
            if phase(job.states) is not Phase.PENDING:
                return {"progress": 60, "message": say(self.language, "job.begins")}
            place = await queue.place(job)
        except JobUnknown:
            return None
        except SlurmUnreachable:
            return {"progress": 30, "message": say(self.language, "job.waiting.unreachable")}
        message = say(self.language, f"job.waiting.{waiting(job.reason)}")
        if place.number:
            message += say(self.language, "job.place", place=place.number)
        if place.expected_at_s and place.expected_at_s > time.time():
            message += say(self.language, "job.starts_at", at=instant(place.expected_at_s * 1000))
        return {"progress": 30, "message": message}

    def _job_profile(self) -> Any:
        """The profile that the start names. Raises a refusal where it is none of a cluster, or nothing pays for it."""
        request = self.resource_request
        profile = None if request is None else self.profiles.get(request.profile)
        if not self.hold_id or profile is None or profile.slurm is None:
            raise refused(say(self.language, "no_hold"), reason="no_hold", status_code=500)
        return profile

    def _session_start(self, profile: Any) -> SessionStart:
        request = self.resource_request
        table = self._queue(profile.slurm.cluster).table
        self.ip, self.port = table.listen, 0
        self.set_trait("hub_connect_url", table.hub_url or None)
        if not self.default_url:
            self.set_trait("default_url", job_spec.opens_at(request.application))
        try:
            owner = Owner(self.login, table.account(request.project))
        except ValueError as error:
            raise self._not_taken(str(error)) from None
        environment = {**self.get_env(), **self.session_environment, HOLD_VARIABLE: self.hold_id}
        return SessionStart(
            hold_id=self.hold_id, owner=owner, profile=profile, runtime_s=request.runtime_s, deadline_ms=self.deadline_ms,
            callback_url=url_path_join(environment["JUPYTERHUB_API_URL"], "commons/"), arguments=tuple(self.get_args()),
            environment=environment, label=job_spec.job_label(self.user.name, self.name, profile.id),
        )  # fmt: skip

    def get_env(self) -> dict[str, str]:
        """What the hub gives a server, without anything of the hub's own."""
        environment: dict[str, str] = super().get_env()
        return {
            name: value
            for name, value in environment.items()
            if name not in _OWN_SECRETS and not name.startswith("COMMONS_")
        }


class SlurmRestSpawner(SlurmSession):
    """Sessions as jobs through slurmrestd and the signer (`spawners.job_queue.RestQueue`)."""


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


async def _either(event: asyncio.Event | None, seconds: float) -> None:
    """Until the event, or for so long."""
    if event is None:
        await asyncio.sleep(seconds)
        return
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
