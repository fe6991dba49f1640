"""What callers send, as strict models: no unknown keys, no booleans for integers, no numbers for text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Final, Literal

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from quota.domain.application import Ask
from quota.domain.errors import Invalid
from quota.domain.units import AMOUNT_MAX, gpu_hours_to_ms
from quota.service.limiting import Caps
from quota.service.personal_keys import KeyOrder

_ID: Final = r"^[a-z0-9][a-z0-9-]{7,63}$"
_HUB_NAME: Final = r"^[^\s/\x00-\x1f\x7f]{1,255}$"
_SERVER_NAME: Final = r"^([a-z0-9][a-z0-9_.-]{0,99})?$"
_WORD: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
_MODEL: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$"
_INT_MAX: Final = 2**63 - 1


def _aware(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("an instant has a zone")
    return at


Id = Annotated[str, Field(pattern=_ID)]
HubName = Annotated[str, Field(pattern=_HUB_NAME)]
Word = Annotated[str, Field(pattern=_WORD)]
PathId = Annotated[str, Path(pattern=_ID)]
PathKeyId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
Days = Annotated[str, Query(pattern=r"^[0-9]{1,3}$")]
PathHubName = Annotated[str, Path(pattern=_HUB_NAME)]
# Text, so that only ASCII digits pass.
Instant = Annotated[datetime, Field(strict=False), AfterValidator(_aware)]
Limit = Annotated[str, Query(pattern=r"^[0-9]{1,4}$")]
SeqCursor = Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")]
SlugCursor = Annotated[str | None, Query(max_length=100)]
ServerName = Annotated[str, Query(pattern=_SERVER_NAME)]
SearchText = Annotated[str, Query(max_length=200)]
RuntimeS = Annotated[int, Field(ge=1, le=366 * 86_400)]
GpuHours = Annotated[str, Field(max_length=40)] | int | float

LIMIT_DEFAULT: Final = "50"
LIMIT_MAX: Final = 200
HOLDS_MAX: Final = 500  # in one batch


class Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PersonBody(Body):
    issuer: str = Field(min_length=1, max_length=255)
    subject: str = Field(min_length=1, max_length=255)
    display_name: str = Field(min_length=1, max_length=200)
    email: str | None = Field(None, max_length=320)
    language: str | None = Field(None, pattern=r"^[A-Za-z]{2,8}([_-][A-Za-z0-9]{1,8}){0,4}$")


class VouchedBody(PersonBody):
    preferred: str = Field("", max_length=320)


class QuoteBody(Body):
    actor: HubName
    project_id: Id
    profile: Word
    runtime_s: RuntimeS


class SessionHoldBody(Body):
    kind: Literal["session"]
    actor: HubName
    project_id: Id
    profile: Word
    application: Word
    runtime_s: RuntimeS
    server_name: str = Field(pattern=_SERVER_NAME)


class JournalledBody(SessionHoldBody):
    started_at: Instant


class RequestHoldBody(Body):
    kind: Literal["request"]
    actor: HubName
    project_id: Id
    model: str = Field(pattern=_MODEL)
    tokens: int = Field(ge=1, le=AMOUNT_MAX)
    lease_s: int = Field(ge=1, le=86_400)


class UsedBody(Body):
    tokens: int = Field(ge=0, le=AMOUNT_MAX)
    estimated: bool = False


class BatchedSessionHold(SessionHoldBody):
    hold_id: Id


class BatchedRequestHold(RequestHoldBody):
    hold_id: Id


class HoldsBody(Body):
    holds: list[dict[str, object]] = Field(min_length=1, max_length=HOLDS_MAX)  # each is read by itself: `read_hold`


def read_hold(entry: Mapping[str, object]) -> BatchedSessionHold | BatchedRequestHold:
    """One entry of a batch. Raises Invalid for an unknown kind, pydantic's ValidationError for the rest."""
    match entry.get("kind"):
        case "session":
            return BatchedSessionHold.model_validate(entry)
        case "request":
            return BatchedRequestHold.model_validate(entry)
    raise Invalid([("kind", "malformed" if "kind" in entry else "required")])


class EpochBody(Body):
    holder: str = Field(min_length=1, max_length=200)


class EndedBody(Body):
    reason: str = Field(min_length=1, max_length=200)


class ActivityBody(Body):
    hub_name: HubName
    server_name: str = Field(pattern=_SERVER_NAME)
    busy: bool
    active_at: Instant | None


class KeepAliveBody(Body):
    seconds: int = Field(ge=60, le=7 * 86_400)


