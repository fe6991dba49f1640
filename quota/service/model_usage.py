"""What a project's models were used for, by day, member and model; and what each tier served, for the programme.

Plain members read their own use, leads and admins everybody's. Tokens are raw counts; `charged` is what they cost at the model's
weight. Days are UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, TypeVar

from quota.domain.ids import ProjectId
from quota.service.callers import Caller, Power
from quota.service.gateway_ports import TierUse, UseOfDay
from quota.service.ports import Transaction
from quota.service.project_roles import reader_role, sees_everybody
from quota.service.services import Services

DAYS_MAX: Final = 366
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Total:
    """Sums over some rows."""

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    output: int = 0
    charged: int = 0
    estimated: int = 0

    def plus(self, row: UseOfDay) -> Total:
        return Total(
            self.requests + row.requests,
            self.prompt + row.prompt,
            self.cached + row.cached,
            self.output + row.output,
            self.charged + row.charged,
            self.estimated + row.estimated,
        )


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A project's use in a period of whole days; `only_own` where the reader sees no other member's."""

    rows: Sequence[UseOfDay]
    first: date
    last: date
    only_own: bool
    at: datetime

    @property
    def total(self) -> Total:
        return next(iter(totals(self.rows, lambda _: 0).values()), Total())

    @property
    def days(self) -> Sequence[tuple[date, Total]]:
        """Every day of the period, also those without use."""
        found = totals(self.rows, lambda row: row.day)
        count = (self.last - self.first).days + 1
        every = [self.first + timedelta(days=number) for number in range(count)]
        return [(day, found.get(day, Total())) for day in every]

    @property
    def members(self) -> Sequence[tuple[str, Total]]:
        return _largest(totals(self.rows, lambda row: row.who))

    @property
    def models(self) -> Sequence[tuple[str, Total]]:
        return _largest(totals(self.rows, lambda row: row.model))


@dataclass(frozen=True, slots=True)
class Tier:
    """What one tier served, and the GPU-hours that its servers were there for; `gpu_ms` None where portal.toml names no GPUs."""

    use: TierUse
    gpu_ms: int | None

    @property
    def tokens(self) -> int:
        return self.use.prompt + self.use.output

    @property
    def tokens_per_gpu_hour(self) -> int | None:
        """Rounded down; None where no GPU-hours are known."""
        return self.tokens * 3_600_000 // self.gpu_ms if self.gpu_ms else None


async def of_project(services: Services, caller: Caller, project_id: ProjectId, *, days: int) -> ModelUse:
    """The last `days` days, today included. Raises Unknown('project')."""
    at = services.clock.now()
    first, start, end = _period(at, days)

    def work(tx: Transaction) -> ModelUse:
        sees_all = sees_everybody(caller, reader_role(tx, caller, project_id))
        rows = tx.model_usage.of_project(project_id, start, end, only=None if sees_all else caller.id)
        return ModelUse(rows, first, at.date(), not sees_all, at)

    return await services.store.read(work)


async def tiers(services: Services, caller: Caller, *, days: int) -> Sequence[Tier]:
    """What each (hardware, cloud, provider, model) served in the last `days` days, for those who award or administer."""
    if not caller.may(Power.DECIDE):
        caller.must(Power.ADMIN)
    at = services.clock.now()
    _, start, _ = _period(at, days)
    found = await services.store.read(lambda tx: tx.model_usage.tiers(start, at))
    return [Tier(use, _gpu_ms(services, use, at - start)) for use in found]


def totals(rows: Iterable[UseOfDay], key: Callable[[UseOfDay], K]) -> Mapping[K, Total]:
    """Sums by key."""
    found: dict[K, Total] = {}
    for row in rows:
        found[key(row)] = found.get(key(row), Total()).plus(row)
    return found


def _gpu_ms(services: Services, use: TierUse, length: timedelta) -> int | None:
    """GPU-milliseconds for which the tier's servers stood ready: what the period lasted, times the GPUs that portal.toml names."""
    gpus = services.models.gpus(use.model, use.provider, use.hardware, use.cloud)
    return gpus * (length // timedelta(milliseconds=1)) if gpus else None


def _largest(found: Mapping[str, Total]) -> Sequence[tuple[str, Total]]:
    return sorted(found.items(), key=lambda item: (-item[1].charged, item[0]))


def _period(at: datetime, days: int) -> tuple[date, datetime, datetime]:
    first = at.astimezone(UTC).date() - timedelta(days=min(max(days, 1), DAYS_MAX) - 1)
    start = datetime.combine(first, time(), tzinfo=UTC)
    return first, start, at + timedelta(days=1)
