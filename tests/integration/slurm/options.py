"""What a test cluster is made of: its release, its folder, its ports and the knobs that tests turn. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from tests.ports import free_port

CLUSTER: Final = "ci"
ACCOUNT: Final = "research"  # an account of people who use sbatch themselves; accounts cc-… are the portal's
PORTAL_ACCOUNT: Final = "cc-ocean"  # takes jobs with a ticket only, where job_submit.lua is installed
PARTITION: Final = "gpu"
LOW_PARTITION: Final = "low"  # preempted by jobs of PARTITION, with requeue
GPU_TYPE: Final = "h100"
SLURM_UID: Final = 64030  # Debian's, on the machine and in the image alike


class Release(StrEnum):
    """A Slurm that the client is tested against."""

    V22_05 = "22.05"
    V24_11 = "24.11"


@dataclass(frozen=True, slots=True)
class Account:
    """A Unix account inside the cluster; nobody outside knows it."""

    login: str
    uid: int


REST_USER: Final = Account("slurmrest", 20801)
OPERATOR: Final = Account("cc-portal", 20802)
ANN: Final = Account("cc-30001", 30001)
BEN: Final = Account("cc-30002", 30002)


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of 127.0.0.1 that were free a moment ago."""

    slurmctld: int
    slurmdbd: int
    slurmrestd: int
    mariadb: int
    slurmd: tuple[int, ...]

    @classmethod
    def free(cls, nodes: int) -> Self:
        """Take ports that are different from each other."""
        numbers = [free_port() for _ in range(4 + nodes)]
        return cls(numbers[0], numbers[1], numbers[2], numbers[3], tuple(numbers[4:]))


@dataclass(frozen=True, slots=True)
class Options:
    """How a cluster is set up. Times are seconds."""

    release: Release = Release.V22_05
    nodes: int = 2
    gpus: int = 4
    min_job_age_s: int = 60
    kill_wait_s: int = 3
    slurmd_timeout_s: int = 60
    private: bool = False  # PrivateData=jobs,usage in slurm.conf and slurmdbd.conf
    limits: str = "NO"  # EnforcePartLimits
    people: tuple[Account, ...] = (ANN, BEN)
    submit_lua: Path | None = None  # a job_submit.lua to install; None: submissions pass unseen
    extra_conf: tuple[str, ...] = field(default=())  # more lines of slurm.conf

    @property
    def node_names(self) -> tuple[str, ...]:
        """The fake nodes, one slurmd each."""
        return tuple(f"gpu{number}" for number in range(1, self.nodes + 1))
