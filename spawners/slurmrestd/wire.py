"""One HTTP call with its deadline, and which of its answers can be believed.

Invariants: every call ends in time; what is not JSON from slurmrestd, an error that stands for an outage, or silence is
SlurmUnreachable. Error numbers decide, never texts: v0.0.38 says "Unable to find JobId" while slurmctld is down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import requests

from spawners.slurmrestd.errors import OutcomeUnknown, SlurmUnreachable
from spawners.slurmrestd.model import SubmitOrder

Params = Sequence[tuple[str, str]]
JOB_UNKNOWN: Final = 2017  # ESLURM_INVALID_JOB_ID
NOTHING_FOUND: Final = 9003  # slurmdb's "nothing found" is no error
# What is said of a job has a number of slurmctld's own. All below is the way to it: SLURM_ERROR, 0 where it lost its reason, the errno
# of a system call ("Operation not permitted" of a dead slurmctld), messages and connections. So are protocol, credentials and slurmdbd.
_FIRST_WORD: Final = 1900
_OTHER_DAEMONS: Final = range(5000, 7100)
_STANDBY: Final = frozenset({2027, 2131})  # a backup slurmctld that has not taken over
_OF_THE_JOB: Final = "slurm_submit_batch_job()"  # 24.11 names the source of a warning
LARGEST_ANSWER_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. Reading takes up to 30 s where slurmctld is down: eight REST threads queue behind it."""

    connect_s: float = 3.0
    read_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Credential:
    """A token and whose it is."""

    login: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Permit:
    """What the signer gives for one submit: the owner's short-lived token and the one-time ticket."""

    credential: Credential
    ticket: str = field(repr=False)

    def comment(self, label: str) -> str:
        """The job's comment: its ticket for job_submit.lua, which leaves the label alone."""
        return f"cct:{self.ticket} {label}".rstrip()


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; `body` is a JSON object, None where it is anything else."""

    status: int
    body: Mapping[str, Any] | None = field(repr=False)

    @property
    def errors(self) -> list[tuple[int, str]]:
        """Slurm's errors as (number, text), without those that only say that nothing was found."""
        found = []
        for entry in _entries(self.body, "errors"):
            number = entry.get("error_number", entry.get("errno", entry.get("error_code", -1)))
            text = str(entry.get("error") or entry.get("description") or "no reason given")
            found.append((number if type(number) is int else -1, text))
        return [one for one in found if one[0] != NOTHING_FOUND]

    @property
    def warnings(self) -> list[str]:
        """What slurmrestd ignored, without the text after the colon, which may echo the environment.

        What slurmctld says of a job that it took comes as a warning, too: that is the reason for which the job waits.
        """
        return [
            str(entry.get("description") or entry.get("warning") or entry).partition(":")[0]
            for entry in _entries(self.body, "warnings")
            if entry.get("source") != _OF_THE_JOB
        ]

    def number(self) -> int:
        """The first error's number, 0 where there is none. Raises SlurmUnreachable for what stands for an outage."""
        if self.body is None:
            raise SlurmUnreachable(f"HTTP {self.status} without JSON")
        if self.status in (401, 502, 503, 504, 511):
            raise SlurmUnreachable(f"HTTP {self.status}")
        errors = self.errors
        for number, text in errors:
            if is_outage(number):
                raise SlurmUnreachable(f"error {number}: {text}")
        if not errors and self.status >= 400:
            raise SlurmUnreachable(f"HTTP {self.status} without an error number")
        return errors[0][0] if errors else 0

    def reason(self) -> str:
        """What Slurm says, for logs and refusals."""
        return "; ".join(text for _, text in self.errors) or f"HTTP {self.status}"


def is_outage(number: int) -> bool:
    """Whether an error says nothing about what was asked for. slurm_errno.h of 22.05 and 24.11."""
    return number < _FIRST_WORD or number in _OTHER_DAEMONS or number in _STANDBY


class Reader(Protocol):
    """Reads with an identity that sees every job."""

    def get(self, path: str, params: Params = ()) -> Answer:
        """GET `path` of slurmrestd. Raises SlurmUnreachable."""


class Signer(Protocol):
    """The three verbs of the signer, as spawners see them."""

    def submit_as(self, order: SubmitOrder) -> Permit:
        """Let `order.login` submit this one job. Raises SubmitRefused, SlurmUnreachable."""

    def cancel(self, job_id: int) -> None:
        """Cancel a job of the portal's accounts. Raises ActionRefused, JobUnknown, SlurmUnreachable."""

    def extend(self, job_id: int, time_limit_min: int) -> None:
        """Raise a job's time limit to `time_limit_min`. Raises ActionRefused, JobUnknown, SlurmUnreachable."""


class Http:
    """slurmrestd over HTTP; no connection is shared between threads, no proxy of the environment is used."""

    def __init__(self, url: str, deadlines: Deadlines = Deadlines()) -> None:
        self._url = url.rstrip("/")
        self._deadlines = deadlines

    def call(
        self,
        method: str,
        path: str,
        credential: Credential,
        *,
        params: Params = (),
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """One request. Raises SlurmUnreachable, OutcomeUnknown where something that changes may have been done."""
        headers = {"X-SLURM-USER-NAME": credential.login, "X-SLURM-USER-TOKEN": credential.token}
        deadlines = (self._deadlines.connect_s, self._deadlines.read_s)
        try:
            with requests.Session() as session:
                session.trust_env = False
                got = session.request(
                    method,
                    self._url + path,
                    params=list(params),
                    json=body,
                    headers=headers,
                    timeout=deadlines,
                    allow_redirects=False,
                )
        except requests.exceptions.ConnectTimeout as error:
            raise SlurmUnreachable("slurmrestd does not accept connections") from error
        except requests.exceptions.RequestException as error:
            kind = SlurmUnreachable if method == "GET" else OutcomeUnknown
            raise kind(f"no answer of slurmrestd: {type(error).__name__}") from None  # its text may hold the body
        return Answer(got.status_code, parsed(got.content))


def parsed(content: bytes) -> Mapping[str, Any] | None:
    """A JSON object, or None."""
    if len(content) > LARGEST_ANSWER_BYTES:
        return None
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _entries(body: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    entries = (body or {}).get(name)
    return (
        [one if isinstance(one, dict) else {"error": str(one)} for one in entries] if isinstance(entries, list) else []
    )
