"""Home: what is left, what runs, what was decided. Figures come from one read; an outage is an error page, never zeros."""

from __future__ import annotations

from starlette.responses import Response

from quota.domain.course import shown
from quota.domain.session import OVER
from quota.pages.cards import cards_of, forecasts_of
from quota.pages.notices import views_of
from quota.pages.running import session_view, with_offers
from quota.pages.said import said
from quota.pages.visit import Visit
from quota.service import courses, notices, report, review
from quota.service.callers import Power


async def show(visit: Visit) -> Response:
    """The whole page."""
    at = visit.desk.services.clock.now()
    mine = [
        {"course": one, "role": role, "phase": one.phase_at(at).value, "ends": shown(one.over_at, one.zone)}
        for one, role in await courses.courses_of(visit.desk.services, visit.caller.id)
    ]
    return visit.render("home.html", said=said(visit.request), courses=mine, **await _context(visit))


async def now(visit: Visit) -> Response:
    """The part that changes by itself, for htmx to fetch again."""
    return visit.render("_now.html", **await _context(visit))


async def _context(visit: Visit) -> dict[str, object]:
    home = await report.home(visit.desk.services, visit.caller)
    unread, newest = await notices.unread(visit.desk.services, visit.caller)
    at = visit.desk.services.clock.now()
    decides = visit.caller.may(Power.DECIDE)
    titles = {card.project.id: card.project.title for card in home.cards}
    views = [session_view(visit, session, titles.get(session.project_id), at) for session in home.sessions]
    running = [view for view in views if view.session.state not in OVER]
    ended = [view for view in views if view.session.state in OVER]
    return {
        "notices": views_of(visit, unread),
        "newest": newest,
        "cards": cards_of(home.cards, at, await forecasts_of(visit.desk.outlooks, home.cards, at)),
        "free_profile": visit.desk.services.catalogue.free_profile(),
        "running": await with_offers(visit, running),
        "last_ended": max(ended, key=lambda view: view.session.ended_at or view.session.held_at, default=None),
        "applications": home.applications,
        "waiting": len(await review.review_queue(visit.desk.services, visit.caller)) if decides else 0,
    }
