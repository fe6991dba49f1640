"""Closes what killed gateway processes of this machine left open, by their journals.

Invariant: a request that was never sent costs nothing; one that was over costs what its model server reported; any other that was sent
costs its prompt's estimate and what its client was sent, marked `estimated`; all at the weight that the hold pinned. What the ledger does
not take stays in its file, for the next look; what no journal tells falls to the lease (quota.service.reconcile).
"""

from __future__ import annotations

import asyncio
import logging
from fractions import Fraction
from pathlib import Path

from quota.domain.errors import QuotaError, Unavailable, WrongState
from quota.domain.hold import Hold, HoldState, Usage
from quota.gateway.journal import Left, Trace, left_behind
from quota.gateway.models import Price
from quota.gateway.tally import SOURCE
from quota.service.ledger_ports import Ledger
from quota.service.ports import Clock

log = logging.getLogger("quota.gateway")
LOOK_S = 15.0


async def recover(folder: Path, ledger: Ledger, clock: Clock) -> int:
    """One look; how many holds were closed."""
    closed = 0
    for left in left_behind(folder):
        try:
            closed += await _close_all(left, ledger, clock)
        except Unavailable:
            left.keep()
            raise
        left.done()
    return closed


async def keep_recovering(folder: Path, ledger: Ledger, clock: Clock) -> None:
    """Look again and again; ends by being cancelled."""
    while True:
        try:
            closed = await recover(folder, ledger, clock)
            if closed:
                log.warning("closed %d requests of a gateway that was killed", closed)
        except Unavailable as error:
            log.warning("killed gateways' requests wait for the ledger: %s", error)
        except Exception:  # a process edge: the next look tries again
            log.exception("a look for killed gateways failed")
        await asyncio.sleep(LOOK_S)


async def _close_all(left: Left, ledger: Ledger, clock: Clock) -> int:
    closed = 0
    for trace in left.traces:
        hold = await ledger.hold(trace.hold_id)
        if hold is None or hold.state is not HoldState.HELD:
            continue
        try:
            await _close(hold, trace, ledger, clock)
            closed += 1
        except Unavailable:
            raise
        except WrongState:  # somebody was faster
            continue
        except QuotaError:  # it falls to its lease; the others must not wait for it
            log.exception("request hold %s: the ledger does not take its end", hold.id)
    return closed


async def _close(hold: Hold, trace: Trace, ledger: Ledger, clock: Clock) -> None:
    at = clock.now()
    if not trace.sent:
        await ledger.release(hold.id, at, "not_sent")
        return
    price = Price(Fraction(str(hold.details.get("weight", "1"))))
    tokens = trace.prompt + trace.output
    amount = price.down(tokens)
    if not trace.reported:
        amount = min(amount, hold.amount)  # the estimate of the prompt is no reason for an overrun
    kept = ("model", "provider", "hardware", "cloud", "application", "session")
    payload = {name: hold.details.get(name, "") for name in kept}
    usage = Usage(
        source=SOURCE,
        event_id=hold.id,
        hold_id=hold.id,
        from_at=hold.placed_at,
        to_at=max(at, hold.placed_at),
        quantity=tokens,
        amount=amount,
        estimated=not trace.reported,
        payload={
            **payload,
            "outcome": "gateway_killed",
            "prompt_tokens": trace.prompt,
            "cached_tokens": None,
            "output_tokens": trace.output,
            "reasoning_tokens": None,
        },
    )
    await ledger.settle(hold.id, at, usage)
