"""Limits: counters that a hold counts against besides its account, in the transaction that places it.

Simultaneous sessions and GPUs of a person and of a project, a member's share in each unit and of one UTC day, a person's GPU-hours of one
day, the time of their rescue sessions of one. An id says what it counts, so that a refusal can name it. `cap` 0 in the settings means that there is no
such limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from quota.domain.hold import LimitUse
from quota.domain.ids import PersonId, ProjectId
from quota.domain.units import Unit


class LimitName(StrEnum):
    """What a refusal says was reached."""

    PERSON_SESSIONS = "person_sessions"
    PERSON_GPUS = "person_gpus"
    PROJECT_SESSIONS = "project_sessions"
    PROJECT_GPUS = "project_gpus"
    MEMBER = "member"
    DAY = "day"
    MEMBER_DAY = "member_day"
    RESCUE = "rescue"


_KINDS = {LimitName.MEMBER: "member", LimitName.DAY: "day", LimitName.MEMBER_DAY: "day", LimitName.RESCUE: "day"}
SESSION_MS = "session_ms"  # the unit of a limit on how long sessions run, whatever they cost


@dataclass(frozen=True, slots=True)
class Limits:
    """A site's limits; `[limits]` of portal.toml. 0: none."""

    person_sessions: int = 0
    person_gpus: int = 0
    project_sessions: int = 0
    project_gpus: int = 0
    person_gpu_ms_a_day: int = 0


@dataclass(frozen=True, slots=True)
class Limit:
    """One counter. `project_id` and `person_id` say whose holds count; None: everybody's, or every project's."""

    name: LimitName
    unit: str  # 'sessions', 'gpus', SESSION_MS, or a ledger's unit
    cap: int
    project_id: ProjectId | None = None
    person_id: PersonId | None = None
    day: str = ""

    @property
    def id(self) -> str:
        parts = (self.name.value, self.unit, self.project_id or "", self.person_id or "", self.day)
        return ":".join(str(one) for one in parts)

    @property
    def kind(self) -> str:
        """As the ledger tells them apart: of a simultaneous one a charge gives nothing back."""
        return _KINDS.get(self.name, "simultaneous")

    @property
    def subject(self) -> str:
        return f"{self.project_id or ''}/{self.person_id or ''}"


def name_of(limit_id: str) -> LimitName | None:
    """Which limit an id counts; None for one of another making."""
    head = limit_id.partition(":")[0]
    return next((one for one in LimitName if one.value == head), None)


def site_limits(limits: Limits, project_id: ProjectId, person_id: PersonId, at: datetime) -> list[Limit]:
    """The limits that the site sets on a start."""
    found = [
        Limit(LimitName.PERSON_SESSIONS, "sessions", limits.person_sessions, person_id=person_id),
        Limit(LimitName.PERSON_GPUS, "gpus", limits.person_gpus, person_id=person_id),
        Limit(LimitName.PROJECT_SESSIONS, "sessions", limits.project_sessions, project_id=project_id),
        Limit(LimitName.PROJECT_GPUS, "gpus", limits.project_gpus, project_id=project_id),
        Limit(
            LimitName.DAY,
            Unit.GPU_MS.value,
            limits.person_gpu_ms_a_day,
            person_id=person_id,
            day=at.date().isoformat(),
        ),
    ]
    return [one for one in found if one.cap > 0]


def member_limit(project_id: ProjectId, person_id: PersonId, unit: Unit, cap: int = 0) -> Limit:
    """A member's share of a project in one unit."""
    return Limit(LimitName.MEMBER, unit.value, cap, project_id, person_id)


def member_day_limit(
    project_id: ProjectId, person_id: PersonId, unit: Unit, cap: int = 0, at: datetime | None = None
) -> Limit:
    """A member's share of a project on the UTC day of `at`; without an instant the one that keeps what their leads set."""
    day = "" if at is None else at.astimezone(UTC).date().isoformat()
    return Limit(LimitName.MEMBER_DAY, unit.value, cap, project_id, person_id, day)


def rescue_limit(person_id: PersonId, at: datetime, cap_s: int) -> Limit:
    """How long a person's rescue sessions may run on the UTC day of `at`."""
    return Limit(LimitName.RESCUE, SESSION_MS, cap_s * 1000, person_id=person_id, day=at.date().isoformat())


def use_of(limit: Limit, gpus: int, amount: int, runtime_s: int = 0) -> LimitUse | None:
    """What a session of so many GPUs, holding `amount`, counts against a limit; None where it counts nothing."""
    count = {"sessions": 1, "gpus": gpus, SESSION_MS: runtime_s * 1000}.get(limit.unit, amount)
    return LimitUse(limit.id, count) if count > 0 else None
