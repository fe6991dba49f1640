"""Fencing: of two hubs by mistake, the one that started last is in charge; the other is told so and stops nothing.

The hub takes an epoch from the quota service when it starts and shows it with every call. Invariant: a hub that knows that it was
replaced never acts again. While the quota service cannot be asked, what was last known counts: no epoch can be taken then, and
people can still stop what is theirs.
"""

import asyncio
import logging
import os
import socket
from typing import Final

from quota.client import QuotaClient, QuotaUnavailable, Refused

log = logging.getLogger("jupyterhub.commons")
_RETRY_S: Final = 1.0


class HubFence:
    """This hub's epoch; `start` takes it in the background, for the quota service may start later than the hub."""

    def __init__(self, client: QuotaClient) -> None:
        self._client = client
        self._replaced = False
        self._task: asyncio.Task[None] | None = None
        self._taking = asyncio.Lock()

    @property
    def epoch(self) -> int | None:
        """None until the quota service gave one."""
        return self._client.epoch

    def start(self) -> None:
        """Take the epoch as soon as the quota service answers."""
        self._task = asyncio.get_running_loop().create_task(self._take_until_given())

    async def take(self) -> None:
        """Take the epoch, once. Raises QuotaUnavailable."""
        async with self._taking:
            if self.epoch is None:
                self._client.epoch = await self._client.take_epoch(f"{socket.gethostname()}:{os.getpid()}")
                log.info("This hub has epoch %s", self.epoch)

    async def replaced(self) -> bool:
        """Whether a newer hub took over; asked before each start and stop, and never again once it is so."""
        if self._replaced:
            return True
        try:
            if self.epoch is None:
                await self.take()
            answer = await self._client.check_epoch()
        except QuotaUnavailable as error:
            log.warning("Whether another hub took over cannot be asked: %s", error)
            return False
        self._replaced = isinstance(answer, Refused) and answer.code == "stale_epoch"
        if self._replaced:
            log.error("A newer hub took over: this one (epoch %s) stops and starts nothing any more", self.epoch)
        return self._replaced

    async def _take_until_given(self) -> None:
        while self.epoch is None:
            try:
                await self.take()
            except QuotaUnavailable:
                await asyncio.sleep(_RETRY_S)
