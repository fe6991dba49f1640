"""Sessions: the mutable face of their holds; amounts are read from the hold, never kept twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, text, update

from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId
from quota.domain.session import EndReason, Session, SessionState, SessionTerms
from quota.store.instants import from_us, from_us_or_none, to_us, to_us_or_none
from quota.store.tables import hold, session

_QUERY = select(
    session, func.coalesce(hold.c.amount, 0).label("amount"), func.coalesce(hold.c.charged, 0).label("charged")
).outerjoin(hold, hold.c.id == session.c.hold_id)


class SqlSessions:
    """`quota.service.ports.Sessions`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def upsert(self, row: Session) -> None:
        """Insert or replace the row of `row.hold_id`."""
        values: dict[str, object] = {
            "person_id": row.person_id,
            "project_id": row.project_id,
            "allocation_id": row.allocation_id,
            "terms": json.dumps(row.terms.as_details(), ensure_ascii=False),
            "state": row.state.value,
            "held_us": to_us(row.held_at),
            "started_us": to_us_or_none(row.started_at),
            "alive_us": to_us_or_none(row.alive_at),
            "ends_us": to_us_or_none(row.ends_at),
            "ended_us": to_us_or_none(row.ended_at),
            "end_reason": None if row.end_reason is None else row.end_reason.value,
            "stop_reason": row.stop_reason,
        }
        changed = self._connection.execute(
            update(session).where(session.c.hold_id == row.hold_id).values(**values)
        ).rowcount
        if changed == 0:
            self._connection.execute(session.insert().values(hold_id=row.hold_id, **values))

    def get(self, hold_id: HoldId) -> Session | None:
        found = self._all(_QUERY.where(session.c.hold_id == hold_id))
        return found[0] if found else None

    def of_person(self, person_id: PersonId, *, limit: int) -> Sequence[Session]:
        """Newest first."""
        newest = (session.c.held_us.desc(), session.c.hold_id)
        return self._all(_QUERY.where(session.c.person_id == person_id).order_by(*newest).limit(limit))

    def unfinished(self) -> Sequence[Session]:
        """Sessions not settled or failed, oldest first."""
        # The states are written into the SQL: the partial index serves only what the planner can see.
        open_ones = _QUERY.where(text("session.state NOT IN ('settled', 'failed')"))
        return self._all(open_ones.order_by(session.c.held_us, session.c.hold_id))

    def ending(self, after: datetime, until: datetime) -> Sequence[Session]:
        """Unfinished sessions whose end lies in (after, until], soonest first."""
        open_ones = _QUERY.where(text("session.state NOT IN ('settled', 'failed')"))
        soon = open_ones.where(session.c.ends_us > to_us(after), session.c.ends_us <= to_us(until))
        return self._all(soon.order_by(session.c.ends_us, session.c.hold_id))

    def _all(self, query: Select[Any]) -> list[Session]:
        return [_session(row) for row in self._connection.execute(query)]


def _session(row: Row[Any]) -> Session:
    return Session(
        hold_id=HoldId(row.hold_id),
        person_id=PersonId(row.person_id),
        project_id=ProjectId(row.project_id),
        allocation_id=AllocationId(row.allocation_id),
        terms=SessionTerms.from_details(json.loads(row.terms)),
        state=SessionState(row.state),
        held_at=from_us(row.held_us),
        started_at=from_us_or_none(row.started_us),
        alive_at=from_us_or_none(row.alive_us),
        ends_at=from_us_or_none(row.ends_us),
        ended_at=from_us_or_none(row.ended_us),
        end_reason=None if row.end_reason is None else EndReason(row.end_reason),
        stop_reason=row.stop_reason,
        amount=row.amount,
        charged=row.charged,
    )
