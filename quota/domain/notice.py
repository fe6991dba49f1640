"""Notices: what people are told of their sessions and projects, as codes with parameters.

A notice is written once for each (person, kind, subject, occasion), whatever looks for it how often; its id follows from these
four, and so does the Message-ID of its mail. Each reader reads it in their own language (quota.domain.messages).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from quota.domain.ids import PersonId, ProjectId
from quota.domain.units import Balance


class NoticeKind(StrEnum):
    """What happened, or is about to; the message's code is `notice.<kind>`."""

    ENDING = "ending"  # the chosen runtime is over soon
    IDLE = "idle"  # it will be stopped unless it is used
    STOPPED = "stopped"  # by somebody, or for a reason that is not the owner's
    EXTENDED = "extended"
    EXTENSION_REFUSED = "extension_refused"
    PENDING = "pending"  # it still waits in a queue: keep waiting?
    PENDING_OVER = "pending_over"  # it waited too long and was cancelled
    READY = "ready"  # it runs and answers, after a wait
    SUSPENDED = "suspended"  # the project
    REMOVED = "removed"  # the person from the project
    LOW = "low"
    EXHAUSTED = "exhausted"
    OVERDRAWN = "overdrawn"


class Topic(StrEnum):
    """What people choose mails by."""

    ENDING = "ending"
    ENDING_SOON = "ending_soon"
    STOPPED = "stopped"
    EXTENSION = "extension"
    QUEUE = "queue"
    PROJECT = "project"
    BALANCE = "balance"


MAILED_BY_DEFAULT: Final = frozenset({Topic.ENDING, Topic.STOPPED, Topic.QUEUE, Topic.PROJECT, Topic.BALANCE})
"""One mail half an hour before an end; what came of one's own click, and the last minutes, show on the page."""

ENDING_STEPS_S: Final = (30 * 60, 10 * 60, 2 * 60)
_FIRST_STEP_S: Final = ENDING_STEPS_S[0]
LOW_PERCENTS: Final = (95, 80)

_TOPICS: Final[Mapping[NoticeKind, Topic]] = {
    NoticeKind.ENDING: Topic.ENDING,
    NoticeKind.IDLE: Topic.STOPPED,
    NoticeKind.STOPPED: Topic.STOPPED,
    NoticeKind.EXTENDED: Topic.EXTENSION,
    NoticeKind.EXTENSION_REFUSED: Topic.EXTENSION,
    NoticeKind.PENDING: Topic.QUEUE,
    NoticeKind.PENDING_OVER: Topic.QUEUE,
    NoticeKind.READY: Topic.QUEUE,
    NoticeKind.SUSPENDED: Topic.PROJECT,
    NoticeKind.REMOVED: Topic.PROJECT,
    NoticeKind.LOW: Topic.BALANCE,
    NoticeKind.EXHAUSTED: Topic.BALANCE,
    NoticeKind.OVERDRAWN: Topic.BALANCE,
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that one person is told.

    `subject` is the hold, allocation or project that it is about; `occasion` tells two notices of a kind about one subject apart (the
    step and the deadline, the percentage and the award). `params` are JSON values; instants are RFC 3339 texts under names in `_at`.
    After `until` it is history. `seq` is given by the store and grows with each notice.
    """

    person_id: PersonId
    kind: NoticeKind
    subject: str
    occasion: str
    at: datetime
    params: Mapping[str, object] = field(default_factory=dict)
    project_id: ProjectId | None = None
    until: datetime | None = None
    seq: int = 0
    read_at: datetime | None = None

    @property
    def id(self) -> str:
        """32 hex digits that follow from what makes it one notice."""
        parts = (self.person_id, self.kind.value, self.subject, self.occasion)
        return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()[:32]

    @property
    def code(self) -> str:
        return f"notice.{self.kind.value}"

    @property
    def topic(self) -> Topic:
        if self.kind is NoticeKind.ENDING and "why_code" in self.params:
            return Topic.STOPPED  # a decision, not the end that its owner chose: they need not have the page open
        if self.kind is NoticeKind.ENDING and self.params.get("step_s") != _FIRST_STEP_S:
            return Topic.ENDING_SOON
        return _TOPICS[self.kind]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person chose: the language of their mails (None: the one of their sign-in), and which mails they get."""

    language: str | None = None
    mails: frozenset[Topic] = MAILED_BY_DEFAULT


@dataclass(frozen=True, slots=True)
class Step:
    """A notice before an end that is due: how long before the end it is due, and how long is left."""

    step_s: int
    left_s: int


def ending_step(started_at: datetime, ends_at: datetime, at: datetime) -> Step | None:
    """The notice before `ends_at` that is due at `at`; None where none is.

    Of several that are due (the portal was down meanwhile) the one nearest to the end; none that would have come before the start.
    """
    if at >= ends_at:
        return None
    reached = [s for s in ENDING_STEPS_S if started_at < ends_at - timedelta(seconds=s) <= at]
    return Step(min(reached), round((ends_at - at).total_seconds())) if reached else None


def next_step_at(started_at: datetime, ends_at: datetime, after: datetime) -> datetime | None:
    """When the next notice before `ends_at` is due, later than `after`."""
    due = [ends_at - timedelta(seconds=s) for s in ENDING_STEPS_S]
    return min((at for at in due if at > max(after, started_at)), default=None)


def balance_notices(balance: Balance) -> Sequence[tuple[NoticeKind, str]]:
    """What a balance has to be told as, with the occasion of each: a higher award makes a new one.

    Low counts what is charged, since holds come back; exhausted is what nothing new can start on.
    """
    if balance.awarded <= 0:
        return [(NoticeKind.OVERDRAWN, "0")] if balance.available < 0 else []
    if balance.available < 0:
        return [(NoticeKind.OVERDRAWN, str(balance.awarded))]
    if balance.available == 0:
        return [(NoticeKind.EXHAUSTED, str(balance.awarded))]
    for percent in LOW_PERCENTS:
        if balance.charged * 100 >= balance.awarded * percent:
            return [(NoticeKind.LOW, f"{percent}@{balance.awarded}")]
    return []
