"""What is remembered of a session's idleness."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from quota.domain.idle import IdleState
from quota.domain.ids import HoldId
from quota.store.instants import from_us, from_us_or_none, to_us, to_us_or_none
from quota.store.notice_tables import session_idle


class SqlIdleStates:
    """`quota.service.ports.IdleStates`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, hold_id: HoldId) -> IdleState | None:
        row = self._connection.execute(select(session_idle).where(session_idle.c.hold_id == hold_id)).first()
        if row is None:
            return None
        return IdleState(from_us(row.active_us), from_us_or_none(row.kept_until_us), from_us_or_none(row.told_us))

    def put(self, hold_id: HoldId, state: IdleState) -> None:
        """Insert or replace."""
        values = {
            "active_us": to_us(state.active_at),
            "kept_until_us": to_us_or_none(state.kept_until),
            "told_us": to_us_or_none(state.told_at),
        }
        known = update(session_idle).where(session_idle.c.hold_id == hold_id).values(**values)
        if self._connection.execute(known).rowcount == 0:
            self._connection.execute(session_idle.insert().values(hold_id=hold_id, **values))
