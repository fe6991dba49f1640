"""Rescue sessions that started while this service could not be asked: counted when the hub tells of them (docs/decisions/0024-rescue.md).

The hub journalled each under the hold's id before it started anything, and repeats it until it is answered. Invariants: what ran is
counted against the person's day in the transaction that places its hold, also beyond the day's allowance; nothing is charged; the hold
counts from the session's start, so that evidence settles it like any other.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from quota.domain.errors import Invalid, RefusalCode, Refused
from quota.domain.fence import Fence
from quota.domain.hold import repeated
from quota.domain.ids import HoldId
from quota.service.admit import SessionHold, SessionHoldRequest, answer_of, order_of
from quota.service.callers import person_named
from quota.service.endings import Cause, end_sessions
from quota.service.limiting import limits_of_start
from quota.service.ports import Transaction
from quota.service.quote import QuoteRequest, priced_profile, quote_session
from quota.service.services import Services

# Clocks of hub and service are one machine's or near it; a start from the future is none.
_AHEAD: Final = timedelta(minutes=5)
_AGO: Final = timedelta(days=30)  # the hub forgets an entry then, too
_ENDS_IT: Final = {
    RefusalCode.NOT_A_MEMBER: Cause.REMOVED,
    RefusalCode.PROJECT_SUSPENDED: Cause.SUSPENDED,
}


async def count_journalled(
    services: Services, request: SessionHoldRequest, started_at: datetime, fence: Fence | None = None
) -> SessionHold | Refused:
    """Place the hold of a rescue session that runs, or ran, since `started_at`; a refusal where no allocation can carry it.

    One that an ordinary start would be refused for who asks ends with notice. Idempotent under the hold's id.
    Raises Unknown('person' | 'project' | 'profile'), Invalid, IdConflict, StaleEpoch, Unavailable.
    """
    at = services.clock.now()
    profile = priced_profile(services, request.profile)
    if not profile.rescue:
        raise Invalid([("profile", "malformed")])
    if not at - _AGO <= started_at <= at + _AHEAD:
        raise Invalid([("started_at", "out_of_range")])
    started_at = min(started_at, at)
    ledger = services.ledger if fence is None else services.ledger.fenced(fence)
    known = await services.ledger.hold(request.hold_id)
    if known is not None:
        return await answer_of(services, await ledger.place_hold(repeated(known, request.fingerprint)))
    actor = await person_named(services, request.actor)
    quoted = await quote_session(
        services, QuoteRequest(actor.id, request.project_id, request.profile, request.runtime_s)
    )
    if quoted.quote.allocation_id is None:
        return quoted.refusal or Refused(RefusalCode.NO_ALLOCATION)
    counted = await limits_of_start(services, actor.id, quoted.quote, started_at)
    order = order_of(services, request, actor, quoted.quote)
    order = order._replace(at=started_at, limits=tuple(replace(use, beyond=True) for use in counted))
    answer = await answer_of(services, await ledger.place_hold(order))
    cause = None if quoted.refusal is None else _ENDS_IT.get(quoted.refusal.code)
    if cause is not None and isinstance(answer, SessionHold):
        await services.store.write(partial(_end, services, request.hold_id, cause, at))
    return answer


def _end(services: Services, hold_id: HoldId, cause: Cause, at: datetime, tx: Transaction) -> None:
    session = tx.sessions.get(hold_id)
    if session is not None:
        end_sessions(services, tx, [session], cause, at)
