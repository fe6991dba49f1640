"""Place a session's hold: priced and decided by `quote`, set aside by the ledger, then written down as a session.

Idempotent under the caller's hold id: the same request gets the first answer again, gateway key included; another body is a
conflict. A crash between hold and session row loses nothing, since the row is made again from the hold's details.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from quota.domain.course import STAFF, CoursePhase
from quota.domain.errors import RefusalCode, Refused, Unknown
from quota.domain.fence import Fence
from quota.domain.hold import Hold, HoldKind, HoldOrder, HoldState, body_hash, repeated
from quota.domain.ids import HoldId, ProjectId
from quota.domain.project import Person
from quota.domain.rates import longest_runtime_s
from quota.domain.session import Session, SessionState, SessionTerms
from quota.domain.units import Unit
from quota.service.callers import person_named
from quota.service.keys import session_key
from quota.service.limiting import limits_of_start, with_what_fits
from quota.service.ports import Transaction
from quota.service.quote import Quote, QuoteRequest, priced_profile, quote_session
from quota.service.services import Services


@dataclass(frozen=True, slots=True)
class SessionHoldRequest:
    """The body of a hold, as the hub sends it; `actor` is a hub user name."""

    hold_id: HoldId
    actor: str
    project_id: ProjectId
    profile: str
    application: str
    runtime_s: int
    server_name: str

    @property
    def fingerprint(self) -> str:
        return body_hash(
            {
                "kind": HoldKind.SESSION.value,
                "actor": self.actor,
                "project_id": self.project_id,
                "profile": self.profile,
                "application": self.application,
                "runtime_s": self.runtime_s,
                "server_name": self.server_name,
            }
        )


@dataclass(frozen=True, slots=True)
class SessionHold:
    """What the hub needs to start a session."""

    hold: Hold
    terms: SessionTerms
    available: int  # on the paying allocation, after the hold
    gateway_key: str
    owner: Person  # whose login and uid the session runs under
    replayed: bool
    course: str = ""  # whose work it may be: the name of the course that pays, where the owner is in it
    teaches: bool = False  # whether the owner is instructor or grader of any course that is not over

    @property
    def ends_within_ms(self) -> int:
        """Milliseconds after its start at which the session is told to stop."""
        return self.terms.runtime_s * 1000


async def place_session_hold(
    services: Services, request: SessionHoldRequest, fence: Fence | None = None
) -> SessionHold | Refused:
    """Set the whole runtime plus margin aside, or say why not.

    `fence` is the asking hub's epoch. Raises Unknown('person' | 'project' | 'profile'), IdConflict for a known id with another body,
    StaleEpoch, Unavailable.
    """
    ledger = services.ledger if fence is None else services.ledger.fenced(fence)
    known = await services.ledger.hold(request.hold_id)
    if known is not None:
        # The ledger compares fingerprints; the first order's numbers stand, whatever the prices are today.
        return await answer_of(services, await ledger.place_hold(repeated(known, request.fingerprint)))
    actor = await person_named(services, request.actor)
    if request.application not in priced_profile(services, request.profile).applications:
        raise Unknown("profile", profile=request.profile, application=request.application)
    quoted = await quote_session(
        services, QuoteRequest(actor.id, request.project_id, request.profile, request.runtime_s)
    )
    by_ledger = quoted.refusal is not None and quoted.refusal.code is RefusalCode.INSUFFICIENT_BALANCE
    decided_here = quoted.refusal is not None and (not by_ledger or quoted.quote.lowered)
    if quoted.refusal is not None and (decided_here or quoted.quote.allocation_id is None):
        return quoted.refusal
    limits = await limits_of_start(services, actor.id, quoted.quote)
    order = order_of(services, request, actor, quoted.quote)._replace(limits=limits)
    return await answer_of(services, await ledger.place_hold(order))


def order_of(services: Services, request: SessionHoldRequest, actor: Person, quote: Quote) -> HoldOrder:
    """The order for the ledger; where it does not fit, the ledger refuses and keeps that answer under the id."""
    if quote.allocation_id is None:
        raise ValueError("a quote without an allocation cannot be ordered")
    terms = SessionTerms(
        profile=quote.price.profile,
        application=request.application,
        hardware=quote.price.hardware,
        gpus=quote.price.gpus,
        rate=quote.price.rate,
        runtime_s=quote.price.runtime_s,
        margin_s=quote.price.margin_s,
        server_name=request.server_name,
        hub_name=request.actor,
        backend=quote.price.backend,
    )
    at = services.clock.now()
    return HoldOrder(
        id=request.hold_id,
        kind=HoldKind.SESSION,
        subject=f"{request.actor}/{request.server_name}",
        actor=actor.id,
        project_id=request.project_id,
        allocation_id=quote.allocation_id,
        unit=Unit.GPU_MS,
        amount=quote.amount,
        at=at,
        lease_until=at + timedelta(seconds=services.policy.start_lease_s),
        details=terms.as_details(),
        fingerprint=request.fingerprint,
    )


async def answer_of(services: Services, hold: Hold) -> SessionHold | Refused:
    """What the hub is told of a hold; its session's row is made where there is none."""
    terms = SessionTerms.from_details(hold.details)
    if hold.state is HoldState.REFUSED:
        return explained(hold, terms)
    at = services.clock.now()
    available, owner, course, teaches = await services.store.write(
        lambda tx: (*_record(tx, hold), _teaches(tx, hold, at))
    )
    key = session_key(services.session_key_secret, hold.id)
    return SessionHold(hold, terms, available, key, owner, hold.replayed, course, teaches)


def _teaches(tx: Transaction, hold: Hold, at: datetime) -> bool:
    courses = tx.courses.of_person(hold.actor)
    return any(role in STAFF and course.phase_at(at) is not CoursePhase.OVER for course, role in courses)


def _record(tx: Transaction, hold: Hold) -> tuple[int, Person, str]:
    if tx.sessions.get(hold.id) is None:
        tx.sessions.upsert(session_of(hold))
    allocation = tx.accounts.get(hold.allocation_id)
    owner = tx.people.by_id(hold.actor)
    if owner is None:
        raise Unknown("person", person=hold.actor)
    course = tx.courses.of_project(hold.project_id)
    slug = course.slug if course is not None and tx.courses.role(hold.project_id, hold.actor) is not None else ""
    return (allocation.balance.available if allocation is not None else 0), owner, slug


def explained(hold: Hold, terms: SessionTerms) -> Refused:
    """The ledger's refusal with the runtime that would have fitted."""
    refusal = with_what_fits(hold.refusal or Refused(RefusalCode.INSUFFICIENT_BALANCE), terms)
    available = refusal.params.get("available")
    if refusal.code is not RefusalCode.INSUFFICIENT_BALANCE or type(available) is not int:
        return refusal
    fits = longest_runtime_s(terms.rate, terms.gpus, available, terms.margin_s)
    return Refused(refusal.code, {**refusal.params, "unit": hold.unit.value, "fits_runtime_s": fits})


def session_of(hold: Hold) -> Session:
    """The session's row as it is right after its hold was placed."""
    return Session(
        hold_id=hold.id,
        person_id=hold.actor,
        project_id=hold.project_id,
        allocation_id=hold.allocation_id,
        terms=SessionTerms.from_details(hold.details),
        state=SessionState.HELD,
        held_at=hold.placed_at,
        started_at=None,
        alive_at=None,
        ends_at=None,
        ended_at=None,
        end_reason=None,
        stop_reason=None,
        amount=hold.amount,
        charged=hold.charged,
    )
