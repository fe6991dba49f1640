"""Sessions as jobs through the commands, for sites without slurmrestd (`spawners.slurm_commands`).

Stands on batchspawner's SlurmSpawner for its command traits and its parsing of job ids; what is unsafe there is replaced: the script is
`spawners.job_spec`'s and takes no variable of a person, and the stock callback is a 404 (hub.pages).
"""

from collections.abc import Callable
from typing import Any

from batchspawner import SlurmSpawner

from spawners.job_queue import RestQueue
from spawners.slurm import SlurmSession
from spawners.slurm_commands import CommandClient, Commands
from spawners.slurm_settings import SlurmTable
from spawners.slurmrestd import Signer


class SbatchSpawner(SlurmSession, SlurmSpawner):
    """Sessions as jobs through the commands."""

    def user_env(self, env: dict[str, str]) -> dict[str, str]:
        """The person's own variables are `spawners.job_spec`'s: the hub's names are no Unix accounts."""
        return env


def command_queue(
    table: SlurmTable, commands: Commands, parse_job_id: Callable[[str], str], tickets: Signer | None = None
) -> RestQueue:
    """A cluster by its commands."""
    return RestQueue(table, CommandClient(commands, tickets, parse_job_id))


def stock_parse_job_id(output: str) -> str:
    """batchspawner's own reading of what `sbatch --parsable` prints."""
    parse: Any = SlurmSpawner.parse_job_id
    return str(parse(None, output))
