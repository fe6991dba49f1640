"""The ledger with its spool behind it, opened, replayed and kept replaying: for each process that charges what was used.

Invariant: what waited when the last process stopped is made before this one does anything. One folder a process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from quota.adapters.spool_file import SpoolFile, Taken
from quota.domain.errors import Unavailable
from quota.service.ledger_ports import Ledger
from quota.service.spooled_ledger import SpooledLedger
from quota.settings import Settings, SettingsError

log = logging.getLogger("quota.spool")
_REPLAY_EVERY_S: Final = 2
_GATEWAYS_MAX: Final = 64


@asynccontextmanager
async def spooled(ledger: Ledger, settings: Settings, *, one_of_many: bool = False) -> AsyncIterator[SpooledLedger]:
    """`ledger` with the spool of this process, or with the first free one of those that gateway processes take turns at.

    Raises SettingsError where no spool can be used.
    """
    spool = await asyncio.to_thread(_open, settings, one_of_many)
    try:
        kept = SpooledLedger(ledger, spool)
        await kept.replay()
        replaying = asyncio.create_task(_keep_replaying(kept), name="spool")
        try:
            yield kept
        finally:
            replaying.cancel()
            await asyncio.gather(replaying, return_exceptions=True)
    finally:
        await asyncio.to_thread(spool.close)


def _open(settings: Settings, one_of_many: bool) -> SpoolFile:
    configured = settings.tables.quota.spool
    folder = Path(configured) if configured else settings.data / "spool"
    try:
        return first_free(folder) if one_of_many else SpoolFile(folder)
    except Unavailable as error:
        raise SettingsError([f"{settings.portal_file}: quota.spool: {error}"]) from None


def first_free(folder: Path) -> SpoolFile:
    """A process that follows on a killed one takes its place, and with it what waits there. Raises Unavailable."""
    for number in range(1, _GATEWAYS_MAX):
        try:
            return SpoolFile(folder / f"gateway-{number}", lock_within_s=0)
        except Taken:
            continue
    return SpoolFile(folder / f"gateway-{_GATEWAYS_MAX}")


async def _keep_replaying(ledger: SpooledLedger) -> None:
    """Make what waits once the ledger answers again; ends by being cancelled."""
    while True:
        await asyncio.sleep(_REPLAY_EVERY_S)
        try:
            await ledger.replay()
        except Exception:  # a process edge: the next round tries again
            log.exception("a replay of the spool failed")
