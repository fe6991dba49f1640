"""`quota.service.memberships.SlurmBooks` over a cluster's steward, in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from quota.domain.errors import Unavailable
from quota.domain.ids import ProjectId
from spawners.slurm_settings import SlurmTable
from spawners.steward.client import StewardClient, StewardRefusal, StewardUnreachable

P = ParamSpec("P")
T = TypeVar("T")


class StewardBooks:
    """One cluster's steward."""

    def __init__(self, table: SlurmTable) -> None:
        self._table = table
        self._steward = StewardClient(table.steward)

    def account(self, project_id: ProjectId) -> str:
        """See SlurmBooks."""
        return self._table.account(project_id)

    async def members(self) -> Sequence[tuple[str, str]]:
        """See SlurmBooks."""
        return await _asked(self._steward.members)

    async def remove(self, account: str, login: str) -> None:
        """See SlurmBooks."""
        await _asked(self._steward.remove, login, account)

    async def limit(self, account: str, gpu_minutes: int) -> None:
        """See SlurmBooks."""
        await _asked(self._steward.limit, account, gpu_minutes)


async def _asked(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except (StewardUnreachable, StewardRefusal) as error:
        raise Unavailable(str(error)) from error
