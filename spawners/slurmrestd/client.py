"""SlurmClient: submits once, believes an end only from Slurm, and reads accounting. Synchronous: call it in threads.

Invariants: a submit looks for the job by its unique name first and after every unclear answer, and is never repeated blindly;
a job that came with errors or warnings is cancelled; "unknown" takes slurmctld and slurmdbd. Thread-safe.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from spawners.slurmrestd import reading
from spawners.slurmrestd.dialect import Dialect, discover
from spawners.slurmrestd.errors import JobUnknown, OutcomeUnknown, SlurmUnreachable, SubmitRefused
from spawners.slurmrestd.model import Job, JobRequest, JobRun, JobState, Node, SubmitOrder, is_of
from spawners.slurmrestd.wire import JOB_UNKNOWN, Answer, Http, Params, Reader, Signer

log = logging.getLogger("commons.slurm")
GET_ATTEMPTS: Final = 2
_FAST_S: Final = 2.0
CANCEL_CONFIRM_S: Final = 20.0
_CONFIRM_EVERY_S: Final = 0.3
_BEFORE_ALL_JOBS: Final = "uts1000000000"  # 2001; Slurm reads no instant of fewer digits
_IDS_A_CALL: Final = 200  # keeps the URL short
# With one of these slurmctld has taken the job, which waits (job_allocate of 22.05): busy, licences, a limit, a reservation, nodes that
# are down or have not reported since slurmctld began, a partition, a threshold, a burst buffer. The job's own state says so from then on.
_TAKEN_AND_WAITS: Final = frozenset({2016, 2040, 2050, 2055, 2056, 2068, 2070, 2074, 2100, 2101})


class SlurmClient:
    """One cluster, seen from the hub or the quota service."""

    def __init__(self, http: Http, reader: Reader, signer: Signer) -> None:
        """`http` submits with the owner's permit; `reader` and `signer` are usually one `spawners.signer.SignerClient`."""
        self._http = http
        self._reader = reader
        self._signer = signer
        self._dialect: Dialect | None = None
        self._lock = threading.Lock()

    def dialect(self) -> Dialect:
        """The version in use, found once. Raises SlurmUnreachable."""
        with self._lock:
            if self._dialect is None:
                self._dialect = discover(self._reader)
            return self._dialect

    def submit(self, request: JobRequest, hold_id: str, login: str) -> int:
        """Submit `request` as `login`, unless a job of its name exists: then that one's id. Idempotent by the name.

        Raises SubmitRefused (no job exists), OutcomeUnknown (look again with `find`), SlurmUnreachable (nothing was sent).
        """
        existing = self.find(request.name, request.account)
        if existing is not None:
            return existing.job_id
        permit = self._signer.submit_as(SubmitOrder.of(request, hold_id, login))
        dialect = self.dialect()
        body = dialect.submit_body(request, permit.comment(request.label))
        try:
            answer = self._http.call("POST", dialect.submit, permit.credential, body=body)
            number = answer.number()
        except SlurmUnreachable as error:
            return self._found_after(request, error)
        return self._judge_submit(request, answer, number)

    def find(self, name: str, account: str) -> Job | None:
        """The newest job of this name on this account, alive or long over; None where slurmctld and slurmdbd both have none.

        What never started and left slurmctld's memory is not found by its name; its ticket stays used.
        Raises SlurmUnreachable where either cannot be asked.
        """
        alive = [job for job in self.jobs() if is_of(job, name, account)]
        if alive:
            return max(alive, key=lambda job: job.job_id)
        runs = [run for run in self.runs_of(name=name) if is_of(run, name, account)]
        return reading.job_of(runs[-1]) if runs else None

    def job(self, job_id: int) -> Job:
        """One job, from slurmctld or, where it left slurmctld's memory, from slurmdbd.

        Raises JobUnknown only where both answered that there is none.
        """
        answer = self._get(self.dialect().job(job_id))
        number = answer.number()
        if number == 0:
            found = [job for job in reading.jobs(answer) if job.job_id == job_id]
            if found:
                return found[0]
        elif number != JOB_UNKNOWN:
            raise SlurmUnreachable(f"job {job_id}: {answer.reason()}")
        runs = self.runs([job_id])
        if not runs:
            raise JobUnknown(f"neither slurmctld nor slurmdbd has a job {job_id}")
        job = reading.job_of(runs[-1])
        if JobState.REQUEUED in job.states and job.ends_at_s is not None:
            # It was to run again and slurmctld has dropped it: a job that is cancelled right after its requeue gets no further row.
            return replace(job, states=frozenset({JobState.CANCELLED}))
        if not job.ended:  # lost to slurmctld and not over for slurmdbd: no end that can be believed
            raise SlurmUnreachable(f"job {job_id}: slurmctld does not show it and slurmdbd has no end of it")
        return job

    def jobs(self) -> list[Job]:
        """Every job that slurmctld has in memory, whoever's it is: one call, however many sessions."""
        answer = self._get(self.dialect().jobs)
        if answer.number():
            raise SlurmUnreachable(answer.reason())
        return reading.jobs(answer)

    def nodes(self) -> list[Node]:
        """Every node with its GPUs. Raises SlurmUnreachable."""
        answer = self._get(self.dialect().nodes)
        if answer.number():
            raise SlurmUnreachable(answer.reason())
        return reading.nodes(answer)

    def runs(self, job_ids: Sequence[int]) -> list[JobRun]:
        """Every row of slurmdbd of these jobs, all runs of requeued ones included, oldest first.

        A job that is not in the answer is not known to slurmdbd (yet). Raises SlurmUnreachable where it gave no answer.
        """
        dialect, found = self.dialect(), []
        for begin in range(0, len(job_ids), _IDS_A_CALL):
            some = job_ids[begin : begin + _IDS_A_CALL]
            found += self._runs(dialect.job_ids(some))  # with a window, slurmdbd would leave out what never started
        wanted = frozenset(job_ids)
        return sorted((run for run in found if run.job_id in wanted), key=lambda run: run.key)

    def runs_of(self, *, accounts: Sequence[str] = (), name: str = "", since_s: int = 0) -> list[JobRun]:
        """Runs of accounts or of one name that used something since an instant, one a job: `runs` has their repetitions.

        slurmdbd leaves out of such a list what never started. Raises SlurmUnreachable.
        """
        params = [("start_time", f"uts{since_s}" if since_s else _BEFORE_ALL_JOBS)]
        params += [("job_name", name)] if name else []
        params += [("account", ",".join(accounts))] if accounts else []
        return self._runs(params)

    def _runs(self, params: Params) -> list[JobRun]:
        answer = self._get(self.dialect().accounted, params)
        if answer.number():
            raise SlurmUnreachable(answer.reason())
        return reading.runs(answer)

    def cancel(self, job_id: int, *, within_s: float = CANCEL_CONFIRM_S) -> Job | None:
        """Cancel a job and see it end: the ended job, None where Slurm has no such job.

        Raises OutcomeUnknown where its end was not seen in time, SlurmUnreachable, ActionRefused.
        """
        give_up = time.monotonic() + within_s
        try:
            self._signer.cancel(job_id)
            while True:  # bounded by the deadline
                job = self.job(job_id)
                if job.ended:
                    return job
                if time.monotonic() >= give_up:
                    raise OutcomeUnknown(f"job {job_id} was cancelled and is still {_words(job)}", job.name)
                time.sleep(_CONFIRM_EVERY_S)
        except JobUnknown:
            return None

    def extend(self, job_id: int, time_limit_min: int) -> None:
        """Raise the job's time limit to `time_limit_min`, counted from its start; a lower one changes nothing.

        Raises ActionRefused, JobUnknown, SlurmUnreachable.
        """
        self._signer.extend(job_id, time_limit_min)

    def node_address(self, name: str) -> str:
        """The address at which Slurm itself reaches a node (NodeAddr)."""
        answer = self._get(self.dialect().node(name))
        nodes = (answer.body or {}).get("nodes")
        if answer.number() or not isinstance(nodes, list) or not nodes or not isinstance(nodes[0], dict):
            raise SlurmUnreachable(f"node {name}: {answer.reason()}")
        return reading.text(nodes[0], "address") or name

    def _get(self, path: str, params: Params = ()) -> Answer:
        """Read, once more where it failed fast: reading changes nothing, and a slow outage is not asked to be slow again."""
        began = time.monotonic()
        for attempt in range(1, GET_ATTEMPTS + 1):
            try:
                answer = self._reader.get(path, params)
                answer.number()
            except SlurmUnreachable:
                if attempt == GET_ATTEMPTS or time.monotonic() - began > _FAST_S:
                    raise
            else:
                return answer
        raise AssertionError("unreachable")

    def _judge_submit(self, request: JobRequest, answer: Answer, number: int) -> int:
        job_id = reading.number((answer.body or {}).get("job_id")) or 0
        errors = [one for one in answer.errors if not (job_id and one[0] in _TAKEN_AND_WAITS)]
        problems = [text for _, text in errors] + answer.warnings
        if job_id and not problems:
            return job_id
        if job_id:
            log.warning(
                "job %d of %s came with problems and is cancelled: %s", job_id, request.name, "; ".join(problems)
            )
            self.cancel(job_id)
        else:  # some bad values get a 200 without a job, and who is heard only the second time is told that the ticket was used
            found = self._look_after(request, answer.reason())
            if found is not None and not (problems and found.ended):
                return found.job_id
        raise SubmitRefused("; ".join(problems) or "Slurm accepted the request and made no job", number)

    def _found_after(self, request: JobRequest, error: SlurmUnreachable) -> int:
        """The job of an unclear submit; raises OutcomeUnknown where it is not to be seen (yet)."""
        found = self._look_after(request, str(error))
        if found is None:
            raise OutcomeUnknown(f"{request.name}: {error}", request.name) from error
        return found.job_id

    def _look_after(self, request: JobRequest, why: str) -> Job | None:
        """The job of a submit that went out; raises OutcomeUnknown where that cannot be seen: something may have been done."""
        try:
            return self.find(request.name, request.account)
        except SlurmUnreachable as error:
            raise OutcomeUnknown(f"{request.name}: {why}; {error}", request.name) from error


def _words(job: Job) -> str:
    return "+".join(sorted(job.states))
