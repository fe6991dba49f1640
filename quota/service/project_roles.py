"""What a project is to who asks for it. Invariant: whoever may not see a project is told that there is none."""

from __future__ import annotations

from quota.domain.errors import Unknown
from quota.domain.ids import ProjectId
from quota.domain.project import LEADS, ProjectRole
from quota.service.callers import Caller, Power
from quota.service.ports import Transaction


def member_role(tx: Transaction, caller: Caller, project_id: ProjectId) -> ProjectRole:
    """The caller's role in a project. Raises Unknown('project') where they have none."""
    role = tx.projects.role(project_id, caller.id)
    if role is None:
        raise Unknown("project", project_id=project_id)
    return role


def reader_role(tx: Transaction, caller: Caller, project_id: ProjectId) -> ProjectRole | None:
    """As `member_role`, for what admins read, too: None for an admin who is not in the project."""
    role = tx.projects.role(project_id, caller.id)
    if role is None and not (caller.may(Power.ADMIN) and tx.projects.get(project_id) is not None):
        raise Unknown("project", project_id=project_id)
    return role


def sees_everybody(caller: Caller, role: ProjectRole | None) -> bool:
    """Whether the caller reads what is everybody's and not only their own: leads and admins do."""
    return role in LEADS or caller.may(Power.ADMIN)