class AdjustmentBody(Body):
    actor: HubName
    allocation_id: Id
    delta: int = Field(ge=-_INT_MAX, le=_INT_MAX)
    reason: str = Field(max_length=2000)


class RefundBody(Body):
    actor: HubName
    hold_id: Id
    amount: int = Field(ge=1, le=_INT_MAX)
    reason: str = Field(max_length=2000)


class ReversalBody(Body):
    actor: HubName
    adjustment_id: Id
    reason: str = Field(max_length=2000)


class ExtensionBody(Body):
    seconds: RuntimeS


class MemberBody(Body):
    role: Literal["member", "manager", "co_pi"]


class MemberLimitsBody(Body):
    """None: no such limit."""

    gpu_hours: GpuHours | None
    gpu_hours_a_day: GpuHours | None
    tokens: int | None = Field(ge=0, le=AMOUNT_MAX)
    tokens_a_day: int | None = Field(None, ge=0, le=AMOUNT_MAX)

    def caps(self) -> Caps:
        """In the ledger's units. Raises Invalid."""
        wrong: list[tuple[str, str]] = []
        hours = {"gpu_hours": self.gpu_hours, "gpu_hours_a_day": self.gpu_hours_a_day}
        read = {name: None if one is None else _gpu_ms(one, wrong, name) for name, one in hours.items()}
        if wrong:
            raise Invalid(wrong)
        return Caps(read["gpu_hours"], read["gpu_hours_a_day"], self.tokens, self.tokens_a_day)


class KeyBody(Body):
    name: str = Field(min_length=1, max_length=60)
    days: int = Field(ge=1, le=366)
    models: tuple[str, ...] | None = Field(None, max_length=100, strict=False)
    tokens_max: int | None = Field(None, ge=1, le=_INT_MAX)
    requests_per_minute: int | None = Field(None, ge=1, le=_INT_MAX)
    tokens_per_minute: int | None = Field(None, ge=1, le=_INT_MAX)

    def order(self, key_id: str) -> KeyOrder:
        """The key asked for, under the caller's id."""
        return KeyOrder(key_id=key_id, **self.model_dump())


class ApplicationBody(Body):
    title: str = Field(max_length=2000)
    purpose: str = Field(max_length=20_000)
    gpu_hours: GpuHours
    tokens: int = Field(ge=0, le=_INT_MAX)
    starts_on: str = Field(max_length=10)
    ends_on: str = Field(max_length=10)

    def ask(self) -> Ask:
        """The application asked for. Raises Invalid for what no model can say: amounts and dates that cannot be read."""
        wrong: list[tuple[str, str]] = []
        gpu_ms = _gpu_ms(self.gpu_hours, wrong)
        starts_on = _day("starts_on", self.starts_on, wrong)
        ends_on = _day("ends_on", self.ends_on, wrong)
        if wrong or starts_on is None or ends_on is None:
            raise Invalid(wrong)
        return Ask(self.title, self.purpose, gpu_ms, self.tokens, starts_on, ends_on)


class DecisionBody(Body):
    decision: Literal["approve", "reject"]
    gpu_hours: GpuHours = 0
    tokens: int = Field(0, ge=0, le=_INT_MAX)
    message: str = Field("", max_length=20_000)

    def gpu_ms(self) -> int:
        """The GPU-hours awarded, in GPU-milliseconds. Raises Invalid."""
        wrong: list[tuple[str, str]] = []
        amount = _gpu_ms(self.gpu_hours, wrong)
        if wrong:
            raise Invalid(wrong)
        return amount


def limit_of(text: str) -> int:
    """A page's size. Raises Invalid outside 1 to LIMIT_MAX."""
    if not 1 <= int(text) <= LIMIT_MAX:
        raise Invalid([("limit", "out_of_range")])
    return int(text)


def _gpu_ms(value: str | float, wrong: list[tuple[str, str]], name: str = "gpu_hours") -> int:
    try:
        amount = gpu_hours_to_ms(str(value))
    except ValueError as error:
        wrong.append((name, "out_of_range" if "range" in str(error) else "not_a_number"))
        return 0
    if amount < 0:
        wrong.append((name, "out_of_range"))
    return amount


def _day(name: str, text: str, wrong: list[tuple[str, str]]) -> date | None:
    try:
        # fromisoformat also reads "20260131" and weeks; people and programs write one form
        if len(text) == 10 and text.isascii() and text[4] == text[7] == "-":
            return date.fromisoformat(text)
    except ValueError:
        pass
    wrong.append((name, "not_a_date"))
    return None
