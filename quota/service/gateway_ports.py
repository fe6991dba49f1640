"""What the gateway needs of the store beside the ledger, and what others need to know of its models, as protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple, Protocol

from quota.domain.gateway_key import GatewayKey
from quota.domain.ids import HoldId, PersonId, ProjectId


class GatewayKeys(Protocol):
    def add(self, key: GatewayKey) -> None:
        """Store a key, with the ledger's counter where it has a limit."""

    def get(self, key_id: str) -> GatewayKey | None: ...
    def of_project(self, project_id: ProjectId) -> Sequence[GatewayKey]:
        """Newest first, ended ones included."""

    def revoke(self, key_id: str, at: datetime) -> None: ...


class Taken(NamedTuple):
    """Requests and tokens of one minute."""

    requests: int
    tokens: int


class RateWindows(Protocol):
    """What the gateway's processes have taken of each key's minute (minutes since 1970)."""

    def take(self, key_id: str, minute: int, wanted: Taken, limits: Taken) -> Taken:
        """Take up to `wanted` where all processes together stay within `limits`; what was there to take."""


class KeptAnswers(Protocol):
    """Sealed answers to requests that may be repeated."""

    def put(self, hold_id: HoldId, sealed: bytes, *, at: datetime, until: datetime) -> None: ...
    def get(self, hold_id: HoldId, *, at: datetime) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class UseOfDay:
    """One member's use of one model on one day: raw tokens, and what they cost. `estimated` counts requests."""

    day: date
    person_id: PersonId
    who: str
    model: str
    requests: int
    prompt: int
    cached: int
    output: int
    reasoning: int
    charged: int
    estimated: int


@dataclass(frozen=True, slots=True)
class TierUse:
    """What one tier served in a period; `busy_ms` sums the requests' durations."""

    hardware: str
    cloud: str
    provider: str
    model: str
    application: str
    requests: int
    prompt: int
    output: int
    charged: int
    busy_ms: int


class ModelUsage(Protocol):
    """Usage of models, read from the ledger's records; periods are half-open."""

    def of_project(
        self, project_id: ProjectId, start: datetime, end: datetime, *, only: PersonId | None
    ) -> Sequence[UseOfDay]:
        """By day, member and model, oldest first."""

    def tiers(self, start: datetime, end: datetime) -> Sequence[TierUse]:
        """By hardware, cloud, provider, model and application, most tokens first."""


class OfferedModel(Protocol):
    """A language model as people choose it."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def license(self) -> str: ...
    @property
    def license_flags(self) -> tuple[str, ...]: ...


class ModelCatalogue(Protocol):
    def offered(self, project_slug: str | None = None) -> Sequence[OfferedModel]:
        """The models that a project may use, by name; None: every project's."""

    def gpus(self, model: str, provider: str, hardware: str, cloud: str) -> int:
        """GPUs of the servers that match, as portal.toml names them; 0 where it names none."""
