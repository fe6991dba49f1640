"""Charge a course for the runs of its submissions: a hold before each, what it took by its backend's evidence, and the rest back.

Idempotent under the grader's id, which is made before anything starts. Invariants: without a hold nothing is executed; a run is charged once,
from its backend's own start and end; where nothing shows that it ever started its hold is released, at once if its grader says that it is over
and after the lease otherwise; a backend that cannot be asked settles and releases nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from quota.domain.errors import (
    IdConflict,
    Invalid,
    Param,
    QuotaError,
    RefusalCode,
    Refused,
    TooMany,
    Unavailable,
    Unknown,
    WrongState,
)
from quota.domain.exchange import is_name
from quota.domain.grading import GradingTerms, is_grading
from quota.domain.hold import Hold, HoldKind, HoldOrder, HoldState, Usage, body_hash, repeated
from quota.domain.ids import HoldId
from quota.domain.project import ProjectState, payer
from quota.domain.rates import charge_due
from quota.domain.session import Evidence, Seen, Unreachable
from quota.domain.units import Unit
from quota.service.callers import Caller
from quota.service.courses import closed_course
from quota.service.exchange import staff_of
from quota.service.ports import Transaction
from quota.service.services import Services
from quota.service.session_ports import Asked
from quota.service.settle import elapsed_ms

log = logging.getLogger("quota.gradings")
SOURCE: Final = "grading"  # of the usage records made here
PROFILE: Final = "grading"
OPEN_MAX: Final = 100  # of one person at a time: where runs cost nothing no balance bounds them
_NEVER: Final = "never_started"


@dataclass(frozen=True, slots=True)
class GradingOrder:
    """One run that a grader is about to start."""

    id: HoldId
    course: str
    assignment: str
    student: str


async def place(services: Services, caller: Caller, order: GradingOrder) -> Hold | Refused:
    """Set the longest time of a run aside on the course's allocation, or say why not.

    Raises Unknown('course'), Forbidden for students, IdConflict for a known id with another body, TooMany, Unavailable.
    """
    if not is_name(order.assignment):
        raise Invalid([("assignment", "assignment_name")])
    known = await services.ledger.hold(order.id)
    if known is not None:
        wanted = repeated(known, _fingerprint(caller, order))
    else:
        decided = await services.store.read(lambda tx: _decide(services, tx, caller, order))
        if isinstance(decided, Refused):
            return decided
        if sum(one.actor == caller.id for one in await open_gradings(services)) >= OPEN_MAX:
            raise TooMany("too many runs at once", retry_after_s=60)
        wanted = decided
    hold = await services.ledger.place_hold(wanted)
    if hold.state is HoldState.REFUSED:
        available = None if hold.refusal is None else hold.refusal.params.get("available")
        return _unpaid(order.course, hold.amount, available if type(available) is int else 0)
    return hold


async def ended(services: Services, caller: Caller, slug: str, grading_id: HoldId) -> Hold:
    """Take its grader's word that a run is over: evidence decides what is charged. Raises Unknown, Forbidden, Unavailable.

    What executed it stays until `clear`, for which the grader need not wait.
    """
    await services.store.read(lambda tx: staff_of(tx, caller, slug))
    hold = await services.ledger.hold(grading_id)
    if hold is None or not is_grading(hold.details) or hold.details["grading"] != slug or hold.actor != caller.id:
        raise Unknown("grading", grading_id=grading_id)
    if hold.state is HoldState.HELD:
        await _close_all(services, [hold], over=True)
    return await services.ledger.hold(grading_id) or hold


async def clear(services: Services, hold: Hold) -> None:
    """Have what executed a run removed, once it is closed."""
    if hold.state is not HoldState.HELD:
        await services.evidence.settled([hold.id])


async def close_gradings(services: Services) -> int:
    """Charge and close every run that has ended, whoever forgot to say so; returns how many."""
    closed = await _close_all(services, await open_gradings(services), over=False)
    if closed:
        await services.evidence.settled(closed)
    return len(closed)


async def open_gradings(services: Services) -> Sequence[Hold]:
    """The runs whose holds stand."""
    return [one for one in await services.ledger.open_holds(HoldKind.REQUEST) if is_grading(one.details)]


def _decide(services: Services, tx: Transaction, caller: Caller, order: GradingOrder) -> HoldOrder | Refused:
    at, place_ = services.clock.now(), services.grading
    course = staff_of(tx, caller, order.course).course
    closed = closed_course(tx, course.project_id, caller.id, at)
    if closed is not None:
        return closed
    project = tx.projects.get(course.project_id)
    if project is None or project.state is not ProjectState.ACTIVE:
        return Refused(RefusalCode.PROJECT_SUSPENDED, {"project": course.title})
    rate = tx.rates.at(place_.hardware, at)
    terms = GradingTerms(
        course=order.course,
        assignment=order.assignment,
        student=order.student,
        backend=place_.backend,
        hardware=place_.hardware,
        cpus=place_.cpus,
        rate=Fraction(0) if rate is None else rate.rate,
        runtime_s=place_.runtime_s,
    )
    chosen = payer(list(tx.accounts.of_project(course.project_id)), Unit.GPU_MS, terms.amount, at)
    if chosen is None:
        return Refused(RefusalCode.NO_ALLOCATION, {"project": course.title})
    if terms.amount > 0 and chosen.spendable < terms.amount:
        return _unpaid(order.course, terms.amount, chosen.spendable)
    return HoldOrder(
        id=order.id,
        kind=HoldKind.REQUEST,
        subject=f"{order.course}/{order.assignment}",
        actor=caller.id,
        project_id=course.project_id,
        allocation_id=chosen.id,
        unit=Unit.GPU_MS,
        amount=terms.amount,
        at=at,
        lease_until=at + timedelta(seconds=services.policy.start_lease_s),
        details=terms.as_details(),
        fingerprint=_fingerprint(caller, order),
    )


def _fingerprint(caller: Caller, order: GradingOrder) -> str:
    return body_hash(
        {
            "kind": SOURCE,
            "actor": caller.id,
            "course": order.course,
            "assignment": order.assignment,
            "student": order.student,
        }
    )


def _unpaid(course: str, requested: int, available: int) -> Refused:
    numbers: dict[str, Param] = {"requested": requested, "available": max(available, 0), "unit": Unit.GPU_MS.value}
    return Refused(RefusalCode.GRADING_UNPAID, {"course": course, **numbers})


async def _close_all(services: Services, holds: Sequence[Hold], *, over: bool) -> list[HoldId]:
    if not holds:
        return []
    asked = [Asked(one.id, str(one.details["backend"]), PROFILE, one.project_id, one.placed_at) for one in holds]
    seen = await services.evidence.read(asked)
    closed: list[HoldId] = []
    for hold in holds:
        try:
            if await _close(services, hold, seen.get(hold.id, Unreachable("nothing was said of it")), over=over):
                closed.append(hold.id)
        except (IdConflict, WrongState):  # another process was faster
            continue
        except Unavailable:
            raise
        except QuotaError:  # this one waits for somebody to look; the others must not
            log.exception("run %s: the ledger does not take what its evidence says; it stays open", hold.id)
    return closed


async def _close(services: Services, hold: Hold, seen: Seen, *, over: bool) -> bool:
    """Whether it is closed now."""
    at = services.clock.now()
    evidence = None if isinstance(seen, Unreachable) else seen
    if evidence is not None and evidence.ended_at is not None:
        await services.ledger.settle(hold.id, at, _usage(hold, evidence))
        return True
    if evidence is not None and evidence.reason is not None and evidence.started_at is None:
        await services.ledger.release(hold.id, at, _NEVER)
        return True
    lives = isinstance(seen, Unreachable) or (evidence is not None and evidence.started_at is not None)
    if lives:
        await _renew(services, hold, at)
        return False
    if at < hold.lease_until and not (over and evidence is None):
        return False
    await services.ledger.release(hold.id, at, _NEVER)
    return True


async def _renew(services: Services, hold: Hold, at: datetime) -> None:
    lease = timedelta(seconds=services.policy.unknown_lease_s)
    if hold.lease_until < at + lease / 2:
        await services.ledger.extend_lease(hold.id, at + lease)


def _usage(hold: Hold, evidence: Evidence) -> Usage:
    assert evidence.started_at is not None
    assert evidence.ended_at is not None
    terms = GradingTerms.from_details(hold.details)
    took_ms = elapsed_ms(evidence.started_at, evidence.ended_at)
    return Usage(
        source=SOURCE,
        event_id=str(hold.id),
        hold_id=hold.id,
        from_at=evidence.started_at,
        to_at=evidence.ended_at,
        quantity=took_ms,
        amount=charge_due(terms.rate, terms.cpus, took_ms, 0),
        payload={} if evidence.reason is None else {"end_reason": evidence.reason.value},
    )
