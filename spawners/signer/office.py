"""The signer's verbs. Each is checked here, whoever asks; each is audited before it is carried out.

Invariants: a submit is for one of the portal's people, on one of the portal's accounts, no longer than the site allows, once a hold;
cancel and extend touch the portal's accounts only; an extension never passes `longest_limit`, though an operator passes MaxTime.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from typing import Final

from spawners.peers import Peer
from spawners.signer.audit import Audit
from spawners.signer.settings import SignerSettings, Verb
from spawners.signer.tickets import BadOrder, Tickets
from spawners.signer.tokens import Mint, NotOurs
from spawners.slurmrestd import reading
from spawners.slurmrestd.dialect import Dialect, discover
from spawners.slurmrestd.errors import ActionRefused, JobUnknown, OutcomeUnknown, SlurmUnreachable, SubmitRefused
from spawners.slurmrestd.model import Job, SubmitOrder
from spawners.slurmrestd.wire import JOB_UNKNOWN, Answer, Http, Params, Permit

log = logging.getLogger("commons.signer")
READABLE: Final = re.compile(
    r"/slurm/v0\.0\.[0-9]{2}/(ping/?|jobs/?|job/[0-9]{1,10}|nodes/?|node/[A-Za-z0-9_.-]{1,80})"
    r"|/slurmdb/v0\.0\.[0-9]{2}/(jobs/?|job/[0-9]{1,10})"
)
_SWEEP_EVERY: Final = 256
NOBODY: Final[Peer] = (0, -1)


class Office:
    """Performs the verbs; also a Signer and a Reader for who lives in the same process (tests)."""

    def __init__(self, settings: SignerSettings, mint: Mint, tickets: Tickets, audit: Audit, http: Http) -> None:
        self._settings = settings
        self._mint = mint
        self._tickets = tickets
        self._audit = audit
        self._http = http
        self._dialect: Dialect | None = None
        self._given = 0
        self._lock = threading.Lock()

    def submit_as(self, order: SubmitOrder, peer: Peer = NOBODY) -> Permit:
        """Give `order.login`'s token and the ticket for this one job. Raises SubmitRefused."""
        try:
            uid = self._mint.uid_of(order.login)
            self._check(order)
            if self._tickets.used(order.hold_id):
                raise SubmitRefused("this hold had its job")
        except (NotOurs, SubmitRefused) as error:
            self._audit.write(peer, Verb.SUBMIT_AS, outcome="refused", login=order.login, hold=order.hold_id)
            raise SubmitRefused(str(error)) from None
        self._audit.write(
            peer, Verb.SUBMIT_AS, outcome="minted", login=order.login, uid=uid, hold=order.hold_id, job=order.name,
            account=order.account, minutes=order.time_limit_min, gres=order.gres, life_s=self._settings.token_life,
        )  # fmt: skip
        self._sweep_now_and_then()
        expires_s = int(time.time()) + self._settings.token_life
        try:
            ticket = self._tickets.write(order, uid, expires_s)
        except BadOrder as error:
            raise SubmitRefused(str(error)) from None
        return Permit(self._mint.person(order.login), ticket)

    def cancel(self, job_id: int, peer: Peer = NOBODY) -> None:
        """Cancel a job of the portal's accounts; that it ended is for the caller to see.

        Raises ActionRefused, JobUnknown, SlurmUnreachable.
        """
        job = self._ours(job_id, Verb.CANCEL, peer)
        if job.ended:
            return
        self._audit.write(peer, Verb.CANCEL, outcome="done", job_id=job_id, login=job.user, account=job.account)
        answer = self._call("DELETE", self.dialect().job(job_id))
        if answer.body is not None or answer.status >= 400:
            number = answer.number()
            if number == JOB_UNKNOWN:
                raise JobUnknown(f"no job {job_id}")
            if number:
                raise ActionRefused(answer.reason(), number)

    def extend(self, job_id: int, time_limit_min: int, peer: Peer = NOBODY) -> None:
        """Raise the time limit of a job of the portal's accounts, within `longest_limit`; a lower one changes nothing.

        Raises ActionRefused, JobUnknown, OutcomeUnknown, SlurmUnreachable.
        """
        longest_min = self._settings.longest_limit // 60
        if not 0 < time_limit_min <= longest_min:
            self._audit.write(peer, Verb.EXTEND, outcome="refused", job_id=job_id, minutes=time_limit_min)
            raise ActionRefused(f"a job may not run for more than {longest_min} minutes here")
        job = self._ours(job_id, Verb.EXTEND, peer)
        if job.ended or not job.hold_id:
            self._audit.write(peer, Verb.EXTEND, outcome="refused", job_id=job_id, minutes=time_limit_min)
            raise ActionRefused("only a session that has not ended can be extended")
        if job.time_limit_min is not None and job.time_limit_min >= time_limit_min:
            return
        self._audit.write(peer, Verb.EXTEND, outcome="done", job_id=job_id, minutes=time_limit_min, hold=job.hold_id)
        dialect = self.dialect()
        answer = self._call("POST", dialect.job(job_id), body=dialect.extend_body(time_limit_min))
        number = answer.number()
        if number:
            raise ActionRefused(answer.reason(), number)
        if self._job(job_id).time_limit_min != time_limit_min:  # a 200 proves nothing
            raise OutcomeUnknown(f"job {job_id} does not show its new time limit", job.name)

    def get(self, path: str, params: Params = (), peer: Peer = NOBODY) -> Answer:
        """Read one of a fixed list of paths under the operator's identity. Raises SlurmUnreachable."""
        if not READABLE.fullmatch(path):
            self._audit.write(peer, Verb.READ, outcome="refused", path=path[:200])
            raise ActionRefused("this path is not for reading")
        return self._http.call("GET", path, self._mint.operator(), params=params)

    def dialect(self) -> Dialect:
        """The version in use, found once."""
        with self._lock:
            if self._dialect is None:
                self._dialect = discover(self)
            return self._dialect

    def _check(self, order: SubmitOrder) -> None:
        if not order.account.startswith(self._settings.account_prefix):
            raise SubmitRefused("this account is not the portal's")
        if not 0 < order.time_limit_min <= self._settings.longest_limit // 60:
            raise SubmitRefused("this time limit is longer than the site allows")

    def _ours(self, job_id: int, verb: Verb, peer: Peer) -> Job:
        """The job, if its account is the portal's."""
        job = self._job(job_id)
        if not job.account.startswith(self._settings.account_prefix):
            self._audit.write(peer, verb, outcome="refused", job_id=job_id, account=job.account)
            raise ActionRefused("this job's account is not the portal's")
        return job

    def _job(self, job_id: int) -> Job:
        answer = self.get(self.dialect().job(job_id))
        number = answer.number()
        if number == JOB_UNKNOWN:
            raise JobUnknown(f"slurmctld has no job {job_id}")
        found = [] if number else [job for job in reading.jobs(answer) if job.job_id == job_id]
        if not found:
            raise SlurmUnreachable(f"job {job_id}: {answer.reason()}")
        return found[0]

    def _call(self, method: str, path: str, body: dict[str, object] | None = None) -> Answer:
        return self._http.call(method, path, self._mint.operator(), body=body)

    def _sweep_now_and_then(self) -> None:
        with self._lock:
            self._given += 1
            due = self._given % _SWEEP_EVERY == 1
        if due:
            self._tickets.sweep()
