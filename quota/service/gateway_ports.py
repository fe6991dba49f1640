"""What the gateway needs of the store beside the ledger, and what others need to know of its models, as protocols."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from quota.domain.gateway_key import GatewayKey
from quota.domain.ids import HoldId, ProjectId


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
