"""What policy does to running sessions when people, projects and awards change (docs/reference/policy.md).

Invariants: nothing is cut without notice: a session that has to end runs for `notice_s` more, at most to its own end, and its owner
reads why; what is charged and held stays on the allocation that its hold named; new holds stop at once, by the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from quota.domain.errors import Forbidden, Unknown, WrongState
from quota.domain.ids import AdjustmentId, AllocationId, PersonId, ProjectId, new_id
from quota.domain.notice import NoticeKind
from quota.domain.project import Allocation, Member, Project, ProjectRole, ProjectState
from quota.domain.session import Session, Target
from quota.service.adjust import check_adjustment
from quota.service.callers import Caller, Power
from quota.service.notices import about_project, instant_param, tell
from quota.service.ports import Transaction
from quota.service.services import Services


class Cause(StrEnum):
    """Why a session has to end before its time; kept with it as its stop reason."""

    SUSPENDED = "suspended"
    REVOKED = "revoked"
    REMOVED = "removed"
    ROLE_LOWERED = "role_lowered"
    SIGNED_OUT = "signed_out"  # their sign-in provider does not vouch for them any more


def sessions_of(tx: Transaction, project_id: ProjectId, person_id: PersonId | None = None) -> Sequence[Session]:
    """The project's sessions that are not over; one person's where one is named."""
    return [
        one
        for one in tx.sessions.unfinished()
        if one.project_id == project_id and (person_id is None or one.person_id == person_id)
    ]


def end_sessions(services: Services, tx: Transaction, sessions: Iterable[Session], cause: Cause, at: datetime) -> int:
    """Have these sessions end after the notice; one that has to end sooner already stays as it is. Returns how many."""
    stop_at = at + timedelta(seconds=services.policy.notice_s)
    count = 0
    for one in sessions:
        sooner = one.target is Target.STOPPED and (one.stop_at is None or one.stop_at <= stop_at)
        if one.over or sooner:
            continue
        ends_at = stop_at if one.ends_at is None else min(one.ends_at, stop_at)
        reason = one.stop_reason or cause.value
        tx.sessions.upsert(
            replace(one, target=Target.STOPPED, stop_at=stop_at, stop_reason=reason, ends_at=ends_at, next_try_at=None)
        )
        count += 1
    return count


async def suspend_project(
    services: Services, caller: Caller, project_id: ProjectId, *, finish: bool, reason: str
) -> int:
    """No new holds; what runs finishes, or ends with notice, as chosen here. By its PI and admins; returns how many have to end."""
    at = services.clock.now()

    def work(tx: Transaction) -> int:
        project = _known(tx, project_id)
        if not caller.may(Power.ADMIN) and tx.projects.role(project_id, caller.id) is not ProjectRole.PI:
            raise Forbidden("only its PI and admins suspend a project")
        if project.state is ProjectState.CLOSED:
            raise WrongState("the project is closed")
        tx.projects.set_state(project_id, ProjectState.SUSPENDED)
        _audit(tx, caller, "project_suspended", project_id, reason, at)
        _tell_all(services, tx, project, NoticeKind.SUSPENDED, at, reason)
        return 0 if finish else end_sessions(services, tx, sessions_of(tx, project_id), Cause.SUSPENDED, at)

    return await services.store.write(work)


async def resume_project(services: Services, caller: Caller, project_id: ProjectId, *, reason: str) -> None:
    """Take a suspension back; sessions that have to end already still do."""
    at = services.clock.now()

    def work(tx: Transaction) -> None:
        project = _known(tx, project_id)
        if not caller.may(Power.ADMIN) and tx.projects.role(project_id, caller.id) is not ProjectRole.PI:
            raise Forbidden("only its PI and admins resume a project")
        if project.state is not ProjectState.SUSPENDED:
            raise WrongState("the project is not suspended")
        tx.projects.set_state(project_id, ProjectState.ACTIVE)
        _audit(tx, caller, "project_resumed", project_id, reason, at)

    await services.store.write(work)


async def revoke(services: Services, caller: Caller, allocation_id: AllocationId, *, reason: str) -> int:
    """Take an allocation back for good: running work ends with notice, its holds are settled as they are. Admins only."""
    caller.must(Power.ADMIN)
    at = services.clock.now()

    def work(tx: Transaction) -> int:
        allocation = _allocation(tx, allocation_id)
        tx.accounts.revoke(allocation_id)
        _audit(tx, caller, "allocation_revoked", allocation_id, reason, at)
        running = [one for one in sessions_of(tx, allocation.project_id) if one.allocation_id == allocation_id]
        return end_sessions(services, tx, running, Cause.REVOKED, at)

    return await services.store.write(work)


async def lower_award(
    services: Services,
    caller: Caller,
    adjustment_id: AdjustmentId,
    allocation_id: AllocationId,
    target: int,
    reason: str,
) -> Allocation:
    """Lower an award to `target`: at once as far as use allows, the rest as holds release; nothing that runs is touched.

    Effective award = max(target, charged + held). Raises Forbidden, Invalid, Unknown('allocation'), WrongState where it is no lowering.
    """
    caller.must(Power.ADMIN)
    at = services.clock.now()

    def work(tx: Transaction) -> Allocation:
        allocation = _allocation(tx, allocation_id)
        if tx.projects.role(allocation.project_id, caller.id) is not None:
            raise Forbidden("nobody changes the award of their own project", code="own_project")
        if not 0 <= target < allocation.balance.awarded:
            raise WrongState("the award is not higher than that", allocation_id=allocation_id)
        check_adjustment(target - allocation.balance.awarded, reason)
        tx.accounts.set_target(allocation_id, target)
        _lower_as_far_as_use_allows(tx, allocation, target, adjustment_id, (caller.id, reason, at))
        return _allocation(tx, allocation_id)

    return await services.store.write(work)


async def reclaim(services: Services) -> int:
    """Bring lowered awards down as far as released holds allow by now; returns how many changed."""
    at = services.clock.now()
    waiting = await services.store.read(lambda tx: tx.accounts.with_target())
    due = [one for one in waiting if _lower_by(one) > 0 or one.balance.awarded <= (one.target or 0)]
    if not due:
        return 0

    def work(tx: Transaction) -> int:
        for seen in due:
            one = _allocation(tx, seen.id)
            if one.target is not None:
                who = (one_who_lowered(tx, one), "reclaimed after the award was lowered", at)
                _lower_as_far_as_use_allows(tx, one, one.target, AdjustmentId(f"reclaim-{new_id()}"), who)
        return len(due)

    return await services.store.write(work)


def one_who_lowered(tx: Transaction, allocation: Allocation) -> PersonId:
    """In whose name it is reclaimed: the project's PI, whose award it is; the decision itself is in the audit."""
    members = tx.projects.members(allocation.project_id)
    return next((one.person_id for one in members if one.role is ProjectRole.PI), members[0].person_id)


