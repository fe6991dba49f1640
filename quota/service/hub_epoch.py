"""The hub's fencing epoch: taken at its start, compared with every call, so that of two hubs only the newest changes anything."""

from __future__ import annotations

from typing import Final

from quota.domain.errors import StaleEpoch
from quota.domain.fence import Fence
from quota.service.services import Services

HUB: Final = "hub"


async def take_epoch(services: Services, holder: str) -> int:
    """The next epoch, in force from now on; `holder` is for people to read."""
    at = services.clock.now()
    return await services.store.write(lambda tx: tx.fences.take(HUB, holder, at))


async def check_epoch(services: Services, fence: Fence | None) -> int | None:
    """The epoch shown, where it is in force; None shown is None. Raises StaleEpoch."""
    if fence is None:
        return None
    in_force = await services.store.read(lambda tx: tx.fences.in_force(fence.name))
    if in_force is None or in_force[0] != fence.epoch:
        raise StaleEpoch(f"{fence.name} {fence.epoch} was replaced", name=fence.name, epoch=fence.epoch)
    return fence.epoch
