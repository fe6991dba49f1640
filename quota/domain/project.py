"""Projects, the people in them and what their roles may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from quota.domain.ids import AllocationId, PersonId, ProjectId
from quota.domain.units import Balance, Unit


class ProjectRole(StrEnum):
    PI = "pi"
    CO_PI = "co_pi"
    MANAGER = "manager"
    MEMBER = "member"


RANK = tuple(ProjectRole)
"""Roles by what they may do, the most first."""
LEADS = frozenset({ProjectRole.PI, ProjectRole.CO_PI, ProjectRole.MANAGER})
"""Roles that manage members and see each member's use."""


class ProjectState(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class AllocationState(StrEnum):
    SCHEDULED = "scheduled"
    ACTIVE = "active"
    GRACE = "grace"
    EXPIRED = "expired"
    CLOSED = "closed"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Person:
    """A person is (issuer, subject); `hub_name` is what JupyterHub calls them, `login` the Unix login of sessions."""

    id: PersonId
    issuer: str
    subject: str
    hub_name: str
    login: str
    uid: int
    display_name: str
    email: str | None
    language: str
    suspended: bool = False  # the sign-in provider does not vouch for them any more
    greeted: bool = True  # False until somebody from outside has seen and saved their profile


@dataclass(frozen=True, slots=True)
class Project:
    id: ProjectId
    slug: str
    title: str
    state: ProjectState
    created_at: datetime
    without_pi_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Member:
    person_id: PersonId
    hub_name: str
    display_name: str
    role: ProjectRole
    since: datetime


@dataclass(frozen=True, slots=True)
class Allocation:
    """One unit, one project, a half-open interval [starts_at, ends_at); its balance is that of the account with the same id."""

    id: AllocationId
    project_id: ProjectId
    starts_at: datetime
    ends_at: datetime
    suspended: bool
    frozen: bool
    balance: Balance
    revoked: bool = False
    target: int | None = (
        None  # the award that was decided where use keeps the effective one higher; reclaimed as holds release
    )

    @property
    def unit(self) -> Unit:
        return self.balance.unit

    @property
    def spendable(self) -> int:
        """What new holds may take: available, but never beyond an award that was lowered and is not reclaimed yet."""
        if self.target is None:
            return self.balance.available
        return min(self.balance.available, self.target - self.balance.charged - self.balance.held)

    def state_at(self, at: datetime) -> AllocationState:
        """The state that follows from the dates; grace and closing belong to the policy and come on top."""
        if self.revoked:
            return AllocationState.REVOKED
        if self.suspended:
            return AllocationState.SUSPENDED
        if at < self.starts_at:
            return AllocationState.SCHEDULED
        return AllocationState.ACTIVE if at < self.ends_at else AllocationState.EXPIRED


def payer(allocations: list[Allocation], unit: Unit, amount: int, at: datetime) -> Allocation | None:
    """The allocation that a hold is placed on: active, in the unit, the one that ends first among those that can carry it.

    Where none can carry it, the one with the most available, so that a refusal names the best there is; None where none is active.
    """
    active = [a for a in allocations if a.unit is unit and a.state_at(at) is AllocationState.ACTIVE and not a.frozen]
    able = [a for a in active if a.spendable >= amount]
    if able:
        return min(able, key=lambda a: (a.ends_at, a.id))
    return max(active, key=lambda a: (a.spendable, a.id), default=None)
