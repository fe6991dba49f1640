"""What can go wrong between the portal and Slurm.

SlurmError
├── SlurmUnreachable     no answer that can be believed: keep the session and its hold
│   └── OutcomeUnknown   a submit or a cancel that may yet be carried out: look for the job by its name
├── JobUnknown           slurmctld and slurmdbd both answered that there is no such job
├── SubmitRefused        no job exists: Slurm, its plugin or the signer said no
└── ActionRefused        a cancel or an extension that Slurm or the signer refused; nothing changed
"""

from __future__ import annotations


class SlurmError(Exception):
    """Base of everything that the client raises."""


class SlurmUnreachable(SlurmError):
    """No answer that can be believed: neither "gone" nor "running" may be concluded from it."""


class OutcomeUnknown(SlurmUnreachable):
    """The request may have been, or may yet be, carried out; `name` finds the job."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class JobUnknown(SlurmError):
    """Slurm has no such job, now or in its accounting."""


class SubmitRefused(SlurmError):
    """Slurm does not take the job; `number` is its error number, 0 where it gave none. No job is left behind."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class ActionRefused(SlurmError):
    """A cancel or an extension was refused."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number
