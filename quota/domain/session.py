"""Sessions as the quota service sees them: a hold, and evidence of what ran under it.

quoted → held → starting → pending → running → stopping → settled; unknown while the backend is silent; refused; failed. TRANSITIONS is
the only table of what may follow what, `state_seen` the only place where evidence becomes a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction

from quota.domain.errors import Refused
from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId

LOCAL = "local"


class SessionState(StrEnum):
    """Where a session is; quoted and refused-before-a-hold are never stored."""

    QUOTED = "quoted"
    HELD = "held"  # its hold stands, nobody has seen it yet
    STARTING = "starting"  # the backend has it, it does not run yet
    PENDING = "pending"  # in a queue; nothing is charged
    RUNNING = "running"
    UNKNOWN = "unknown"  # its backend is silent; nothing is settled, stopped or forgotten
    STOPPING = "stopping"  # told to end; charged on until its end is seen
    SETTLED = "settled"
    FAILED = "failed"  # never ran; the hold was released
    REFUSED = "refused"  # before it ran, for a reason of its own; the hold, if any, was released


class Target(StrEnum):
    """What people and policy want of a session; reconciliation brings the state there."""

    RUNNING = "running"
    STOPPED = "stopped"


_S = SessionState
OVER: frozenset[SessionState] = frozenset({_S.SETTLED, _S.FAILED, _S.REFUSED})
_ANY_END = frozenset({_S.SETTLED, _S.FAILED, _S.REFUSED})
TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = {
    _S.QUOTED: frozenset({_S.HELD, _S.REFUSED}),
    _S.HELD: frozenset({_S.STARTING, _S.PENDING, _S.RUNNING, _S.UNKNOWN, _S.STOPPING}) | _ANY_END,
    _S.STARTING: frozenset({_S.HELD, _S.PENDING, _S.RUNNING, _S.UNKNOWN, _S.STOPPING}) | _ANY_END,
    _S.PENDING: frozenset({_S.STARTING, _S.RUNNING, _S.UNKNOWN, _S.STOPPING}) | _ANY_END,
    _S.RUNNING: frozenset({_S.PENDING, _S.UNKNOWN, _S.STOPPING, _S.SETTLED}),  # pending again: requeued
    _S.UNKNOWN: frozenset({_S.HELD, _S.STARTING, _S.PENDING, _S.RUNNING, _S.STOPPING}) | _ANY_END,
    _S.STOPPING: frozenset(_ANY_END),  # an outage meanwhile changes nothing: it stays told to end
    _S.SETTLED: frozenset(),
    _S.FAILED: frozenset(),
    _S.REFUSED: frozenset(),
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
    backend: str = LOCAL  # holds from before backends were pinned are local ones

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
            backend=str(details.get("backend", LOCAL)),
        )


@dataclass(frozen=True, slots=True)
class Session:
    """A session's row: the mutable face of its hold.

    `target`, `stop_at` and `stop_reason` are what is wanted: stopped from `stop_at` on (None: at once). `extended_s` counts the extensions
    that the backend took. `waiting_since` stands until its owner, who waited, is told that it is ready. `note` is the backend's word for
    the owner.
    """

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
    target: Target = Target.RUNNING
    stop_at: datetime | None = None
    extended_s: int = 0
    waiting_since: datetime | None = None
    asked_at: datetime | None = None  # when its owner was asked whether it should go on waiting
    suspended: bool = False
    note: str = ""
    tries: int = 0
    next_try_at: datetime | None = None

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def awaited(self) -> bool:
        """Whether it runs after a wait in a queue, and nobody has been told yet."""
        return self.state is SessionState.RUNNING and self.waiting_since is not None

    @property
    def runtime_s(self) -> int:
        """The chosen runtime with its extensions."""
        return self.terms.runtime_s + self.extended_s

    def to_stop(self, at: datetime) -> bool:
        """Whether it should be ended by now."""
        return self.target is Target.STOPPED and not self.over and (self.stop_at is None or self.stop_at <= at)


class ExtensionState(StrEnum):
    ASKED = "asked"  # the further hold stands; whether the backend took the new end is not known yet
    APPLIED = "applied"
    UNDONE = "undone"  # the backend refused; the further hold was given back, the old end stands
    REFUSED = "refused"  # the further hold was refused


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension of a session under the caller's id; `ends_at` is the end that was asked of the backend."""

    id: str
    hold_id: HoldId
    actor: PersonId
    seconds: int
    amount: int
    state: ExtensionState
    asked_at: datetime
    ends_at: datetime
    refusal: Refused | None = None


_NEVER_RAN = {EndReason.NEVER_STARTED: _S.FAILED, EndReason.CANCELLED: _S.FAILED, EndReason.DEVICE_MISSING: _S.REFUSED}


def state_seen(seen: Seen, *, listed: bool | None) -> SessionState:
    """The state that one look shows; `listed` says whether the hub has it, None where the hub does not answer."""
    if isinstance(seen, Unreachable):
        return _S.UNKNOWN
    if seen is None:
        return _S.STARTING if listed else _S.HELD
    if seen.ended_at is not None:
        return _S.SETTLED
    if seen.reason in _NEVER_RAN and seen.started_at is None:
        return _NEVER_RAN[seen.reason]
    if seen.waiting_since is not None:
        return _S.PENDING
    return _S.STARTING if seen.started_at is None else _S.RUNNING


def observed(old: Session, state: SessionState, evidence: Evidence | None, reason: EndReason | None = None) -> Session:
    """The row after a look: where TRANSITIONS allows it the new state, and what the evidence says. What is wanted is left alone."""
    state = state if state in TRANSITIONS[old.state] else old.state
    reason = reason or old.end_reason
    if evidence is None:
        ended_at = old.alive_at if reason is EndReason.LOST else old.ended_at
        return replace(old, state=state, end_reason=reason, ended_at=ended_at)
    note = evidence.note or old.note
    if evidence.started_at is None:
        return replace(
            old, state=state, end_reason=reason, waiting_since=evidence.waiting_since, suspended=evidence.suspended, note=note
        )  # fmt: skip
    ends_at = evidence.ends_at or evidence.started_at + timedelta(seconds=old.runtime_s)
    if old.target is Target.STOPPED and old.stop_at is not None:
        ends_at = min(ends_at, old.stop_at)
    waited = old.waiting_since if evidence.ended_at is None else None
    # One copy: a pass makes one for each of 10,000 sessions.
    return replace(
        old,
        state=state,
        end_reason=reason,
        waiting_since=evidence.waiting_since or waited,
        suspended=evidence.suspended,
        note=note,
        started_at=evidence.started_at,
        alive_at=evidence.ended_at or evidence.alive_at,
        ends_at=ends_at,
        ended_at=evidence.ended_at,
    )
