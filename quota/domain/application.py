"""Applications: what a PI asks for and what the programme decides. Requested and awarded amounts are kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from quota.domain.ids import ApplicationId, PersonId, ProjectId


class ApplicationState(StrEnum):
    DRAFT = "draft"
    SUBMITTED = "submitted"
    RETURNED = "returned"
    IN_REVIEW = "in_review"
    DECISION_PENDING = "decision_pending"
    APPROVED = "approved"
    AWARDED = "awarded"
    REJECTED = "rejected"
    APPEALED = "appealed"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"


_S = ApplicationState
TRANSITIONS: Mapping[ApplicationState, frozenset[ApplicationState]] = {
    _S.DRAFT: frozenset({_S.SUBMITTED, _S.WITHDRAWN, _S.LAPSED}),
    _S.SUBMITTED: frozenset({_S.RETURNED, _S.IN_REVIEW, _S.AWARDED, _S.REJECTED, _S.WITHDRAWN}),
    _S.RETURNED: frozenset({_S.SUBMITTED, _S.WITHDRAWN, _S.LAPSED}),
    _S.IN_REVIEW: frozenset({_S.RETURNED, _S.DECISION_PENDING, _S.WITHDRAWN}),
    _S.DECISION_PENDING: frozenset({_S.APPROVED, _S.REJECTED, _S.RETURNED}),
    _S.APPROVED: frozenset({_S.AWARDED}),
    _S.AWARDED: frozenset(),
    _S.REJECTED: frozenset({_S.APPEALED}),
    _S.APPEALED: frozenset({_S.IN_REVIEW, _S.REJECTED, _S.AWARDED}),
    _S.WITHDRAWN: frozenset(),
    _S.LAPSED: frozenset(),
}
"""Approval and award are one step (submitted → awarded) until rounds with reviewers exist."""


class Decision(StrEnum):
    APPROVE = "approve"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Ask:
    """What an application asks for; amounts in GPU-milliseconds and tokens, dates inclusive of start, exclusive of end."""

    title: str
    purpose: str
    gpu_ms: int
    tokens: int
    starts_on: date
    ends_on: date


@dataclass(frozen=True, slots=True)
class Application:
    id: ApplicationId
    applicant: PersonId
    applicant_name: str
    ask: Ask
    state: ApplicationState
    submitted_at: datetime
    decided_at: datetime | None
    decided_by: PersonId | None
    message: str | None
    awarded_gpu_ms: int | None
    awarded_tokens: int | None
    project_id: ProjectId | None
