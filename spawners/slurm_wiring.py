"""The hub's traitlets for Slurm, from the `[slurm.<cluster>]` tables of portal.toml: which spawner, and one queue a cluster."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from traitlets.config import Config

from spawners.batch import SbatchSpawner, command_queue, stock_parse_job_id
from spawners.dispatch import DELEGATES
from spawners.job_queue import JobQueue, RestQueue
from spawners.profiles import Backend, Profiles
from spawners.signer.client import SignerClient
from spawners.slurm import SlurmRestSpawner
from spawners.slurm_commands import Commands
from spawners.slurm_settings import Access, SlurmTable
from spawners.slurmrestd import SlurmClient
from spawners.slurmrestd.wire import Http


def traits(tables: Mapping[str, SlurmTable], profiles: Profiles, queue_of: Callable[[str], JobQueue]) -> Any:
    """What `c.merge` takes; empty where no cluster is configured."""
    if not tables:
        return Config()
    by_commands = any(table.access is Access.SBATCH for table in tables.values())
    delegate = SbatchSpawner if by_commands else SlurmRestSpawner
    return Config({
        "SlurmSession": {"profiles": profiles, "queue_of": queue_of},
        "DispatchSpawner": {"delegates": {**DELEGATES, Backend.SLURM: delegate}},
    })  # fmt: skip


def queues(tables: Mapping[str, SlurmTable]) -> Callable[[str], JobQueue]:
    """Give the queue of a cluster, made on first use and shared by every session of this process."""

    @cache
    def queue_of(cluster: str) -> JobQueue:
        return queue(tables[cluster])

    def ask(cluster: str) -> JobQueue:  # traitlets copies configuration deeply: a plain function stays what it is
        return queue_of(cluster)

    return ask


def queue(table: SlurmTable) -> JobQueue:
    """The way to one cluster."""
    signer = SignerClient(table.signer) if table.signer else None
    if table.access is Access.SBATCH:
        return command_queue(table, Commands(as_owner=table.sudo, wrapper=table.commands), stock_parse_job_id, signer)
    assert signer is not None  # `rest` needs one: SlurmTable
    return RestQueue(table, SlurmClient(Http(table.url), signer, signer))
