"""When a project's GPU-hours and tokens run out, for pages: read rarely, since days change slowly.

Invariant: what is left comes from the balance that the page shows beside it; only the days' use may be minutes old.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from quota.domain.forecast import WINDOWS_DAYS, Forecast, forecast
from quota.domain.ids import ProjectId
from quota.domain.units import Balance, Unit
from quota.service.services import Services

_KEPT: Final = timedelta(minutes=5)
_KEPT_MAX: Final = 10_000

DailyUse = Mapping[Unit, Mapping[date, int]]


@dataclass(frozen=True, slots=True)
class _Known:
    use: DailyUse
    read_at: datetime


class Outlooks:
    """Reads the days' use of a project at most every five minutes a process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: dict[ProjectId, _Known] = {}

    async def use(self, project_id: ProjectId) -> DailyUse:
        """What the project was charged on each of the last 28 UTC days, by unit. The caller may see the project."""
        at = self._services.clock.now()
        known = self._known.get(project_id)
        if known is not None and at - known.read_at < _KEPT:
            return known.use
        since = at.astimezone(UTC).date() - timedelta(days=WINDOWS_DAYS[-1] - 1)
        use = await self._services.store.read(lambda tx: tx.accounts.daily_use(project_id, since))
        if len(self._known) >= _KEPT_MAX:
            self._known.clear()
        self._known[project_id] = _Known(use, at)
        return use

    async def forecast(self, project_id: ProjectId, balance: Balance, ends_at: datetime | None) -> Forecast:
        """When `balance` runs out; what is held counts as left."""
        use = await self.use(project_id)
        left = balance.awarded - balance.charged
        return forecast(left, use[balance.unit], self._services.clock.now(), ends_at)
