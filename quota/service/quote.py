"""What a start would cost, and whether it may: the one function that decides quotes, holds and the list of payers.

Invariant: `decide` is pure. A quote shown to a person and the hold placed a minute later differ only where the facts do; the
ledger's own condition has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction

from quota.domain.course import Course, CourseRole, refusal_of
from quota.domain.errors import Param, RefusalCode, Refused, Unavailable, Unknown
from quota.domain.ids import AllocationId, PersonId, ProjectId
from quota.domain.limits import Limit, LimitName, member_day_limit, member_limit, rescue_limit, site_limits, use_of
from quota.domain.project import Allocation, AllocationState, Project, ProjectRole, ProjectState, payer
from quota.domain.rates import hold_amount, longest_runtime_s
from quota.domain.units import AMOUNT_MAX, Unit
from quota.service.ports import LimitStanding, Transaction
from quota.service.services import Services
from quota.service.session_ports import PricedProfile


@dataclass(frozen=True, slots=True)
class QuoteRequest:
    actor: PersonId
    project_id: ProjectId
    profile: str
    runtime_s: int


@dataclass(frozen=True, slots=True)
class Price:
    """What one start costs: everything that a hold pins."""

    profile: str
    hardware: str
    gpus: int
    rate: Fraction
    runtime_s: int
    margin_s: int
    backend: str = "local"

    @property
    def amount(self) -> int:
        """GPU-milliseconds to set aside."""
        return hold_amount(self.rate, self.gpus, self.runtime_s, self.margin_s)


@dataclass(frozen=True, slots=True)
class Payer:
    """A project as a payer: the facts that decide, read in one transaction."""

    project: Project
    role: ProjectRole | None
    allocations: Sequence[Allocation]
    course: Course | None = None
    course_role: CourseRole | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """A price on one allocation. `leaves` may be negative: then the start is refused."""

    project_id: ProjectId
    allocation_id: AllocationId | None
    price: Price
    available: int
    fits_runtime_s: int | None
    lowered: bool = False  # an award that is being reclaimed: the ledger would give what is not theirs any more
    share: int | None = None  # what is left of the person's own share of the project; None: they have none

    unit = Unit.GPU_MS

    @property
    def amount(self) -> int:
        return self.price.amount

    @property
    def leaves(self) -> int:
        return self.available - self.amount


@dataclass(frozen=True, slots=True)
class Quoted:
    """The answer to a quote; with `refusal` the start would be refused for the reason given."""

    quote: Quote
    refusal: Refused | None


async def quote_session(services: Services, request: QuoteRequest) -> Quoted:
    """Price a start and say whether it may. Raises Unknown('project' | 'profile')."""
    at = services.clock.now()
    profile = priced_profile(services, request.profile)
    price, who = await services.store.read(lambda tx: _facts(services, tx, request, profile, at))
    if profile.rescue:
        used_s = await services.store.read(lambda tx: rescue_used_s(tx, request.actor, at))
        if request.runtime_s > services.policy.rescue_s_a_day - used_s:
            quoted = decide(price, who, profile.longest_runtime_s, at, _rules(services, profile))
            return Quoted(quoted.quote, quoted.refusal or rescue_refusal(used_s, services.policy.rescue_s_a_day))
    quoted = decide(price, who, profile.longest_runtime_s, at, _rules(services, profile))
    if quoted.refusal is not None:
        return quoted

    def work(tx: Transaction) -> Quoted:
        refusal = limit_that_bites(services, tx, request.actor, quoted.quote)
        own = member_shares(tx, request.project_id, request.actor).get(Unit.GPU_MS)
        return Quoted(replace(quoted.quote, share=None if own is None else own.available), refusal)

    return await services.store.read(work)


def member_shares(tx: Transaction, project_id: ProjectId, person_id: PersonId) -> dict[Unit, LimitStanding]:
    """What a person may use of a project in each unit, and has; units without such a limit are left out."""
    found = {unit: tx.limits.get(member_limit(project_id, person_id, unit).id) for unit in Unit}
    return {unit: one for unit, one in found.items() if one is not None and one.cap < AMOUNT_MAX}


def limit_that_bites(services: Services, tx: Transaction, person_id: PersonId, quote: Quote) -> Refused | None:
    """Which limit the ledger would refuse this start for, as its counters stand; one that was never counted has all its cap."""
    at = services.clock.now()
    wanted = site_limits(services.limits, quote.project_id, person_id, at)
    wanted += day_share(tx, quote.project_id, person_id, at)
    for limit in [*wanted, member_limit(quote.project_id, person_id, Unit.GPU_MS)]:
        use, standing = use_of(limit, quote.price.gpus, quote.amount), tx.limits.get(limit.id)
        if use is None or (standing is None and limit.name is LimitName.MEMBER):
            continue
        used = 0 if standing is None else standing.charged + standing.held
        cap = standing.cap if standing is not None and limit.name is LimitName.MEMBER else limit.cap
        if use.amount > cap - used:
            return limit_refusal(limit, use.amount, max(cap - used, 0), quote.price)
    return None


def day_share(tx: Transaction, project_id: ProjectId, person_id: PersonId, at: datetime) -> list[Limit]:
    """A member's share of the project for the day, where its leads set one."""
    kept = tx.limits.get(member_day_limit(project_id, person_id, Unit.GPU_MS).id)
    if kept is None or kept.cap >= AMOUNT_MAX:
        return []
    return [member_day_limit(project_id, person_id, Unit.GPU_MS, kept.cap, at)]


