"""What evidence means for an open session hold: wait, charge a slice, settle, release. Pure.

Invariants: amounts follow from timestamps, never from ticks; the total is metered and the difference charged, so that slices
cannot drift; silence is never an end. The id of a usage record is the hold's id and its number in the hold, so that of two
passes that saw the same state only one can charge.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Final

from quota.domain.hold import Hold, Usage
from quota.domain.rates import charge_due
from quota.domain.session import EndReason, Evidence, Run, SessionTerms
from quota.service.services import Policy

SOURCE: Final = "session"


_NEVER_RAN: Final = frozenset({EndReason.NEVER_STARTED, EndReason.CANCELLED, EndReason.DEVICE_MISSING})


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
    hub_since: datetime | None = None  # when the hub that lists, or does not, was started


def judge(hold: Hold, evidence: Evidence | None, seen: Sighting, policy: Policy) -> Verdict:
    """What to do with an open hold. Only positive evidence ends a session; without any, the hub and the lease decide."""
    if evidence is not None and evidence.started_at is not None:
        return Verdict.CHARGE if evidence.ended_at is None else Verdict.SETTLE
    if evidence is not None and evidence.reason in _NEVER_RAN:
        return Verdict.RELEASE
    if evidence is not None and evidence.waiting_since is not None:
        return Verdict.WAIT  # in a queue, whoever lists it
    if seen.listed is not False:
        return Verdict.WAIT
    never_seen = evidence is None and hold.next_seq == 0
    grace = timedelta(seconds=policy.ended_grace_s)
    if never_seen and seen.hinted_at is not None and seen.at >= seen.hinted_at + grace:
        return Verdict.RELEASE
    # A hold from the future was placed while the clock ran ahead: its lease would keep it for as long as the clock was wrong.
    earlier = seen.hub_since is not None and not seen.hub_since <= hold.placed_at <= seen.at + grace
    orphaned = seen.listed is False and earlier
    if never_seen and orphaned and seen.hub_since is not None and seen.at >= seen.hub_since + grace:
        return Verdict.RELEASE  # the hub that asked for it is gone, and nothing was started
    if seen.at < hold.lease_until:
        return Verdict.WAIT
    return Verdict.RELEASE if hold.next_seq == 0 else Verdict.LOST


def usages_due(hold: Hold, terms: SessionTerms, evidence: Evidence) -> list[Usage]:
    """The slices from what is charged to the end, or to the last proof of life: one a run on the hardware, [] where nothing is new.

    Between two runs (requeued, suspended) nothing is billed. Raises InvariantBroken where more was charged than the evidence shows.
    """
    running = evidence.ended_at is None
    if running and (terms.gpus == 0 or terms.rate == 0):
        return []
    due: list[Usage] = []
    price = terms.rate * terms.gpus
    total_ms, charged, seq = 0, hold.charged, hold.next_seq
    for run in evidence.billed:
        total_ms += run.billed_ms
        if hold.charged_to is not None and run.to_at <= hold.charged_to:
            continue
        from_at = run.from_at if hold.charged_to is None else max(run.from_at, hold.charged_to)
        amount = charge_due(price, 1, total_ms, charged)
        if amount == 0 and run.to_at <= from_at:
            continue
        due.append(_slice(hold, evidence, Span(from_at, run.to_at, _busy_ms(run, from_at, price, amount)), amount, seq))
        charged, seq = charged + amount, seq + 1
    late = charge_due(price, 1, total_ms, charged)
    if late > 0 and hold.charged_to is not None:
        # Evidence that came late, of time before what is charged already: a record without a length carries it.
        at = hold.charged_to
        due.append(_slice(hold, evidence, Span(at, at, 0), late, seq))
    return due


@dataclass(frozen=True, slots=True)
class Span:
    """What a usage record covers; `busy_ms` is what of it is billed."""

    from_at: datetime
    to_at: datetime
    busy_ms: int


def _busy_ms(run: Run, from_at: datetime, price: Fraction, amount: int) -> int:
    """Milliseconds of the slice that are billed: all of them, or with a suspension inside as many as its amount pays for."""
    whole_ms = elapsed_ms(from_at, run.to_at)
    if run.busy_ms is None or price == 0:
        return whole_ms
    return min(whole_ms, -int(-amount // price))


def _slice(hold: Hold, evidence: Evidence, span: Span, amount: int, seq: int) -> Usage:
    return Usage(
        source=SOURCE,
        event_id=f"{hold.id}:{seq}",
        hold_id=hold.id,
        from_at=span.from_at,
        to_at=span.to_at,
        quantity=span.busy_ms,
        amount=amount,
        payload={"end_reason": evidence.reason.value} if evidence.reason is not None else {},
    )


def elapsed_ms(from_at: datetime, to_at: datetime) -> int:
    """Whole milliseconds between two instants, exact."""
    return (to_at - from_at) // timedelta(milliseconds=1)
