"""Home: what is left, what runs, what was decided. Figures come from one read; an outage is an error page, never zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from starlette.responses import Response

from quota.domain.project import Allocation, AllocationState, ProjectState, payer
from quota.domain.session import OVER, EndReason, Session, SessionState
from quota.domain.units import Balance, Unit
from quota.pages.figures import Bar, Level, bar_of, level_of, rate_shown, used_percent
from quota.pages.notices import views_of
from quota.pages.said import said
from quota.pages.visit import Visit
from quota.service import notices, report

_FIRST_CHARGE_S: Final = 90


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


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session in words and numbers. `rate` is GPU-hours an hour; `held` what is set aside and not charged yet."""

    session: Session
    title: str
    project_title: str | None
    rate: str
    elapsed_s: int | None
    open_url: str

    @property
    def held(self) -> int:
        return self.session.amount - self.session.charged

    @property
    def free(self) -> bool:
        """Whether it costs no GPU-hours."""
        return self.session.amount == 0 and self.session.charged == 0

    @property
    def first_charge_is_near(self) -> bool:
        """Running for so short that the meter (a minute at most between two charges) need not have come by yet."""
        fresh = self.elapsed_s is not None and self.elapsed_s < _FIRST_CHARGE_S
        return fresh and self.session.state is SessionState.RUNNING and self.session.charged == 0

    @property
    def stopped_by(self) -> str | None:
        """The user name of another person who stopped it."""
        reason = self.session.stop_reason or ""
        return reason.removeprefix("by:") if reason.startswith("by:") else None

    @property
    def end_code(self) -> str:
        reason = self.session.end_reason or EndReason.STOPPED
        return f"end.{reason.value}"


async def show(visit: Visit) -> Response:
    """The whole page."""
    return visit.render("home.html", said=said(visit.request), **await _context(visit))


async def now(visit: Visit) -> Response:
    """The part that changes by itself, for htmx to fetch again."""
    return visit.render("_now.html", **await _context(visit))


async def _context(visit: Visit) -> dict[str, object]:
    home = await report.home(visit.desk.services, visit.caller)
    unread = await notices.unread(visit.desk.services, visit.caller)
    at = visit.desk.services.clock.now()
    titles = {card.project.id: card.project.title for card in home.cards}
    views = [session_view(visit, session, titles.get(session.project_id), at) for session in home.sessions]
    running = [view for view in views if view.session.state not in OVER]
    ended = [view for view in views if view.session.state in OVER]
    return {
        "notices": views_of(visit, unread),
        "cards": cards_of(home.cards, at),
        "free_profile": visit.desk.services.catalogue.free_profile(),
        "running": running,
        "last_ended": max(ended, key=lambda view: view.session.ended_at or view.session.held_at, default=None),
        "applications": home.applications,
    }


def cards_of(cards: Sequence[report.ProjectCard], at: datetime) -> list[CardView]:
    """The cards, ready ones first; the first that can start carries the page's primary button."""
    views = [
        CardView(card, standing_of(card, at), units_of(card, at), primary=False, starts_free=starts_free(card, at))
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


def units_of(card: report.ProjectCard, at: datetime) -> list[UnitView]:
    """A view of each unit's total; a unit that was never awarded is left out while the other one was."""
    views = []
    for balance in card.balances:
        ends = [a.ends_at for a in card.allocations if a.unit is balance.unit and at < a.ends_at]
        level = level_of(balance)
        views.append(UnitView(balance, bar_of(balance), level, used_percent(balance), max(ends, default=None)))
    awarded = [view for view in views if view.level is not Level.NOTHING_AWARDED]
    return awarded or views


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


def session_view(visit: Visit, session: Session, project_title: str | None, at: datetime) -> SessionView:
    """How a session is shown to the reader."""
    profile = visit.desk.services.catalogue.profile(session.terms.profile)
    end = session.ended_at or at
    elapsed = int((end - session.started_at).total_seconds()) if session.started_at is not None else None
    return SessionView(
        session=session,
        title=profile.title_in(visit.language) if profile is not None else session.terms.profile,
        project_title=project_title,
        rate=rate_shown(session.terms.rate * session.terms.gpus),
        elapsed_s=elapsed,
        open_url=visit.desk.settings.user_server(session.terms.hub_name, session.terms.server_name),
    )