async def pi_leaves(services: Services, caller: Caller, project_id: ProjectId) -> PersonId | None:
    """The PI goes: the co-PI of longest standing takes over; without one the project waits for the programme. Returns the new PI.

    New holds stop after `pi_absence_days` without a PI; running work is not touched.
    """
    at = services.clock.now()

    def work(tx: Transaction) -> PersonId | None:
        project, members = _known(tx, project_id), tx.projects.members(project_id)
        pi = next((one for one in members if one.role is ProjectRole.PI), None)
        if pi is None or (pi.person_id != caller.id and not caller.may(Power.ADMIN)):
            raise Forbidden("the PI leaves by their own decision, or by an admin's")
        tx.projects.remove_member(project_id, pi.person_id)
        heir = min((one for one in members if one.role is ProjectRole.CO_PI), key=_standing, default=None)
        if heir is not None:
            tx.projects.put_member(project_id, heir.person_id, ProjectRole.PI, at)
        else:
            tx.projects.set_without_pi(project_id, at)
        _audit(tx, caller, "pi_left", project.id, None, at)
        return heir.person_id if heir is not None else None

    return await services.store.write(work)


async def name_pi(services: Services, caller: Caller, project_id: ProjectId, hub_name: str) -> None:
    """The programme gives a project without a PI a new one. Admins only."""
    caller.must(Power.ADMIN)
    at = services.clock.now()

    def work(tx: Transaction) -> None:
        project = _known(tx, project_id)
        person = tx.people.by_hub_name(hub_name)
        if person is None:
            raise Unknown("person", hub_name=hub_name)
        if project.without_pi_since is None:
            raise WrongState("the project has a PI")
        tx.projects.put_member(project_id, person.id, ProjectRole.PI, at)
        tx.projects.set_without_pi(project_id, None)
        _audit(tx, caller, "pi_named", f"{project_id}/{person.id}", None, at)

    await services.store.write(work)


def _standing(member: Member) -> tuple[datetime, str]:
    return (member.since, member.person_id)


def _lower_by(one: Allocation) -> int:
    """How much of the award can go now."""
    if one.target is None:
        return 0
    return one.balance.awarded - max(one.target, one.balance.charged + one.balance.held)


def _lower_as_far_as_use_allows(
    tx: Transaction, one: Allocation, target: int, adjustment_id: AdjustmentId, who: tuple[PersonId, str, datetime]
) -> None:
    actor, reason, at = who
    lower_by = one.balance.awarded - max(target, one.balance.charged + one.balance.held)
    if lower_by > 0:
        tx.accounts.adjust(adjustment_id, one.id, -lower_by, actor=actor, reason=reason, at=at)
    if one.balance.awarded - max(lower_by, 0) <= target:
        tx.accounts.set_target(one.id, None)


def _known(tx: Transaction, project_id: ProjectId) -> Project:
    project = tx.projects.get(project_id)
    if project is None:
        raise Unknown("project", project_id=project_id)
    return project


def _allocation(tx: Transaction, allocation_id: AllocationId) -> Allocation:
    allocation = tx.accounts.get(allocation_id)
    if allocation is None:
        raise Unknown("allocation", allocation_id=allocation_id)
    return allocation


def _audit(tx: Transaction, caller: Caller, action: str, subject: str, reason: str | None, at: datetime) -> None:
    tx.audit(actor=caller.id, action=action, subject=subject, before=None, after=None, reason=reason, at=at)


def _tell_all(
    services: Services, tx: Transaction, project: Project, kind: NoticeKind, at: datetime, reason: str
) -> None:
    for member in tx.projects.members(project.id):
        tell(services, tx, about_project(project, member.person_id, kind, instant_param(at), at, reason))
