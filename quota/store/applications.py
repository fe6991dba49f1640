"""Applications; a decision is a compare-and-set on the state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, select, update

from quota.domain.application import Application, ApplicationState, Ask
from quota.domain.errors import IdConflict, WrongState
from quota.domain.ids import ApplicationId, PersonId, ProjectId
from quota.store.instants import from_us, from_us_or_none, to_us
from quota.store.tables import application, person, person_data

_QUERY = (
    select(application, person.c.login, person_data.c.display_name)
    .join(person, person.c.id == application.c.applicant)
    .outerjoin(person_data, person_data.c.person_id == application.c.applicant)
)


class SqlApplications:
    """`quota.service.ports.Applications`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, application_id: ApplicationId, applicant: PersonId, ask: Ask, at: datetime, body_hash: str) -> bool:
        """Store a submitted application; False where the same was stored before. Raises IdConflict for another body."""
        query = select(application.c.body_hash).where(application.c.id == application_id)
        known = self._connection.execute(query).scalar()
        if known is not None:
            if known != body_hash:
                raise IdConflict("this application id was used with another body", application_id=application_id)
            return False
        self._connection.execute(
            application.insert().values(
                id=application_id,
                applicant=applicant,
                title=ask.title,
                purpose=ask.purpose,
                gpu_ms=ask.gpu_ms,
                tokens=ask.tokens,
                starts_on=ask.starts_on.isoformat(),
                ends_on=ask.ends_on.isoformat(),
                state=ApplicationState.SUBMITTED.value,
                submitted_us=to_us(at),
                body_hash=body_hash,
            )
        )
        return True

    def get(self, application_id: ApplicationId) -> Application | None:
        found = self._all(_QUERY.where(application.c.id == application_id))
        return found[0] if found else None

    def of_person(self, person_id: PersonId) -> Sequence[Application]:
        """Newest first."""
        newest = (application.c.submitted_us.desc(), application.c.id)
        return self._all(_QUERY.where(application.c.applicant == person_id).order_by(*newest))

    def move(self, applicant: PersonId, into: PersonId) -> None:
        self._connection.execute(update(application).where(application.c.applicant == applicant).values(applicant=into))

    def in_state(self, *states: ApplicationState) -> Sequence[Application]:
        """Oldest first."""
        oldest = (application.c.submitted_us, application.c.id)
        return self._all(_QUERY.where(application.c.state.in_([s.value for s in states])).order_by(*oldest))

    def decide(
        self,
        application_id: ApplicationId,
        *,
        expected: ApplicationState,
        to: ApplicationState,
        by: PersonId,
        at: datetime,
        message: str,
        awarded_gpu_ms: int | None,
        awarded_tokens: int | None,
        project_id: ProjectId | None,
    ) -> None:
        """Compare-and-set from `expected`; raises WrongState where it is no longer in it."""
        changed = self._connection.execute(
            update(application)
            .where(application.c.id == application_id, application.c.state == expected.value)
            .values(
                state=to.value,
                decided_by=by,
                decided_us=to_us(at),
                message=message,
                awarded_gpu_ms=awarded_gpu_ms,
                awarded_tokens=awarded_tokens,
                project_id=project_id,
            )
        ).rowcount
        if changed != 1:
            raise WrongState(f"the application is not {expected}", application_id=application_id)

    def _all(self, query: Select[Any]) -> list[Application]:
        return [_application(row) for row in self._connection.execute(query)]


def _application(row: Row[Any]) -> Application:
    return Application(
        id=ApplicationId(row.id),
        applicant=PersonId(row.applicant),
        applicant_name=row.display_name if row.display_name is not None else row.login,
        ask=Ask(
            row.title,
            row.purpose,
            row.gpu_ms,
            row.tokens,
            date.fromisoformat(row.starts_on),
            date.fromisoformat(row.ends_on),
        ),
        state=ApplicationState(row.state),
        submitted_at=from_us(row.submitted_us),
        decided_at=from_us_or_none(row.decided_us),
        decided_by=None if row.decided_by is None else PersonId(row.decided_by),
        message=row.message,
        awarded_gpu_ms=row.awarded_gpu_ms,
        awarded_tokens=row.awarded_tokens,
        project_id=None if row.project_id is None else ProjectId(row.project_id),
    )
