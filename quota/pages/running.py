"""A session as the pages show it, running or ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from quota.domain.endings import ending
from quota.domain.ids import new_id
from quota.domain.messages import MESSAGES
from quota.domain.rates import hold_amount
from quota.domain.session import Session, SessionState, Target
from quota.pages.figures import rate_shown
from quota.pages.visit import Visit
from quota.service.extend import SHORTEST_S, fits_s
from quota.service.idle import Idle, idle_of

_FIRST_CHARGE_S: Final = 90
EXTENSION_S: Final = 3600


@dataclass(frozen=True, slots=True)
class ExtensionOffer:
    """What one click on Extend does: so many seconds later, so much more held. The id is the click's: a double click is one."""

    id: str
    seconds: int
    amount: int


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session in words and numbers. `rate` is GPU-hours an hour; `held` what is set aside and not charged yet."""

    session: Session
    title: str
    project_title: str | None
    rate: str
    elapsed_s: int | None
    open_url: str
    extension: ExtensionOffer | None = None  # None where it cannot be extended now
    idle: Idle | None = None

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
    def why_soon(self) -> str:
        """The code of why it has to end before its time, where policy decided that; "" else."""
        session = self.session
        code = f"why.{session.stop_reason}"
        return code if session.target is Target.STOPPED and session.stop_reason and code in MESSAGES else ""

    @property
    def ending(self) -> tuple[str, Mapping[str, object]]:
        """Why it ended, as a message code with parameters."""
        return ending(self.session)


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


async def with_offers(visit: Visit, views: Sequence[SessionView]) -> list[SessionView]:
    """The reader's running sessions with what extending them would do, and how idle they are."""
    services = visit.desk.services
    idle = await services.store.read(lambda tx: [idle_of(services, tx, view.session) for view in views])
    offers = [await _offer(visit, view.session) for view in views]
    return [replace(view, extension=o, idle=i) for view, o, i in zip(views, offers, idle, strict=True)]


async def _offer(visit: Visit, session: Session) -> ExtensionOffer | None:
    if session.state is not SessionState.RUNNING or session.target is Target.STOPPED:
        return None
    seconds = min(EXTENSION_S, await fits_s(visit.desk.services, session)) // 60 * 60
    if seconds < SHORTEST_S:
        return None
    return ExtensionOffer(new_id(), seconds, hold_amount(session.terms.rate, session.terms.gpus, seconds, 0))