def limit_refusal(limit: Limit, requested: int, available: int, price: Price) -> Refused:
    """A limit's refusal in the ledger's words, with the runtime that it would still allow."""
    params: dict[str, Param] = {"limit": limit.id, "kind": limit.kind, "limit_name": limit.name.value}
    params |= {"requested": requested, "available": available}
    if limit.name in (LimitName.MEMBER, LimitName.DAY, LimitName.MEMBER_DAY):
        fits = longest_runtime_s(price.rate, price.gpus, available, price.margin_s)
        params |= {"unit": Unit.GPU_MS.value, "fits_runtime_s": fits}
    return Refused(RefusalCode.LIMIT_REACHED, params)


@dataclass(frozen=True, slots=True)
class Rules:
    """Policy's numbers that decide a start. `grace` is how long after an allocation's end what is free for rescue still starts."""

    pi_absence: timedelta = timedelta(days=30)
    grace: timedelta = timedelta(0)


def _rules(services: Services, profile: PricedProfile) -> Rules:
    policy = services.policy
    grace = timedelta(days=policy.grace_days if profile.rescue else 0)
    return Rules(timedelta(days=policy.pi_absence_days), grace)


def rescue_used_s(tx: Transaction, person_id: PersonId, at: datetime) -> int:
    """Seconds of this UTC day that a person's rescue sessions took; one that is not over counts with its whole runtime."""
    standing = tx.limits.get(rescue_limit(person_id, at, 0).id)
    return 0 if standing is None else -(-(standing.charged + standing.held) // 1000)


def rescue_refusal(used_s: int, a_day_s: int) -> Refused:
    """Why no rescue session starts that long, and how long one may be."""
    return Refused(RefusalCode.RESCUE_USED_UP, {"used_s": used_s, "fits_runtime_s": max(0, a_day_s - used_s) or None})


def decide(price: Price, who: Payer, longest_s: int, at: datetime, rules: Rules | None = None) -> Quoted:
    """Choose the allocation and accept or refuse; pure."""
    rules = rules or Rules()
    chosen = payer(list(who.allocations), Unit.GPU_MS, price.amount, at)
    if chosen is None and price.amount == 0:
        chosen = _in_grace(who.allocations, at, rules.grace)
    available = chosen.spendable if chosen is not None else 0
    fits = longest_runtime_s(price.rate, price.gpus, available, price.margin_s)
    fits = min(fits, longest_s) if fits is not None else None
    lowered = chosen is not None and chosen.target is not None
    quote = Quote(who.project.id, chosen.id if chosen is not None else None, price, available, fits, lowered)
    closed = None
    if who.role is not None and who.course is not None:
        closed = refusal_of(who.course, who.course_role, at, rules.grace if price.amount == 0 else timedelta(0))
    since = who.project.without_pi_since
    if who.role is not None and since is not None and at >= since + rules.pi_absence:
        return Quoted(quote, Refused(RefusalCode.NO_PI, {"project": who.project.title}))
    return Quoted(quote, _refusal(quote, who, longest_s, at) if closed is None else closed)


def _in_grace(allocations: Sequence[Allocation], at: datetime, grace: timedelta) -> Allocation | None:
    """The GPU allocation that ended last and not longer ago than `grace`."""
    ended = [
        one
        for one in allocations
        if one.unit is Unit.GPU_MS and not (one.suspended or one.frozen) and one.ends_at <= at < one.ends_at + grace
    ]
    return max(ended, key=lambda one: one.ends_at, default=None)


def _refusal(quote: Quote, who: Payer, longest_s: int, at: datetime) -> Refused | None:
    if who.role is None:
        return Refused(RefusalCode.NOT_A_MEMBER, {"project": who.project.title})
    if who.project.state is not ProjectState.ACTIVE:
        return Refused(RefusalCode.PROJECT_SUSPENDED, {"project": who.project.title})
    if quote.price.runtime_s > longest_s:
        return Refused(
            RefusalCode.RUNTIME_TOO_LONG, {"runtime_s": quote.price.runtime_s, "longest_runtime_s": longest_s}
        )
    if quote.allocation_id is None:
        return _no_payer(who, at)
    if quote.amount > 0 and quote.leaves < 0:  # what is free starts at zero and below
        numbers = {"requested": quote.amount, "available": quote.available, "fits_runtime_s": quote.fits_runtime_s}
        return Refused(RefusalCode.INSUFFICIENT_BALANCE, {**numbers, "unit": Unit.GPU_MS.value})
    return None


def _no_payer(who: Payer, at: datetime) -> Refused:
    """Why no allocation can pay: an active one that is frozen, one that has not begun, or none."""
    gpu = [a for a in who.allocations if a.unit is Unit.GPU_MS]
    if any(a.frozen and a.state_at(at) is AllocationState.ACTIVE for a in gpu):
        return Refused(RefusalCode.FROZEN, {"project": who.project.title})
    later = [a.starts_at for a in gpu if a.state_at(at) is AllocationState.SCHEDULED]
    starts_on = min(later).date().isoformat() if later else None
    return Refused(RefusalCode.NO_ALLOCATION, {"project": who.project.title, "starts_on": starts_on})


def priced_profile(services: Services, profile_id: str) -> PricedProfile:
    """The profile as the catalogue has it. Raises Unknown('profile')."""
    profile = services.catalogue.profile(profile_id)
    if profile is None:
        raise Unknown("profile", profile=profile_id)
    return profile


def payer_facts(tx: Transaction, project: Project, person_id: PersonId) -> Payer:
    """Read what `decide` needs of one project."""
    course = tx.courses.of_project(project.id)
    given = None if course is None else tx.courses.role(project.id, person_id)
    role, allocations = tx.projects.role(project.id, person_id), tx.accounts.of_project(project.id)
    return Payer(project, role, allocations, course, given)


def _facts(
    services: Services, tx: Transaction, request: QuoteRequest, profile: PricedProfile, at: datetime
) -> tuple[Price, Payer]:
    project = tx.projects.get(request.project_id)
    if project is None:
        raise Unknown("project", project_id=request.project_id)
    price = Price(
        profile=profile.id,
        hardware=profile.hardware,
        gpus=profile.gpus,
        rate=_rate(tx, profile, at),
        runtime_s=request.runtime_s,
        margin_s=services.policy.stop_margin_s,
        backend=profile.backend,
    )
    return price, payer_facts(tx, project, request.actor)


def _rate(tx: Transaction, profile: PricedProfile, at: datetime) -> Fraction:
    if profile.gpus == 0:
        return Fraction(0)
    rate = tx.rates.at(profile.hardware, at)
    if rate is None:  # `check` refuses such a site file; without a price nothing may start
        raise Unavailable(f"no charge rate is published for {profile.hardware}", retry_after_s=60)
    return rate.rate
