"""Who belongs to a project, and who may change that.

Rules, each with a test: PI, co-PI and manager add and remove members; only PI and co-PI make or remove managers and co-PIs;
the PI is neither changed nor removed here; nobody changes their own role; anyone but the PI may leave.
"""

from __future__ import annotations

from dataclasses import dataclass

from quota.domain.errors import Forbidden, Unknown
from quota.domain.ids import ProjectId
from quota.domain.notice import NoticeKind
from quota.domain.project import LEADS, Person, ProjectRole
from quota.service.callers import Caller
from quota.service.endings import Cause, end_sessions, sessions_of
from quota.service.notices import about_project, instant_param, tell
from quota.service.ports import Transaction
from quota.service.project_roles import member_role
from quota.service.services import Services

_RANK = {ProjectRole.MEMBER: 0, ProjectRole.MANAGER: 1, ProjectRole.CO_PI: 2, ProjectRole.PI: 3}
_APPOINTERS = frozenset({ProjectRole.PI, ProjectRole.CO_PI})


@dataclass(frozen=True, slots=True)
class MemberChange:
    person: Person
    role: ProjectRole
    added: bool  # False where the person was in the project before


async def put_member(
    services: Services, caller: Caller, project_id: ProjectId, hub_name: str, role: ProjectRole, *, finish: bool = False
) -> MemberChange:
    """Add a person to a project or change their role. Raises Unknown('project' | 'person') and Forbidden.

    Where a role is lowered the person's running sessions of the project end with notice, unless `finish` lets them.
    """
    at = services.clock.now()

    def work(tx: Transaction) -> MemberChange:
        own, person, now = _people(tx, caller, project_id, hub_name)
        if now is role and person.id != caller.id and own in LEADS:
            return MemberChange(person, role, added=False)
        _may_change(caller, own, person, now, role)
        added = tx.projects.put_member(project_id, person.id, role, at)
        if now is not None and _RANK[role] < _RANK[now] and not finish:
            end_sessions(services, tx, sessions_of(tx, project_id, person.id), Cause.ROLE_LOWERED, at)
        tx.audit(
            actor=caller.id,
            action="member_put",
            subject=f"{project_id}/{person.id}",
            before={"role": now.value} if now is not None else None,
            after={"role": role.value},
            reason=None,
            at=at,
        )
        return MemberChange(person, role, added)

    return await services.store.write(work)


async def remove_member(
    services: Services, caller: Caller, project_id: ProjectId, hub_name: str, *, finish: bool = False
) -> bool:
    """Take a person out of a project; False where they were not in it. Raises Unknown('project' | 'person') and Forbidden.

    Their running sessions end with notice, unless `finish` lets them run to their ends; files stay.
    """
    at = services.clock.now()

    def work(tx: Transaction) -> bool:
        own, person, now = _people(tx, caller, project_id, hub_name)
        if person.id != caller.id:
            _may_change(caller, own, person, now, ProjectRole.MEMBER)
        elif now is ProjectRole.PI:
            raise Forbidden("the PI cannot leave; a co-PI takes over first")
        if not tx.projects.remove_member(project_id, person.id):
            return False
        if not finish:
            end_sessions(services, tx, sessions_of(tx, project_id, person.id), Cause.REMOVED, at)
        before = {"role": now.value} if now is not None else None
        subject = f"{project_id}/{person.id}"
        tx.audit(
            actor=caller.id, action="member_removed", subject=subject, before=before, after=None, reason=None, at=at
        )
        project = tx.projects.get(project_id)
        if person.id != caller.id and project is not None:
            occasion = instant_param(at)  # somebody may be removed, added and removed again
            tell(services, tx, about_project(project, person.id, NoticeKind.REMOVED, occasion, at))
        return True

    return await services.store.write(work)


def _people(
    tx: Transaction, caller: Caller, project_id: ProjectId, hub_name: str
) -> tuple[ProjectRole, Person, ProjectRole | None]:
    """The caller's role, the person and their role; a project that the caller is not in is unknown to them."""
    own = member_role(tx, caller, project_id)
    person = tx.people.by_hub_name(hub_name)
    if person is None:
        raise Unknown("person", hub_name=hub_name)
    return own, person, tx.projects.role(project_id, person.id)


def _may_change(caller: Caller, own: ProjectRole, person: Person, now: ProjectRole | None, to: ProjectRole) -> None:
    if own not in LEADS:
        raise Forbidden("only PI, co-PI and managers change members")
    if person.id == caller.id:
        raise Forbidden("nobody changes their own role")
    if ProjectRole.PI in (now, to):
        raise Forbidden("the PI is not changed here")
    beyond_member = {now, to} & {ProjectRole.CO_PI, ProjectRole.MANAGER}
    if beyond_member and own not in _APPOINTERS:
        raise Forbidden("only PI and co-PI make or remove managers and co-PIs")
