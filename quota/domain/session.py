"""Sessions as the quota service sees them: a hold, and evidence of what ran under it.

quoted → held → starting → pending → running → stopping → settled; unknown while the backend is silent; refused; failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
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
    DEVICE_MISSING = "device_missing"  # refused before it ran: the devices that it was given are not there; charge 0
    OUT_OF_MEMORY = "out_of_memory"
    CANCELLED = "cancelled"  # while it waited in a queue; charge 0


@dataclass(frozen=True, slots=True)
class Run:
    """One stretch on the hardware, [from_at, to_at): from a start to a requeue, a suspension or the end; its last proof of life while it lasts.

    `busy_ms` is what is billed of it where the backend says less than the whole (a suspension inside); never more.
    """

    from_at: datetime
    to_at: datetime
    busy_ms: int | None = None

    @property
    def billed_ms(self) -> int:
        """Whole milliseconds to bill. Raises ValueError for a run that ends before it starts or is billed beyond its length."""
        whole_ms = (self.to_at - self.from_at) // timedelta(milliseconds=1)
        billed_ms = whole_ms if self.busy_ms is None else self.busy_ms
        if not 0 <= billed_ms <= whole_ms:
            raise ValueError("a run that is billed beyond its length")
        return billed_ms


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a backend says of a session, in its own timestamps.

    `alive_at` is the last proof of life; `ended_at` is set only by positive evidence of an end. Neither started nor ended and not
    `never_started`: it is still on its way, and with `waiting_since` it waits in a queue. `runs` lists the stretches that are billed,
    oldest first and never overlapping, where there is more than the one from start to end. `ends_at` is the end that the backend itself
    enforces, where it says one: it moves with a suspension and with an extension.
    """

    hold_id: HoldId
    started_at: datetime | None
    alive_at: datetime | None
    ended_at: datetime | None
    reason: EndReason | None = None
    runs: tuple[Run, ...] = ()
    waiting_since: datetime | None = None
    suspended: bool = False
    ends_at: datetime | None = None
    note: str = (
        ""  # the stop's reason, a failed start's last lines, a queue's reason: the backend's words for the owner
    )

    @property
    def billed(self) -> tuple[Run, ...]:
        """The stretches to bill, oldest first."""
        to_at = self.ended_at or self.alive_at
        if self.runs or self.started_at is None or to_at is None:
            return self.runs
        return (Run(self.started_at, to_at),)


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The backend could not be asked, or what it said makes no sense: nothing is known, so nothing is settled, stopped or forgotten."""

    why: str


Seen = Evidence | Unreachable | None
"""What one look gives: evidence, an outage, or None where the backend positively has nothing under this hold."""


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
    backend: str = "local"  # holds from before backends were pinned are local ones

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
            "backend": self.backend,
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
            backend=str(details.get("backend", "local")),
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
