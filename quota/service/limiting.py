"""Which limits a start counts against, and who sets a member's share.

Invariant: counters count what stands: one that is made while sessions run, or after they ran, begins with what they hold and were
charged (`Limits` port); a cap lowered below that refuses what is new and takes nothing from what runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from quota.domain.errors import Forbidden, Invalid, RefusalCode, Refused, Unknown
from quota.domain.hold import LimitUse
from quota.domain.ids import PersonId, ProjectId
from quota.domain.limits import (
    Limit,
    LimitName,
    member_day_limit,
    member_limit,
    name_of,
    rescue_limit,
    site_limits,
    use_of,
)
from quota.domain.project import LEADS, ProjectRole
from quota.domain.rates import longest_runtime_s
from quota.domain.session import SessionTerms
from quota.domain.units import AMOUNT_MAX, Unit
from quota.service.callers import Caller
from quota.service.ports import LimitStanding, Store, Transaction
from quota.service.project_roles import member_role, reader_role, sees_everybody
from quota.service.quote import Quote, day_share, member_shares
from quota.service.services import Services


@dataclass(frozen=True, slots=True)
class Caps:
    """What a member may use of a project, in the ledger's units; None: no such limit."""

    gpu_ms: int | None
    gpu_ms_a_day: int | None
    tokens: int | None
    tokens_a_day: int | None = None


async def set_member_limits(
    services: Services, caller: Caller, project_id: ProjectId, hub_name: str, caps: Caps
) -> None:
    """Set all of a member's limits, as `set_member_limit` does each."""
    for unit, cap, a_day in (
        (Unit.GPU_MS, caps.gpu_ms, False), (Unit.GPU_MS, caps.gpu_ms_a_day, True),
        (Unit.TOKENS, caps.tokens, False), (Unit.TOKENS, caps.tokens_a_day, True),
    ):  # fmt: skip
        await set_member_limit(services, caller, project_id, hub_name, unit, cap, a_day=a_day)


async def limits_of_start(
    services: Services, person_id: PersonId, quote: Quote, at: datetime | None = None
) -> tuple[LimitUse, ...]:
    """What a start (now, or at `at`) counts against; the counters are made or brought to today's caps where they are not."""
    at = at or services.clock.now()
    wanted = site_limits(services.limits, quote.project_id, person_id, at)
    profile = services.catalogue.profile(quote.price.profile)
    if profile is not None and profile.rescue:
        wanted.append(rescue_limit(person_id, at, services.policy.rescue_s_a_day))
    member = member_limit(quote.project_id, person_id, Unit.GPU_MS)

    def look(tx: Transaction) -> tuple[Sequence[Limit], Sequence[Limit]]:
        counted = [*wanted, *day_share(tx, quote.project_id, person_id, at)]
        stale = [one for one in counted if (known := tx.limits.get(one.id)) is None or known.cap != one.cap]
        return stale, [*counted, member] if tx.limits.get(member.id) is not None else counted

    stale, counted = await services.store.read(look)
    if stale:
        await services.store.write(lambda tx: [tx.limits.put(one) for one in stale])
    uses = [use_of(one, quote.price.gpus, quote.amount, quote.price.runtime_s) for one in counted]
    return tuple(one for one in uses if one is not None)


async def set_member_limit(
    services: Services,
    caller: Caller,
    project_id: ProjectId,
    hub_name: str,
    unit: Unit,
    cap: int | None,
    *,
    a_day: bool = False,
) -> LimitStanding:
    """Set a member's share of a project in one unit; None takes it back. By the project's leads; counts what was used before.

    `a_day`: what they may use on each UTC day instead of that in all.

    Raises Unknown('project' | 'person'), Forbidden, Invalid.
    """
    if cap is not None and not 0 <= cap <= AMOUNT_MAX:
        raise Invalid([("cap", "out_of_range")])
    at = services.clock.now()

    def work(tx: Transaction) -> LimitStanding:
        role = member_role(tx, caller, project_id)
        if role not in LEADS:
            raise Forbidden("only PI, co-PI and managers set a member's share")
        person = tx.people.by_hub_name(hub_name)
        if person is None or tx.projects.role(project_id, person.id) is None:
            raise Unknown("person", hub_name=hub_name)
        theirs = tx.projects.role(project_id, person.id)
        if role is ProjectRole.MANAGER and (person.id == caller.id or theirs in LEADS):
            raise Forbidden("only PI and co-PI set the share of a lead")
        most = AMOUNT_MAX if cap is None else cap
        of_day = member_day_limit(project_id, person.id, unit, most)
        standing = tx.limits.put(of_day if a_day else member_limit(project_id, person.id, unit, most))
        if a_day and cap is not None:  # what they used today counts from now on
            tx.limits.put(member_day_limit(project_id, person.id, unit, cap, at))
        tx.audit(
            actor=caller.id, action="member_day_limit" if a_day else "member_limit", subject=f"{project_id}/{person.id}", before=None,
            after={"unit": unit.value, "cap": cap}, reason=None, at=at,
        )  # fmt: skip
        return standing

    return await services.store.write(work)


