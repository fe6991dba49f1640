"""The store's fakes of what the gateway keeps beside the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from quota.domain.gateway_key import GatewayKey
from quota.domain.ids import HoldId, PersonId, ProjectId
from quota.service.gateway_ports import Taken, TierUse, UseOfDay
from tests.fake_books import Books


@dataclass
class FakeGatewayKeys:
    books: Books

    def add(self, key: GatewayKey) -> None:
        self.books.gateway_keys[key.id] = key

    def get(self, key_id: str) -> GatewayKey | None:
        return self.books.gateway_keys.get(key_id)

    def of_project(self, project_id: ProjectId) -> Sequence[GatewayKey]:
        found = [one for one in self.books.gateway_keys.values() if one.project_id == project_id]
        return sorted(found, key=lambda one: one.made_at, reverse=True)

    def revoke(self, key_id: str, at: datetime) -> None:
        self.books.gateway_keys[key_id] = replace(self.books.gateway_keys[key_id], revoked_at=at)


@dataclass
class FakeRateWindows:
    books: Books

    def take(self, key_id: str, minute: int, wanted: Taken, limits: Taken) -> Taken:
        used = self.books.minutes.get((key_id, minute), Taken(0, 0))
        got = Taken(*(max(0, min(w, most - u)) for w, most, u in zip(wanted, limits, used, strict=True)))
        self.books.minutes[key_id, minute] = Taken(used.requests + got.requests, used.tokens + got.tokens)
        return got


@dataclass
class FakeKeptAnswers:
    books: Books

    def put(self, hold_id: HoldId, sealed: bytes, *, at: datetime, until: datetime) -> None:
        self.books.kept[hold_id] = (sealed, until)

    def get(self, hold_id: HoldId, *, at: datetime) -> bytes | None:
        sealed, until = self.books.kept.get(hold_id, (b"", at))
        return sealed if at < until else None


@dataclass
class FakeModelUsage:
    """What a test wrote down."""

    books: Books

    def of_project(
        self, project_id: ProjectId, start: datetime, end: datetime, *, only: PersonId | None
    ) -> Sequence[UseOfDay]:
        rows = self.books.uses.get(project_id, [])
        return [row for row in rows if start.date() <= row.day < end.date() and only in (None, row.person_id)]

    def tiers(self, start: datetime, end: datetime) -> Sequence[TierUse]:
        return list(self.books.tiers)
