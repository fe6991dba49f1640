"""What can go wrong, as types.

A refusal is an expected answer and therefore a value (`Refused`); the exceptions here are

    QuotaError
    ├── IdConflict        same id, other body
    ├── WrongState        the thing is not in the state that this needs
    ├── StaleEpoch        the caller was replaced by a newer one of its name
    ├── Unknown           no such project, hold, person, …
    ├── Forbidden         the caller may not
    ├── Invalid           nonsense in the input, with its fields
    ├── Unavailable       an outage: never "stopped", "zero" or "allowed"
    │   ├── TooMany       the caller asks too often; later the same may be answered
    │   └── Spooled       a change of this hold is kept on disk until the ledger answers
    └── InvariantBroken   a promise of the ledger does not hold; mirrored by a database CHECK
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Param = str | int | None | bool


class RefusalCode(StrEnum):
    """Why something that was asked for is refused; quota.domain.messages has the words."""

    INSUFFICIENT_BALANCE = "insufficient_balance"
    NO_ALLOCATION = "no_allocation"
    FROZEN = "frozen"
    NOT_A_MEMBER = "not_a_member"
    UNKNOWN_PROFILE = "unknown_profile"
    RUNTIME_TOO_LONG = "runtime_too_long"
    PROJECT_SUSPENDED = "project_suspended"
    LIMIT_REACHED = "limit_reached"
    ALREADY_RUNNING = "already_running"
    BACKEND_REFUSED = "backend_refused"
    NO_PI = "no_pi"
    ALLOCATION_ENDED = "allocation_ended"
    RESCUE_USED_UP = "rescue_used_up"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    WOULD_TAKE_BACK_USED = "would_take_back_used"
    REFUND_EXCEEDS_CHARGED = "refund_exceeds_charged"
    COURSE_NOT_STARTED = "course_not_started"
    COURSE_OVER = "course_over"
    ASSIGNMENT_CLOSED = "assignment_closed"
    GRADING_UNPAID = "grading_unpaid"


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal with the numbers that explain it, e.g. requested, available, fits_runtime_s."""

    code: RefusalCode
    params: Mapping[str, Param] = field(default_factory=dict)


class QuotaError(Exception):
    """Root of this service's exceptions; `code` is the API's error code."""

    code = "error"

    def __init__(self, message: str = "", **params: Param) -> None:
        super().__init__(message or self.code)
        self.params: dict[str, Param] = params


class IdConflict(QuotaError):
    """The same id came with another body; the first answer stands."""

    code = "id_conflict"


class WrongState(QuotaError):
    """A compare-and-set on a state failed: somebody was first, or the order of steps is wrong."""

    code = "wrong_state"


class StaleEpoch(QuotaError):
    """The caller's fencing epoch is not the one in force: a newer process of its name took over. Nothing was written."""

    code = "stale_epoch"


class Unknown(QuotaError):
    """No such thing, or none that the caller may know of. `what` is 'project', 'hold', 'person', 'application', …"""

    def __init__(self, what: str, **params: Param) -> None:
        super().__init__(f"unknown {what}", **params)
        self.what = what

    @property
    def code(self) -> str:  # type: ignore[override]
        return f"unknown_{self.what}"


class Forbidden(QuotaError):
    """The caller is known and may not do this."""

    code = "forbidden"

    def __init__(self, message: str = "", *, code: str = "forbidden", **params: Param) -> None:
        super().__init__(message, **params)
        self.code = code


class Invalid(QuotaError):
    """Input that makes no sense; `fields` says which and why, as message codes."""

    code = "invalid_request"

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in fields))
        self.fields = fields


class Unavailable(QuotaError):
    """Something that we need did not answer; try again after `retry_after_s`."""

    code = "unavailable"

    def __init__(self, message: str = "", *, retry_after_s: int = 2) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooMany(Unavailable):
    """The caller asks too often: nothing was stored, the same id may come again after `retry_after_s`."""

    code = "too_many"


class Spooled(Unavailable):
    """The ledger does not answer, and a change of this hold is safe in the spool: it will be made first, and once."""


class InvariantBroken(QuotaError):
    """A promise of the ledger does not hold. Nothing was written."""

    code = "invariant_broken"
