"""Applications: submit, read, decide. Approval and award are one step until rounds with reviewers exist.

Invariants: nobody decides on their own application; requested and awarded amounts are kept apart; project, PI, allocations and
deposits of an award appear in one transaction or not at all (quota.service.award).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from quota.domain.application import Application, ApplicationState, Ask, Decision
from quota.domain.errors import Forbidden, Invalid, Unknown, WrongState
from quota.domain.hold import body_hash
from quota.domain.ids import ApplicationId, ProjectId, new_id
from quota.domain.units import AMOUNT_MAX, GPU_MS_PER_GPU_HOUR
from quota.service.award import Award, make_award
from quota.service.callers import Caller, Power
from quota.service.ports import Transaction
from quota.service.services import Programme, Services

UNDECIDED_MAX: Final = 200  # of one person at once: a script that applies and applies fills nobody's list
_OPEN = (ApplicationState.SUBMITTED, ApplicationState.RETURNED, ApplicationState.IN_REVIEW)


@dataclass(frozen=True, slots=True)
class Submitted:
    application: Application
    replayed: bool


@dataclass(frozen=True, slots=True)
class DecideRequest:
    """A decision; the amounts count for an approval only, `message` is what the applicant reads."""

    application_id: ApplicationId
    decision: Decision
    gpu_ms: int
    tokens: int
    message: str


async def submit(services: Services, caller: Caller, application_id: ApplicationId, ask: Ask) -> Submitted:
    """Store a submitted application under the caller's id. Raises Invalid with its fields, IdConflict for another body."""
    at = services.clock.now()
    ask = Ask(ask.title.strip(), ask.purpose.strip(), ask.gpu_ms, ask.tokens, ask.starts_on, ask.ends_on)
    check_ask(ask, services.programme)
    fingerprint = body_hash({"applicant": caller.id, **_ask_body(ask)})

    def work(tx: Transaction) -> Submitted:
        if tx.applications.get(application_id) is None:
            _check_not_past(ask, at.date())  # a replay may come after the dates have passed
        added = tx.applications.add(application_id, caller.id, ask, at, fingerprint)
        undecided = [one for one in tx.applications.of_person(caller.id) if one.state in _OPEN]
        if added and len(undecided) > UNDECIDED_MAX:
            raise Invalid([("application", "too_many_open")])
        if added:
            subject = str(application_id)
            tx.audit(
                actor=caller.id,
                action="submitted",
                subject=subject,
                before=None,
                after=_ask_body(ask),
                reason=None,
                at=at,
            )
        stored = tx.applications.get(application_id)
        if stored is None:
            raise Unknown("application", application_id=application_id)
        return Submitted(stored, replayed=not added)

    return await services.store.write(work)


def check_ask(ask: Ask, programme: Programme) -> None:
    """Raises Invalid with every field that is wrong, as message codes."""
    wrong: list[tuple[str, str]] = []
    if not 3 <= len(ask.title) <= 200:
        wrong.append(("title", "length_3_200"))
    if not 10 <= len(ask.purpose) <= 5000:
        wrong.append(("purpose", "length_10_5000"))
    if not 0 <= ask.gpu_ms <= programme.ask_gpu_hours_max * GPU_MS_PER_GPU_HOUR:
        wrong.append(("gpu_hours", "out_of_range"))
    if not 0 <= ask.tokens <= programme.ask_tokens_max:
        wrong.append(("tokens", "out_of_range"))
    if ask.gpu_ms == 0 and ask.tokens == 0:
        wrong.append(("gpu_hours", "nothing_asked"))
    if ask.ends_on <= ask.starts_on:
        wrong.append(("ends_on", "ends_before_start"))
    elif (ask.ends_on - ask.starts_on).days > programme.ask_days_max:
        wrong.append(("ends_on", "too_long"))
    if wrong:
        raise Invalid(wrong)


def _check_not_past(ask: Ask, today: date) -> None:
    # One day of grace: "today" west of Greenwich may be yesterday in UTC.
    if ask.starts_on < today - timedelta(days=1):
        raise Invalid([("starts_on", "in_the_past")])
    if ask.ends_on <= today:
        raise Invalid([("ends_on", "in_the_past")])


