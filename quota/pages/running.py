"""A session as the pages show it, running or ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from quota.domain.endings import ending
from quota.domain.session import Session, SessionState
from quota.pages.figures import rate_shown
from quota.pages.visit import Visit

_FIRST_CHARGE_S: Final = 90


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