def with_what_fits(refused: Refused, terms: SessionTerms) -> Refused:
    """A limit's refusal with its name, and the runtime that it would still allow."""
    if refused.code is not RefusalCode.LIMIT_REACHED:
        return refused
    name = name_of(str(refused.params.get("limit", "")))
    available = refused.params.get("available")
    params = {**refused.params, "limit_name": None if name is None else name.value}
    if name is LimitName.RESCUE and type(available) is int:
        params["fits_runtime_s"] = max(0, available) // 1000 or None
    elif name in (LimitName.MEMBER, LimitName.DAY, LimitName.MEMBER_DAY) and type(available) is int:
        params["fits_runtime_s"] = longest_runtime_s(terms.rate, terms.gpus, available, terms.margin_s)
        params["unit"] = Unit.GPU_MS.value
    return Refused(refused.code, params)


async def member_limits(
    services: Services, caller: Caller, project_id: ProjectId
) -> Mapping[PersonId, Mapping[Unit, LimitStanding]]:
    """The shares of a project's members: everybody's for its leads and admins, else one's own. Raises Unknown('project')."""

    def work(tx: Transaction) -> dict[PersonId, dict[Unit, LimitStanding]]:
        return {person: member_shares(tx, project_id, person) for person in _seen_members(tx, caller, project_id)}

    return await services.store.read(work)


async def member_days(
    services: Services, caller: Caller, project_id: ProjectId
) -> Mapping[PersonId, Mapping[Unit, LimitStanding]]:
    """What members may use a day and used today; seen by whom `member_limits` are. Raises Unknown('project')."""
    at = services.clock.now()

    def work(tx: Transaction) -> dict[PersonId, dict[Unit, LimitStanding]]:
        return {person: _day_shares(tx, project_id, person, at) for person in _seen_members(tx, caller, project_id)}

    return await services.store.read(work)


@dataclass(frozen=True, slots=True)
class TokenShare:
    """What of a member's model requests counts against: their tokens in all, and those of the day that a request begins on."""

    limit_id: str | None = None
    day: Limit | None = None  # of any day

    def uses(self, amount: int, at: datetime) -> tuple[LimitUse, ...]:
        """What a request that holds `amount` counts."""
        total = () if self.limit_id is None else (LimitUse(self.limit_id, amount),)
        return total if self.day is None else (*total, LimitUse(self.day_id(self.day, at), amount))

    @staticmethod
    def day_id(day: Limit, at: datetime) -> str:
        return replace(day, day=at.astimezone(UTC).date().isoformat()).id


async def token_share(
    store: Store, project_id: ProjectId, person_id: PersonId, at: datetime, believed_s: float
) -> TokenShare:
    """A member's limits in tokens, to be believed for `believed_s`; the counters of the days that this covers are made. Raises Unavailable."""
    share, kept = member_limit(project_id, person_id, Unit.TOKENS), member_day_limit(project_id, person_id, Unit.TOKENS)

    def look(tx: Transaction) -> tuple[bool, LimitStanding | None, list[Limit]]:
        of_day = tx.limits.get(kept.id)
        if of_day is None or of_day.cap >= AMOUNT_MAX:
            return tx.limits.get(share.id) is not None, None, []
        days = [member_day_limit(project_id, person_id, Unit.TOKENS, of_day.cap, one) for one in (at, until)]
        stale = [one for one in days if (known := tx.limits.get(one.id)) is None or known.cap != one.cap]
        return tx.limits.get(share.id) is not None, of_day, stale

    until = at + timedelta(seconds=believed_s)
    shared, of_day, stale = await store.read(look)
    if stale:
        await store.write(lambda tx: [tx.limits.put(one) for one in {one.id: one for one in stale}.values()])
    return TokenShare(share.id if shared else None, None if of_day is None else kept)


def _seen_members(tx: Transaction, caller: Caller, project_id: ProjectId) -> list[PersonId]:
    """Whose limits the caller sees: everybody's for leads and admins, else their own. Raises Unknown('project')."""
    sees_all = sees_everybody(caller, reader_role(tx, caller, project_id))
    return [one.person_id for one in tx.projects.members(project_id) if sees_all or one.person_id == caller.id]


def _day_shares(tx: Transaction, project_id: ProjectId, person_id: PersonId, at: datetime) -> dict[Unit, LimitStanding]:
    found = {}
    for unit in Unit:
        kept = tx.limits.get(member_day_limit(project_id, person_id, unit).id)
        if kept is not None and kept.cap < AMOUNT_MAX:
            today = tx.limits.get(member_day_limit(project_id, person_id, unit, kept.cap, at).id)
            found[unit] = replace(kept, charged=today.charged if today else 0, held=today.held if today else 0)
    return found
