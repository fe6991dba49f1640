"""Jobs as the portal reads them, the same for every version of Slurm's REST interface.

Instants are UTC seconds since the epoch, as Slurm keeps them; None where Slurm does not know one (0, 4294967294, not `set`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """Slurm's words for a job's state, base states and flags alike (scontrol(1), squeue(1) JOB STATE CODES)."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    RESIZING = "RESIZING"
    SIGNALING = "SIGNALING"
    STAGE_OUT = "STAGE_OUT"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    POWER_UP_NODE = "POWER_UP_NODE"
    COMPLETING = "COMPLETING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    REVOKED = "REVOKED"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    RECONFIG_FAIL = "RECONFIG_FAIL"
    UNDEFINED = "UNDEFINED"  # what no version known here says: never an end

    @classmethod
    def read(cls, word: object) -> JobState:
        """The state that a word of Slurm names; UNDEFINED for one that is not known here."""
        try:
            return cls(str(word).split(" ")[0].upper())  # sacct writes "CANCELLED by 30001"
        except ValueError:
            return cls.UNDEFINED


ENDED_STATES: Final = frozenset(
    {
        JobState.COMPLETED, JobState.CANCELLED, JobState.FAILED, JobState.TIMEOUT, JobState.NODE_FAIL, JobState.PREEMPTED,
        JobState.BOOT_FAIL, JobState.DEADLINE, JobState.OUT_OF_MEMORY, JobState.REVOKED,
    }
)  # fmt: skip
# Beside these a base state of ENDED_STATES is no end: processes still run, or the job is to run again.
_NOT_YET: Final = frozenset(
    {
        JobState.COMPLETING, JobState.REQUEUED, JobState.REQUEUE_HOLD, JobState.REQUEUE_FED, JobState.SPECIAL_EXIT,
        JobState.UNDEFINED,
    }
)  # fmt: skip


