"""What a start would cost, and whether it may: the one function that decides quotes, holds and the list of payers.

Invariant: `decide` is pure. A quote shown to a person and the hold placed a minute later differ only where the facts do; the
ledger's own condition has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from quota.domain.errors import RefusalCode, Refused, Unavailable, Unknown
from quota.domain.ids import AllocationId, PersonId, ProjectId
from quota.domain.project import Allocation, AllocationState, Project, ProjectRole, ProjectState, payer
from quota.domain.rates import hold_amount, longest_runtime_s
from quota.domain.units import Unit
from quota.service.ports import PricedProfile, Transaction
from quota.service.services import Services


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


@dataclass(frozen=True, slots=True)
class Quote:
    """A price on one allocation. `leaves` may be negative: then the start is refused."""

    project_id: ProjectId
    allocation_id: AllocationId | None
    price: Price
    available: int
    fits_runtime_s: int | None

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
    return decide(price, who, profile.longest_runtime_s, at)


def decide(price: Price, who: Payer, longest_s: int, at: datetime) -> Quoted:
    """Choose the allocation and accept or refuse; pure."""
    chosen = payer(list(who.allocations), Unit.GPU_MS, price.amount, at)
    available = chosen.balance.available if chosen is not None else 0
    fits = longest_runtime_s(price.rate, price.gpus, available, price.margin_s)
    fits = min(fits, longest_s) if fits is not None else None
    quote = Quote(who.project.id, chosen.id if chosen is not None else None, price, available, fits)
    return Quoted(quote, _refusal(quote, who, longest_s, at))


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
    if quote.leaves < 0:
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
    return Payer(project, tx.projects.role(project.id, person_id), tx.accounts.of_project(project.id))


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
