"""The `[slurm.<cluster>]` tables of portal.toml: how the portal reaches a cluster and what a session finds there. Pure.

Invariant: every value that reaches a job, a script or a command line comes from here, from the profile or from the ledger's own ids,
and is of a form in which nothing can hide: no blank, no quote, no leading hyphen. What a person chooses selects a profile and is
never one of these words. `prologue` is the one exception: shell text that the site itself writes.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from spawners.profiles import SLURM_WORD, Duration

ACCOUNT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # Slurm folds accounts to lower case
LOGIN: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")

_PATH: Final = r"^/[A-Za-z0-9_./+@-]{0,250}$"
AbsolutePath = Annotated[str, StringConstraints(pattern=_PATH)]
Word = Annotated[str, StringConstraints(pattern=SLURM_WORD)]
Program = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./+{}-]{1,250}$")]


class Access(StrEnum):
    """How jobs reach the cluster."""

    REST = "rest"
    SBATCH = "sbatch"


class SlurmTable(BaseModel):
    """One `[slurm.<cluster>]` table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    access: Annotated[Access, Field(strict=False)] = Field(
        Access.REST, description="`rest`: through slurmrestd and the signer; `sbatch`: commands on the hub's own host."
    )
    url: str = Field("", max_length=200, description="Address of slurmrestd, such as `http://127.0.0.1:6820` (`rest`).")
    signer: str = Field("", max_length=200, description="The signer's Unix socket; it alone holds the cluster's key.")
    steward: str = Field(
        "",
        max_length=200,
        description="The steward's Unix socket; it gives people an account before their first job. Empty: the site does.",
    )
    account_prefix: str = Field(
        "cc-",
        pattern=r"^[a-z0-9_-]{0,16}$",
        description="A project's Slurm account is this and the project's id.",
    )
    home: str = Field(
        "/home/{login}",
        pattern=r"^/[A-Za-z0-9_./@-]*\{login\}[A-Za-z0-9_./@-]*$",
        description="A person's home on the nodes; `{login}` is their login.",
    )
    python: AbsolutePath = Field(
        "/usr/bin/python3", description="A Python ≥ 3.8 on the nodes; runs the small process around each session."
    )
    program: AbsolutePath = Field(
        "/opt/commons/bin/jupyterhub-singleuser", description="The notebook server's program on the nodes."
    )
    path: str = Field(
        "/usr/local/bin:/usr/bin:/bin",
        pattern=r"^/[A-Za-z0-9_./:+@-]{0,500}$",
        description="PATH of a session; the program's own folder comes before it.",
    )
    prologue: str = Field(
        "", max_length=4000, description="Shell lines that run before a session, such as `module load cuda`."
    )
    hub_url: str = Field(
        "",
        pattern=r"^(https?://[A-Za-z0-9_.:\[\]-]+)?$",
        description="The hub as the nodes reach it, such as `http://10.0.0.5:8081`; empty: as the hub itself says.",
    )
    listen: str = Field(
        "0.0.0.0",  # noqa: S104 (a node's address is not known beforehand; the notebook asks for the hub's sign-in)
        pattern=r"^[0-9a-f.:]+$",
        description="Address of the node on which a session listens.",
    )
    ports: Annotated[tuple[int, int], Field(strict=False)] = Field(
        (0, 0),
        description="First and last port on which sessions listen; `[0, 0]`: whichever is free of 61000 to 64999.",
    )
    addresses: Mapping[str, str] = Field(
        default_factory=dict, description="Address of a node by its name, where Slurm's own (NodeAddr) cannot be used."
    )
    longest_wait: Duration = Field(
        172_800, description="How long a session may wait in the queue before it is cancelled and its hold released."
    )
    never_fits_for: Duration = Field(
        300,
        description="How long Slurm has to say without a break that a waiting job can never start, until the portal gives it up.",
    )
    limit_margin: Duration = Field(
        90,
        ge=60,
        le=90,
        description="What Slurm's time limit has beyond the chosen runtime; with Slurm's 30 s check it stays inside the stop margin.",
    )
    start_deadline: Duration = Field(
        300, description="How long a job that runs may take until its notebook server listens."
    )
    ask_every: Duration = Field(
        60,
        le=3600,
        description="How often a running session asks the hub whether its end was moved; also just before its end.",
    )
    look: Duration = Field(
        2,
        le=60,
        description="How old an answer about the cluster's jobs may be; one about a session that runs may be five times as old.",
    )
    stop_wait: Duration = Field(150, description="How long a stop waits for the job's end; more than Slurm's KillWait.")
    commands: Annotated[tuple[Program, ...], Field(strict=False)] = Field(
        (),
        description="Words before the portal's own `squeue`, `sacct`, `scancel` and `scontrol`, where it needs any (`sbatch`).",
    )
    sudo: Annotated[tuple[Program, ...], Field(strict=False)] = Field(
        ("sudo", "-n", "-E", "-u", "{login}", "--"),
        description="Words before `sbatch` and `scancel` that make them a person's own (`sbatch`).",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.access is Access.REST and not (self.url and self.signer):
            raise ValueError("`rest` needs `url` and `signer`")
        first, last = self.ports
        if (first, last) != (0, 0) and not 1024 <= first <= last < 65_536:
            raise ValueError("ports must be [0, 0], or a first and a last port from 1024 on")
        return self

    def account(self, project_id: str) -> str:
        """The Slurm account of a project. Raises ValueError for an id that is no account."""
        account = f"{self.account_prefix}{project_id}".lower()
        if not ACCOUNT.fullmatch(account):
            raise ValueError("this project's id cannot be a Slurm account")
        return account

    def home_of(self, login: str) -> str:
        """A person's home on the nodes. Raises ValueError for what is no login."""
        if not LOGIN.fullmatch(login):
            raise ValueError("this is no Unix login")
        return self.home.replace("{login}", login)