# A job that waits for one of these waits for ever (squeue(1) JOB REASON CODES); EnforcePartLimits=ALL refuses it at once.
_NEVER_STARTS: Final = frozenset(
    {"PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "AccountNotAllowed", "QOSNotAllowed"}
)


def is_end(states: frozenset[JobState]) -> bool:
    """Whether these states together say that the job is over and will not run again."""
    return bool(states & ENDED_STATES) and not states & _NOT_YET


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a job's script ended: its exit status, or the signal that ended it."""

    code: int = 0
    signal: int = 0


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One batch job on one node. `name` is unique for ever (it carries the hold's id) and is what the job is found by."""

    name: str
    script: str
    account: str
    partition: str
    time_limit_min: int
    working_directory: str
    environment: Mapping[str, str] = field(repr=False)  # at least one variable: Slurm refuses an empty one
    gpus: int = 0
    gpu_type: str = ""  # Slurm's GRES type such as h100; empty: any
    cpus: int = 1
    memory_mib: int = 1024
    qos: str = ""  # empty: the association's own
    standard_output: str = "/dev/null"
    label: str = ""  # kept as the job's comment, without blanks; what adoption reads

    @property
    def gres(self) -> str:
        """The GPUs as Slurm's GRES, such as `gpu:h100:2`; empty for none."""
        if self.gpus == 0:
            return ""
        return ":".join(part for part in ("gpu", self.gpu_type, str(self.gpus)) if part)


@dataclass(frozen=True, slots=True)
class SubmitOrder:
    """What the signer is asked to let `login` submit: exactly one job, with exactly these terms."""

    hold_id: str
    login: str
    name: str
    account: str
    partition: str
    time_limit_min: int
    gres: str
    qos: str = ""

    @classmethod
    def of(cls, request: JobRequest, hold_id: str, login: str) -> SubmitOrder:
        """The terms of `request`."""
        return cls(
            hold_id=hold_id,
            login=login,
            name=request.name,
            account=request.account,
            partition=request.partition,
            time_limit_min=request.time_limit_min,
            gres=request.gres,
            qos=request.qos,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A job as slurmctld has it, or, where it left slurmctld's memory, as slurmdbd remembers it (`from_accounting`)."""

    job_id: int
    name: str
    user: str
    account: str
    partition: str
    states: frozenset[JobState]
    reason: str  # Slurm's own word, such as Priority or AssocGrpGRESMinutes; empty for none
    submitted_at_s: int | None
    started_at_s: int | None  # of a pending job: when Slurm expects to start it
    ends_at_s: int | None  # of a running job: its time limit; of an ended one: its end
    time_limit_min: int | None
    nodes: str  # Slurm's node list, such as gpu[1-2]
    batch_host: str  # node name on which the script runs; empty while it is pending
    gpus: int  # allocated; 0 while it is pending
    exit: ExitStatus
    label: str  # the comment without its ticket
    hold_id: str  # from the administrators' comment, which users cannot change; empty for jobs without a ticket
    restarts: int = 0
    priority: int = 0
    from_accounting: bool = False

    @property
    def ended(self) -> bool:
        """Whether the job is over for good."""
        return is_end(self.states)

    @property
    def never_starts(self) -> bool:
        """Whether it waits for something that will not come: cancel it and tell its owner `reason`."""
        return JobState.PENDING in self.states and self.reason in _NEVER_STARTS

    @property
    def running(self) -> bool:
        """Whether its processes run now and may: neither suspended nor on their way out."""
        return self.states == {JobState.RUNNING}


@dataclass(frozen=True, slots=True)
class JobRun:
    """One row of slurmdbd: one run of a job. A requeue makes a further row: (cluster, job_id, submitted_at_s) is its key.

    Bill `gpus` × `elapsed_s`: suspended time is not in it. Never end − start.
    """

    cluster: str
    job_id: int
    submitted_at_s: int
    name: str
    user: str
    account: str
    partition: str
    states: frozenset[JobState]
    started_at_s: int | None
    ended_at_s: int | None
    elapsed_s: int
    suspended_s: int
    gpus: int
    exit: ExitStatus
    hold_id: str
    label: str = ""
    nodes: str = ""

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells the runs of a job apart."""
        return (self.cluster, self.job_id, self.submitted_at_s)

    @property
    def ran(self) -> bool:
        """Whether it had a node: what is cancelled while it waits has a start, an end and no node."""
        return self.started_at_s is not None and bool(self.nodes)

    @property
    def gpu_s(self) -> int:
        """GPU-seconds that this run used so far."""
        return self.gpus * self.elapsed_s


@dataclass(frozen=True, slots=True)
class Node:
    """A node as slurmctld has it: its GPUs and those that jobs have, by GRES type."""

    name: str
    partitions: frozenset[str]
    takes_jobs: bool  # neither down nor drained, failed, reserved nor silent
    gpus: Mapping[str, int]
    allocated: Mapping[str, int]

    def free(self, gpu_type: str) -> int:
        """How many GPUs of a type a job could get now; "": of any."""
        return _of_type(self.gpus, gpu_type) - _of_type(self.allocated, gpu_type) if self.takes_jobs else 0

    def total(self, gpu_type: str) -> int:
        """How many GPUs of a type it has; "": of any."""
        return _of_type(self.gpus, gpu_type)


def _of_type(gpus: Mapping[str, int], gpu_type: str) -> int:
    return gpus.get(gpu_type, 0) if gpu_type else sum(gpus.values())


_UNNAMED: Final = "allocation"  # slurmdbd's name of what was cancelled before slurmdbd heard of its start


def is_of(one: Job | JobRun, hold_id: str, account: str) -> bool:
    """Whether a job is a hold's: by the plugin's word, which its owner cannot change, else by its name on the project's account.

    Anybody may give a job of their own any name, and a slurmctld that lost its state gives numbers a second time.
    """
    if one.hold_id:
        return one.hold_id == hold_id
    return one.name == hold_id and one.account in (account, "")  # an answer without an account proves nothing


def is_anothers(one: Job | JobRun, hold_id: str, account: str) -> bool:
    """Whether what Slurm has under a hold's number is positively somebody else's job."""
    return not is_of(one, hold_id, account) and (bool(one.hold_id) or one.name not in ("", _UNNAMED))
