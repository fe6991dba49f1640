"""A typed client of slurmrestd: submit, find, cancel, extend, read. Used in threads; needs neither Tornado nor traitlets.

    model.py      what is asked and answered: JobRequest, Job, JobRun, JobState
    errors.py     the exception tree
    wire.py       one HTTP call with its deadline, and which answers can be believed
    v38.py v40.py one adapter for each family of versions (Slurm 22.05; 23.11 and later)
    client.py     SlurmClient: the rules of submitting once, of cancelling for sure and of believing an end
    watch.py      ClusterWatch: one batched poll a cluster, however many sessions look

Invariants: only a job that slurmctld and slurmdbd both do not know is unknown, every other silence is SlurmUnreachable; a job is
never submitted twice under one name; values of a job's environment are in no repr, log or message. Measured on Slurm 22.05.8
and 24.11.5 (docs/reference/slurm.md).
"""

from spawners.slurmrestd.client import SlurmClient
from spawners.slurmrestd.errors import (
    ActionRefused,
    JobUnknown,
    OutcomeUnknown,
    SlurmError,
    SlurmUnreachable,
    SubmitRefused,
)
from spawners.slurmrestd.model import ENDED_STATES, ExitStatus, Job, JobRequest, JobRun, JobState, Node, SubmitOrder
from spawners.slurmrestd.watch import ClusterWatch
from spawners.slurmrestd.wire import Answer, Deadlines, Permit, Reader, Signer

__all__ = [
    "ENDED_STATES",
    "ActionRefused",
    "Answer",
    "ClusterWatch",
    "Deadlines",
    "ExitStatus",
    "Job",
    "JobRequest",
    "JobRun",
    "JobState",
    "JobUnknown",
    "Node",
    "OutcomeUnknown",
    "Permit",
    "Reader",
    "Signer",
    "SlurmClient",
    "SlurmError",
    "SlurmUnreachable",
    "SubmitOrder",
    "SubmitRefused",
]
