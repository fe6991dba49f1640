"""Sessions as the quota service sees them: a hold, and evidence of what ran under it.

quoted → held → starting → pending → running → stopping → settled; unknown while the backend is silent; refused; failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fractions import Fraction

from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId


class SessionState(StrEnum):
    HELD = "held"
    RUNNING = "running"
    UNKNOWN = "unknown"
    STOPPING = "stopping"
    SETTLED = "settled"
    FAILED = "failed"  # never ran; the hold was released


_S = SessionState
TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = {
    _S.HELD: frozenset({_S.RUNNING, _S.UNKNOWN, _S.STOPPING, _S.SETTLED, _S.FAILED}),
    _S.RUNNING: frozenset({_S.UNKNOWN, _S.STOPPING, _S.SETTLED}),
    _S.UNKNOWN: frozenset({_S.HELD, _S.RUNNING, _S.STOPPING, _S.SETTLED, _S.FAILED}),
    _S.STOPPING: frozenset({_S.RUNNING, _S.UNKNOWN, _S.SETTLED, _S.FAILED}),
    _S.SETTLED: frozenset(),
    _S.FAILED: frozenset(),
}


class EndReason(StrEnum):
    """Why a session ended, as its owner is told."""

    EXITED = "exited"
    STOPPED = "stopped"
    DEADLINE = "deadline"
    NEVER_STARTED = "never_started"
    LOST = "lost"  # the host or its runner vanished: charged to the last proof of life, flagged


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a backend says of a session, in its own timestamps.

    `alive_at` is the last proof of life; `ended_at` is set only by positive evidence of an end. Neither started nor ended and not
    `never_started`: it is still on its way.
    """

    hold_id: HoldId
    started_at: datetime | None
    alive_at: datetime | None
    ended_at: datetime | None
    reason: EndReason | None = None


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What a session's hold pinned when it was made (the hold's `details`)."""

    profile: str
    application: str
    hardware: str
    gpus: int
    rate: Fraction
    runtime_s: int
    margin_s: int
    server_name: str
    hub_name: str

    def as_details(self) -> dict[str, object]:
        """JSON values for the hold; `rate` as 'n/d' so that it stays exact."""
        return {
            "profile": self.profile,
            "application": self.application,
            "hardware": self.hardware,
            "gpus": self.gpus,
            "rate": str(self.rate),
            "runtime_s": self.runtime_s,
            "margin_s": self.margin_s,
            "server_name": self.server_name,
            "hub_name": self.hub_name,
        }

    @classmethod
    def from_details(cls, details: Mapping[str, object]) -> SessionTerms:
        """Read back what `as_details` wrote. Raises KeyError or ValueError where it did not write it."""
        return cls(
            profile=str(details["profile"]),
            application=str(details["application"]),
            hardware=str(details["hardware"]),
            gpus=int(str(details["gpus"])),
            rate=Fraction(str(details["rate"])),
            runtime_s=int(str(details["runtime_s"])),
            margin_s=int(str(details["margin_s"])),
            server_name=str(details["server_name"]),
            hub_name=str(details["hub_name"]),
        )


@dataclass(frozen=True, slots=True)
class Session:
    """A session's row: the mutable face of its hold."""

    hold_id: HoldId
    person_id: PersonId
    project_id: ProjectId
    allocation_id: AllocationId
    terms: SessionTerms
    state: SessionState
    held_at: datetime
    started_at: datetime | None
    alive_at: datetime | None
    ends_at: datetime | None
    ended_at: datetime | None
    end_reason: EndReason | None
    stop_reason: str | None
    amount: int
    charged: int
