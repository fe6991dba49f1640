"""Slurm's part of the quota service as a process: evidence from the clusters of portal.toml, and the loop that keeps clusters in line.

The service holds no key of a cluster: it reads and cancels through the signer and changes accounts through the steward.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from quota.adapters.slurm_accounting import Cluster, SlurmAccounting, SlurmWorks
from quota.adapters.slurm_books import StewardBooks
from quota.domain.errors import Unavailable
from quota.service.memberships import MembershipPass
from quota.service.services import Services
from quota.service.strays import StrayPass
from quota.settings import Settings
from spawners.signer.client import SignerClient
from spawners.slurm_commands import CommandClient, Commands
from spawners.slurm_settings import SlurmTable
from spawners.slurmrestd import SlurmClient
from spawners.slurmrestd.wire import Http

log = logging.getLogger("quota.slurm")
EVERY_S: Final = 20  # a stray is found within one round and booked within the next two


def clusters(settings: Settings) -> dict[str, Cluster]:
    """The clusters of portal.toml: through slurmrestd and the signer, or by `squeue` and `sacct` on this host."""
    return {name: Cluster(_client(table), table.account) for name, table in settings.clusters.items()}


def _client(table: SlurmTable) -> SlurmClient:
    signer = SignerClient(table.signer) if table.signer else None
    if table.url and signer is not None:
        return SlurmClient(Http(table.url), signer, signer)
    return CommandClient(
        Commands(), signer, str
    )  # reads and cancels as this process's own account, an operator of Slurm


def slurm_accounting(settings: Settings) -> SlurmAccounting:
    """Evidence of sessions that are jobs."""

    def cluster_of(profile_id: str) -> str:
        profile = settings.profiles.get(profile_id)
        return "" if profile is None or profile.slurm is None else profile.slurm.cluster

    return SlurmAccounting(clusters(settings), cluster_of)


async def keep_clusters_true(services: Services, settings: Settings) -> None:
    """Strays cancelled and booked, who left taken off, backstops mirrored; a loop that ends by being cancelled."""
    # Without a prefix nobody can tell the portal's accounts from the site's: no job is a stray there.
    prefixed = {name: one for name, one in clusters(settings).items() if settings.clusters[name].account_prefix}
    strays = StrayPass(services, SlurmWorks(prefixed))
    memberships = [
        MembershipPass(services, StewardBooks(table), _hardware(settings, name))
        for name, table in settings.clusters.items()
        if table.steward
    ]
    while True:
        for run in (strays.run, *(one.run for one in memberships)):
            try:
                await run()
            except Unavailable as error:
                log.warning("a cluster cannot be compared: %s", error)
            except Exception:  # a process edge: the next round tries again
                log.exception("comparing a cluster failed")
        await asyncio.sleep(EVERY_S)


def _hardware(settings: Settings, cluster: str) -> list[str]:
    return sorted({one.hardware for one in settings.profiles if one.slurm is not None and one.slurm.cluster == cluster})
