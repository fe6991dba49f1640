"""Reconcile: the hub's list of servers and the evidence against the open holds; repaired by ledger transactions only.

Also closes runs of submissions by their evidence, and model requests whose lease ran out: never dispatched → expired uncharged; outcome
unknown → the hold is charged whole, marked estimated (docs/reference/policy.md).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from quota.domain.errors import IdConflict, QuotaError, Spooled, Unavailable, WrongState
from quota.domain.grading import is_grading
from quota.domain.hold import Hold, HoldKind, Usage
from quota.service.endings import reclaim
from quota.service.gradings import close_gradings
from quota.service.hub_epoch import HUB
from quota.service.meter import Meter, PassReport
from quota.service.services import Services
from quota.service.session_ports import HubView

log = logging.getLogger("quota.reconcile")
DISPATCHED: Final = "dispatched"  # in a request hold's details; where the gateway left it out, the outcome is unknown
EXPIRED_SOURCE: Final = "request-expired"


async def reconcile(services: Services, meter: Meter) -> PassReport:
    """One pass over everything that is open. The hub's silence is no answer: then only evidence counts."""
    hub = await hub_view(services)
    report = await meter.run_pass(hub)
    await meter.actions.run(hub, meter.rows)
    await reclaim(services)
    await close_gradings(services)
    await expire_requests(services)
    return report


async def hub_view(services: Services) -> HubView | None:
    """What the hub lists; None where it does not answer, or is one that a newer hub replaced."""
    try:
        view = await services.hub.active_servers()
    except Unavailable as error:
        log.warning("the hub does not answer; going by evidence alone: %s", error)
        return None
    in_force = await services.store.read(lambda tx: tx.fences.in_force(HUB))
    if view.epoch is None or in_force is None:
        return view
    if view.epoch != in_force[0]:
        log.error("hub %s answers and was replaced by %s: its list does not count", view.epoch, in_force[0])
        return None
    return replace(view, since=in_force[1])


async def expire_requests(services: Services) -> int:
    """Close request holds whose lease has passed; returns how many."""
    at = services.clock.now()
    closed = 0
    for hold in await services.ledger.open_holds(HoldKind.REQUEST):
        if hold.lease_until > at or is_grading(hold.details):
            continue
        try:
            await _expire(services, hold)
            closed += 1
        except (IdConflict, WrongState):  # the gateway was faster after all
            continue
        except Spooled:  # what is known of it waits in the spool
            continue
        except Unavailable:
            raise
        except QuotaError:  # this one waits for somebody to look; the others must not
            log.exception("request hold %s: the ledger does not take its end; it stays open", hold.id)
            continue
        log.warning("request hold %s: closed after its lease", hold.id)
    return closed


async def _expire(services: Services, hold: Hold) -> None:
    at = services.clock.now()
    if hold.details.get(DISPATCHED) is False:
        await services.ledger.expire(hold.id, at, "lease_expired")
        return
    left = hold.amount - hold.charged
    usage = Usage(
        source=EXPIRED_SOURCE,
        event_id=str(hold.id),
        hold_id=hold.id,
        from_at=hold.placed_at,
        to_at=at,
        quantity=left,
        amount=left,
        estimated=True,
        payload={"outcome": "unknown"},
    )
    await services.ledger.settle(hold.id, at, usage)
