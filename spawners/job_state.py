"""What Slurm's words about a job mean for a session: pending, running, ending or ended, and why. Pure; the words for people
are in `spawners.job_phrases`.

Both families of slurmrestd and the commands arrive here as the same `JobState`s (spawners.slurmrestd.model; `read_states`).
Source: squeue(1) "JOB STATE CODES" and "JOB REASON CODES" of Slurm 22.05 and 24.11.

Invariant: only a word on the list of ends is an end. A word that is not on any list says nothing, and nothing is UNREACHABLE:
the session and its hold stay.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from spawners.job_runner import EXIT_NO_GPU
from spawners.slurmrestd.model import Job, JobState, is_end


class Phase(StrEnum):
    """Where a job is in its life, as far as a session is concerned."""

    PENDING = "pending"  # nothing runs yet, nothing is charged; it may be waiting for a second run
    RUNNING = "running"  # has its allocation; suspended included
    ENDING = "ending"  # told to end; its processes may still be there
    ENDED = "ended"
    UNREACHABLE = "unreachable"  # nobody says

    @property
    def alive(self) -> bool:
        """Whether a session in this phase has to be taken for there."""
        return self is not Phase.ENDED


_WAITS: Final = frozenset({
    JobState.PENDING, JobState.CONFIGURING, JobState.REQUEUED, JobState.REQUEUE_FED, JobState.REQUEUE_HOLD,
    JobState.RESV_DEL_HOLD, JobState.SPECIAL_EXIT, JobState.POWER_UP_NODE,
})  # fmt: skip
_RUNS: Final = frozenset({
    JobState.RUNNING, JobState.SUSPENDED, JobState.STOPPED, JobState.RESIZING, JobState.SIGNALING,
})  # fmt: skip
_LEAVES: Final = frozenset({JobState.COMPLETING, JobState.STAGE_OUT})


def phase(states: Iterable[JobState]) -> Phase:
    """Read a job's states; flags outrank the base state, so that a job that goes back to the queue has not ended."""
    words = frozenset(states)
    if words & _WAITS:
        return Phase.PENDING
    if is_end(words):
        return Phase.ENDED
    if words & _LEAVES:
        return Phase.ENDING
    if words & _RUNS:
        return Phase.RUNNING
    return Phase.UNREACHABLE


def read_states(text: str) -> frozenset[JobState]:
    """The states as `squeue` and `sacct` print them: `RUNNING`, `CANCELLED by 1000`, `CANCELLED+`, `CANCELLED,COMPLETING`."""
    words = re.split(r"[,|]", text.strip())
    return frozenset(JobState.read(word.strip().rstrip("+")) for word in words)


class Waiting(StrEnum):
    """Why a job has not started yet: the phrase `job.waiting.<this>`."""

    RESOURCES = "resources"
    PRIORITY = "priority"
    STARTING = "starting"
    PROJECT_LIMIT = "project_limit"
    PERSON_LIMIT = "person_limit"
    NODES_DOWN = "nodes_down"
    PARTITION_DOWN = "partition_down"
    RESERVED = "reserved"
    HELD = "held"
    LATER = "later"
    LICENCES = "licences"
    NEVER_FITS = "never_fits"
    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"


# By the beginning of Slurm's word, the longest first: Slurm has a word of its own for each limit of each kind.
_REASONS: Final = tuple(sorted({
    "None": Waiting.STARTING, "Resources": Waiting.RESOURCES, "Priority": Waiting.PRIORITY, "Prolog": Waiting.STARTING,
    "Cleaning": Waiting.STARTING, "NodeDown": Waiting.NODES_DOWN, "ReqNodeNotAvail": Waiting.NODES_DOWN,
    "FrontEndDown": Waiting.NODES_DOWN, "BadConstraints": Waiting.NEVER_FITS, "PartitionNodeLimit": Waiting.NEVER_FITS,
    "PartitionTimeLimit": Waiting.NEVER_FITS, "PartitionConfig": Waiting.NEVER_FITS, "PartitionDown": Waiting.PARTITION_DOWN,
    "PartitionInactive": Waiting.PARTITION_DOWN, "Reservation": Waiting.RESERVED, "ReservationDeleted": Waiting.HELD,
    "JobHeldAdmin": Waiting.HELD, "JobHeldUser": Waiting.HELD, "JobHoldMaxRequeue": Waiting.HELD, "BeginTime": Waiting.LATER,
    "Licenses": Waiting.LICENCES, "AssocGrp": Waiting.PROJECT_LIMIT, "AssocMax": Waiting.PERSON_LIMIT,
    "AssociationJobLimit": Waiting.PROJECT_LIMIT, "AssociationResourceLimit": Waiting.PROJECT_LIMIT,
    "AssociationTimeLimit": Waiting.NEVER_FITS, "QOSGrp": Waiting.PROJECT_LIMIT, "QOSMax": Waiting.PERSON_LIMIT,
    "QOSMin": Waiting.NEVER_FITS, "QOSJobLimit": Waiting.PERSON_LIMIT, "QOSResourceLimit": Waiting.PERSON_LIMIT,
    "QOSTimeLimit": Waiting.NEVER_FITS, "MaxGRESPerAccount": Waiting.PROJECT_LIMIT, "MaxJobsPerAccount": Waiting.PROJECT_LIMIT,
    "InvalidAccount": Waiting.NEVER_FITS, "InvalidQOS": Waiting.NEVER_FITS, "AccountNotAllowed": Waiting.NEVER_FITS,
    "AccountingPolicy": Waiting.PROJECT_LIMIT,
}.items(), key=lambda pair: -len(pair[0])))  # fmt: skip


def waiting(reason: str) -> Waiting:
    """Read Slurm's reason for a pending job, such as `Resources` or `QOSGrpGRES`."""
    word = re.split(r"[,\s(]", reason.strip().strip("()"), maxsplit=1)[0] or "None"
    return next((code for start, code in _REASONS if word.startswith(start)), Waiting.UNKNOWN)


_ENDS: Final = (
    JobState.OUT_OF_MEMORY, JobState.TIMEOUT, JobState.NODE_FAIL, JobState.PREEMPTED, JobState.BOOT_FAIL, JobState.DEADLINE,
    JobState.CANCELLED, JobState.FAILED, JobState.COMPLETED,
)  # fmt: skip


def ending(job: Job) -> str:
    """Why a job ended: the phrase `job.end.<this>`."""
    if job.exit.code == EXIT_NO_GPU and JobState.FAILED in job.states:
        return "no_gpus"
    return next((state.lower() for state in _ENDS if state in job.states), "unknown")


def exit_status(job: Job) -> int:
    """An ended job's exit status as a shell would give it."""
    return 128 + job.exit.signal if job.exit.signal else job.exit.code
