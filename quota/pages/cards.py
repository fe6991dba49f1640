"""A project as a card: its balances, what it can do now, and when it runs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from quota.domain.forecast import Forecast
from quota.domain.ids import ProjectId
from quota.domain.project import Allocation, AllocationState, ProjectState, payer
from quota.domain.units import Balance, Unit
from quota.pages.figures import Bar, Level, bar_of, level_of, used_percent
from quota.service import report
from quota.service.outlook import Outlooks

Forecasts = Mapping[tuple[ProjectId, Unit], Forecast]


class Standing(StrEnum):
    """What a project can do now, as its card says it."""

    READY = "ready"
    EXHAUSTED = "exhausted"
    NOT_BEGUN = "not_begun"
    OVER = "over"
    FROZEN = "frozen"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class UnitView:
    balance: Balance
    bar: Bar
    level: Level
    used: str
    ends_at: datetime | None
    forecast: Forecast | None  # None where nothing was awarded, or the project cannot use it now

    @property
    def unit(self) -> Unit:
        return self.balance.unit


@dataclass(frozen=True, slots=True)
class CardView:
    card: report.ProjectCard
    standing: Standing
    units: Sequence[UnitView]
    primary: bool  # carries the page's one primary button
    starts_free: bool  # nothing that costs can start, what is free can


async def forecasts_of(outlooks: Outlooks, cards: Sequence[report.ProjectCard], at: datetime) -> Forecasts:
    """When each balance of these projects runs out."""
    return {
        (card.project.id, balance.unit): await outlooks.forecast(card.project.id, balance, _ends_at(card, balance, at))
        for card in cards
        for balance in card.balances
        if balance.awarded > 0
    }


def cards_of(cards: Sequence[report.ProjectCard], at: datetime, forecasts: Forecasts) -> list[CardView]:
    """The cards, ready ones first; the first that can start carries the page's primary button."""
    views = [
        CardView(
            card, standing_of(card, at), units_of(card, at, forecasts), primary=False, starts_free=starts_free(card, at)
        )
        for card in cards
    ]
    views.sort(key=lambda view: (view.standing is not Standing.READY, view.card.project.title.lower()))
    if views:
        views[0] = replace(views[0], primary=True)
    return views


def starts_free(card: report.ProjectCard, at: datetime) -> bool:
    """Whether nothing is left, and an allocation still carries a start that costs nothing (an overdrawn one does not)."""
    if standing_of(card, at) is not Standing.EXHAUSTED:
        return False
    carrier = payer(list(card.allocations), Unit.GPU_MS, 0, at)
    return carrier is not None and carrier.balance.available >= 0


def units_of(card: report.ProjectCard, at: datetime, forecasts: Forecasts) -> list[UnitView]:
    """A view of each unit's total; a unit that was never awarded is left out while the other one was."""
    able = standing_of(card, at) in (Standing.READY, Standing.EXHAUSTED)
    views = [
        UnitView(
            balance=balance,
            bar=bar_of(balance),
            level=level_of(balance),
            used=used_percent(balance),
            ends_at=_ends_at(card, balance, at),
            forecast=forecasts.get((card.project.id, balance.unit)) if able else None,
        )
        for balance in card.balances
    ]
    awarded = [view for view in views if view.level is not Level.NOTHING_AWARDED]
    return awarded or views


def _ends_at(card: report.ProjectCard, balance: Balance, at: datetime) -> datetime | None:
    return max((a.ends_at for a in card.allocations if a.unit is balance.unit and at < a.ends_at), default=None)


def standing_of(card: report.ProjectCard, at: datetime) -> Standing:
    """What the project can do now."""
    if card.project.state is not ProjectState.ACTIVE:
        return Standing.SUSPENDED
    gpu = [a for a in card.allocations if a.unit is Unit.GPU_MS]
    active = [a for a in gpu if a.state_at(at) is AllocationState.ACTIVE]
    if not active:
        return _inactive(gpu, at)
    if all(a.frozen for a in active):
        return Standing.FROZEN
    return Standing.READY if any(a.balance.available > 0 for a in active if not a.frozen) else Standing.EXHAUSTED


def _inactive(gpu: Sequence[Allocation], at: datetime) -> Standing:
    states = {a.state_at(at) for a in gpu}
    if AllocationState.SCHEDULED in states:
        return Standing.NOT_BEGUN
    return Standing.SUSPENDED if AllocationState.SUSPENDED in states else Standing.OVER
