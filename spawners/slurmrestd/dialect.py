"""Which version a slurmrestd speaks, and the adapter for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from spawners.slurmrestd import v38, v40
from spawners.slurmrestd.errors import SlurmUnreachable
from spawners.slurmrestd.model import JobRequest
from spawners.slurmrestd.wire import Reader

_FAMILIES: Final = (v40, v38)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One version: its paths and its bodies."""

    version: str
    jobs: str
    nodes: str
    accounted: str
    submit_body: Callable[[JobRequest, str], dict[str, Any]]
    extend_body: Callable[[int], dict[str, Any]]
    job_ids: Callable[[Sequence[int]], list[tuple[str, str]]]

    def job(self, job_id: int) -> str:
        """The path of one job of slurmctld."""
        return f"/slurm/{self.version}/job/{job_id}"

    def node(self, name: str) -> str:
        """The path of a node."""
        return f"/slurm/{self.version}/node/{name}"

    @property
    def submit(self) -> str:
        """The path that takes jobs."""
        return f"/slurm/{self.version}/job/submit"


def discover(reader: Reader) -> Dialect:
    """Ask for the newest version that is known here. Raises SlurmUnreachable where none answers."""
    for family in _FAMILIES:
        for version in family.VERSIONS:
            answer = reader.get(family.PING.format(version=version))
            if answer.status == 404:
                continue
            answer.number()  # raises for an outage: an unreachable slurmrestd has no version
            return Dialect(
                version,
                family.JOBS.format(version=version),
                family.NODES.format(version=version),
                family.ACCOUNTED.format(version=version),
                family.submit_body,
                family.extend_body,
                family.job_ids,
            )
    known = ", ".join(version for family in _FAMILIES for version in family.VERSIONS)
    raise SlurmUnreachable(f"slurmrestd offers none of {known}")
