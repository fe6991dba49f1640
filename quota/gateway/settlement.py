"""Close the holds of model requests: settled or released exactly once, whatever happened to the request.

Invariants: no hold is left open by this process; what is charged is in the journal before the client can know that its answer is over,
and in the ledger after that: where the process is killed meanwhile, its journal settles (decision 0023). What a ledger that does not
answer cannot take is in the spool; where the spool takes nothing either, the ledger is asked again until the hold's lease ends, and what
is open then is charged by the reconciler (docs/reference/policy.md). Closing is idempotent under the hold's id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Final

from quota.domain.errors import Spooled, Unavailable, Unknown, WrongState
from quota.domain.hold import Usage
from quota.domain.ids import HoldId
from quota.gateway.purses import Purses
from quota.service.ledger_ports import Ledger
from quota.service.ports import Clock

if TYPE_CHECKING:
    from quota.gateway.journal import Slot
    from quota.gateway.tally import Tally

log = logging.getLogger("quota.gateway")
_FIRST_DELAY_S: Final = 0.5
_LONGEST_DELAY_S: Final = 30.0


class Settlements:
    def __init__(self, ledger: Ledger, purses: Purses, clock: Clock) -> None:
        self._ledger = ledger
        self._purses = purses
        self._clock = clock
        self._later: set[asyncio.Task[None]] = set()

    def write_down(self, tally: Tally) -> None:
        """Have the journal say what a request that is over costs, before anybody can have its answer."""
        counts, tally.over_at = tally.counts, self._clock.now()
        usage = tally.due = tally.usage(tally.over_at, counts)
        slot = tally.admitted.slot
        if slot is None:
            return
        if counts is None or usage is None:
            slot.not_sent()
        else:
            slot.costs(counts.prompt, counts.output, reported=not usage.estimated)

    def charge(self, tally: Tally) -> int:
        """Charge a request that is over, as far as this process knows: purse and journal. The tokens that were used; `close` follows."""
        self.write_down(tally)
        admitted, usage = tally.admitted, tally.due
        purse = self._purses.known(admitted.caller.project)
        if purse is not None:
            charged = usage.amount if usage is not None else 0
            purse.move(admitted.allocation_id, held=-admitted.amount, charged=charged)
        self._purses.settling(admitted.hold_id)
        return usage.quantity if usage is not None else 0

    async def close(self, tally: Tally, *, hurry: bool = True) -> None:
        """Settle or release what was charged; where the ledger does not answer, later.

        Without `hurry` a settlement may go with what is asked for next; a release never waits.
        """
        admitted, usage, at = tally.admitted, tally.due, tally.over_at or self._clock.now()
        try:
            await self._close(tally, usage, at, hurry=hurry)
        except Unavailable:
            self._retry(admitted.hold_id, admitted.lease_until, lambda: self._close(tally, usage, self._clock.now()))
        finally:
            self._purses.settled(admitted.hold_id)

    async def _close(self, tally: Tally, usage: Usage | None, at: datetime, *, hurry: bool = True) -> None:
        admitted = tally.admitted
        try:
            if usage is None:
                await self._release(admitted.hold_id, at, tally.outcome.value)
            else:
                hold = await self._ledger.settle(admitted.hold_id, at, usage, hurry=hurry)
                if hold.charged > admitted.amount:
                    log.warning("request %s: charged %d on a hold of %d", hold.id, hold.charged, admitted.amount)
        except Spooled:
            pass  # on disk, and made from there
        if admitted.slot is not None:
            admitted.slot.free()

    def release_later(self, hold_id: HoldId, lease_until: datetime, slot: Slot | None = None) -> None:
        """Release a hold that may or may not exist, once the ledger answers again."""

        async def work() -> None:
            with suppress(Spooled):
                await self._release(hold_id, self._clock.now(), "not_sent")
            if slot is not None:
                slot.free()

        self._retry(hold_id, lease_until, work)

    async def finish(self, deadline_s: float) -> None:
        """Wait for what is under way; the reconciler closes the rest when its lease ends."""
        if not self._later:
            return
        _, left = await asyncio.wait(self._later, timeout=deadline_s)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _release(self, hold_id: HoldId, at: datetime, reason: str) -> None:
        try:
            await self._ledger.release(hold_id, at, reason)
        except (Unknown, WrongState):
            return  # it was never committed, or it is closed

    def _retry(self, hold_id: HoldId, lease_until: datetime, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._keep_trying(hold_id, lease_until, work), name=f"settle {hold_id}")
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _keep_trying(self, hold_id: HoldId, lease_until: datetime, work: Callable[[], Awaitable[None]]) -> None:
        delay_s = _FIRST_DELAY_S
        while self._clock.now() < lease_until:
            await asyncio.sleep(delay_s)
            try:
                await work()
                return
            except Unavailable:
                delay_s = min(delay_s * 2, _LONGEST_DELAY_S)
        log.error("request %s: could not be settled before its lease ended", hold_id)