async def own_applications(services: Services, caller: Caller) -> Sequence[Application]:
    """The caller's applications, newest first."""
    return await services.store.read(lambda tx: tx.applications.of_person(caller.id))


async def all_applications(services: Services, caller: Caller) -> Sequence[Application]:
    """Every application, for those who decide. Raises Forbidden."""
    caller.must(Power.DECIDE)
    return await services.store.read(lambda tx: tx.applications.in_state(*ApplicationState))


async def review_queue(services: Services, caller: Caller) -> Sequence[Application]:
    """Applications that wait for a decision, for those who decide. Raises Forbidden."""
    caller.must(Power.DECIDE)
    return await services.store.read(lambda tx: tx.applications.in_state(*_OPEN))


async def application(services: Services, caller: Caller, application_id: ApplicationId) -> Application:
    """One application: one's own, or any for those who decide. Raises Unknown('application')."""
    found = await services.store.read(lambda tx: tx.applications.get(application_id))
    if found is None or not (found.applicant == caller.id or caller.may(Power.DECIDE)):
        raise Unknown("application", application_id=application_id)
    return found


async def decide(services: Services, caller: Caller, request: DecideRequest) -> Application:
    """Approve with amounts or reject with a message. Raises Forbidden, Unknown('application'), WrongState, Invalid."""
    caller.must(Power.DECIDE)
    message = request.message.strip()
    check_decision(request, message)
    at = services.clock.now()
    project_id = ProjectId(new_id()) if request.decision is Decision.APPROVE else None

    def work(tx: Transaction) -> Application:
        asked = tx.applications.get(request.application_id)
        if asked is None:
            raise Unknown("application", application_id=request.application_id)
        if asked.applicant == caller.id:
            raise Forbidden("nobody decides on their own application", code="own_application")
        if asked.state is not ApplicationState.SUBMITTED:
            raise WrongState(f"the application is {asked.state}", state=asked.state.value)
        if project_id is not None:
            make_award(tx, asked, Award(project_id, request.gpu_ms, request.tokens, caller.id, at))
        approve = project_id is not None
        tx.applications.decide(
            asked.id,
            expected=ApplicationState.SUBMITTED,
            to=ApplicationState.AWARDED if approve else ApplicationState.REJECTED,
            by=caller.id,
            at=at,
            message=message,
            awarded_gpu_ms=request.gpu_ms if approve else None,
            awarded_tokens=request.tokens if approve else None,
            project_id=project_id,
        )
        after = {"decision": request.decision.value, "gpu_ms": request.gpu_ms, "tokens": request.tokens}
        subject = str(asked.id)
        tx.audit(actor=caller.id, action="decided", subject=subject, before=None, after=after, reason=message, at=at)
        decided = tx.applications.get(asked.id)
        return decided if decided is not None else asked

    return await services.store.write(work)


def check_decision(request: DecideRequest, message: str) -> None:
    """Raises Invalid: a message of at most 2,000 characters (a rejection needs one), amounts not negative, not both zero."""
    wrong: list[tuple[str, str]] = []
    if len(message) > 2000:
        wrong.append(("message", "too_long"))
    if request.decision is Decision.REJECT and len(message) < 3:
        wrong.append(("message", "required"))
    if request.decision is Decision.APPROVE:
        if not 0 <= request.gpu_ms <= AMOUNT_MAX:
            wrong.append(("gpu_hours", "out_of_range"))
        if not 0 <= request.tokens <= AMOUNT_MAX:
            wrong.append(("tokens", "out_of_range"))
        if request.gpu_ms == 0 and request.tokens == 0:
            wrong.append(("gpu_hours", "nothing_awarded"))
    if wrong:
        raise Invalid(wrong)


def _ask_body(ask: Ask) -> dict[str, object]:
    return {
        "title": ask.title,
        "purpose": ask.purpose,
        "gpu_ms": ask.gpu_ms,
        "tokens": ask.tokens,
        "starts_on": ask.starts_on.isoformat(),
        "ends_on": ask.ends_on.isoformat(),
    }
