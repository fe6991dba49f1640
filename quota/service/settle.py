"""What evidence means for an open session hold: wait, charge a slice, settle, release. Pure.

Invariants: amounts follow from timestamps, never from ticks; the total is metered and the difference charged, so that slices
cannot drift; silence is never an end. The id of a usage record is the hold's id and its number in the hold, so that of two
passes that saw the same state only one can charge.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from quota.domain.hold import Hold, Usage
from quota.domain.rates import charge_due
from quota.domain.session import EndReason, Evidence, SessionTerms
from quota.service.services import Policy

SOURCE: Final = "session"


class Verdict(StrEnum):
    WAIT = "wait"  # on its way: nothing is charged, the hold stands
    CHARGE = "charge"  # it runs: charge up to the last proof of life
    SETTLE = "settle"  # it ended: charge the rest, close the hold
    RELEASE = "release"  # it never ran: close the hold without a charge
    LOST = "lost"  # it ran, and its evidence is gone for good: close with what is charged


@dataclass(frozen=True, slots=True)
class Sighting:
    """What else is known when evidence is judged. `listed` is None while the hub does not answer."""

    at: datetime
    listed: bool | None
    hinted_at: datetime | None = None  # when the hub said that the session ended


def judge(hold: Hold, evidence: Evidence | None, seen: Sighting, policy: Policy) -> Verdict:
    """What to do with an open hold. Only positive evidence ends a session; without any, the hub and the lease decide."""
    if evidence is not None and evidence.started_at is not None:
        return Verdict.CHARGE if evidence.ended_at is None else Verdict.SETTLE
    if evidence is not None and evidence.reason is EndReason.NEVER_STARTED:
        return Verdict.RELEASE
    if seen.listed is not False:
        return Verdict.WAIT
    never_seen = evidence is None and hold.next_seq == 0
    grace = timedelta(seconds=policy.ended_grace_s)
    if never_seen and seen.hinted_at is not None and seen.at >= seen.hinted_at + grace:
        return Verdict.RELEASE
    if seen.at < hold.lease_until:
        return Verdict.WAIT
    return Verdict.RELEASE if hold.next_seq == 0 else Verdict.LOST


def usage_due(hold: Hold, terms: SessionTerms, evidence: Evidence) -> Usage | None:
    """The slice from what is charged to the end, or to the last proof of life; None where there is nothing new.

    Raises InvariantBroken where more was charged than the evidence shows.
    """
    started_at = evidence.started_at
    to_at = evidence.ended_at or evidence.alive_at
    if started_at is None or to_at is None:
        return None
    from_at = hold.charged_to or started_at
    amount = charge_due(terms.rate, terms.gpus, elapsed_ms(started_at, to_at), hold.charged)
    free_and_running = evidence.ended_at is None and terms.rate * terms.gpus == 0
    if free_and_running or (amount == 0 and to_at <= from_at):
        return None
    return Usage(
        source=SOURCE,
        event_id=f"{hold.id}:{hold.next_seq}",
        hold_id=hold.id,
        from_at=from_at,
        to_at=to_at,
        quantity=elapsed_ms(from_at, to_at),
        amount=amount,
        payload={"end_reason": evidence.reason.value} if evidence.reason is not None else {},
    )


def elapsed_ms(from_at: datetime, to_at: datetime) -> int:
    """Whole milliseconds between two instants, exact."""
    return (to_at - from_at) // timedelta(milliseconds=1)
