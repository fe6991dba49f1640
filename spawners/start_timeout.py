"""How long the hub waits for a start to return. Pure.

Invariant: longer than any backend takes by its own deadlines. Each bounds its own starts and says why it gave up, with the last lines;
the hub, were it first, would say that a timer ran out, and a start that it forgot would go on behind its back.
"""

from collections.abc import Mapping
from typing import Final

from spawners.container_settings import FETCH_DEADLINE_S, ContainersTable
from spawners.settings import LocalTable
from spawners.slurm_settings import SlurmTable

_BEYOND_S: Final = 3600  # for what is no wait of its own: calls of a daemon, the stop of what took too long


def start_timeout_s(local: LocalTable, containers: ContainersTable, slurm: Mapping[str, SlurmTable]) -> int:
    """Seconds, for `Spawner.start_timeout`: one value for all backends."""
    in_jobs = (table.longest_wait + table.start_deadline for table in slurm.values())
    return max(local.start_deadline, FETCH_DEADLINE_S + containers.start_deadline, *in_jobs) + _BEYOND_S
