"""Sessions: the mutable face of their holds; amounts are read from the hold, never kept twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    case,
    func,
    literal,
    select,
    text,
    update,
)

from quota.domain.errors import RefusalCode, Refused
from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId
from quota.domain.session import (
    EndReason,
    Extension,
    ExtensionState,
    Session,
    SessionState,
    SessionTerms,
    Target,
)
from quota.store.instants import from_us, from_us_or_none, to_us, to_us_or_none
from quota.store.tables import hold, session, session_extension

_OVER = ("settled", "failed", "refused")
_SEEN = ("started_us", "alive_us", "ended_us", "end_reason", "waiting_us", "suspended", "note")

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
            "target": row.target.value,
            "stop_us": to_us_or_none(row.stop_at),
            "extended_s": row.extended_s,
            "waiting_us": to_us_or_none(row.waiting_since),
            "asked_us": to_us_or_none(row.asked_at),
            "suspended": row.suspended,
            "note": row.note,
            "tries": row.tries,
            "next_try_us": to_us_or_none(row.next_try_at),
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
        open_ones = _QUERY.where(text("session.state NOT IN ('settled', 'failed', 'refused')"))
        return self._all(open_ones.order_by(session.c.held_us, session.c.hold_id))

    def ending(self, after: datetime, until: datetime) -> Sequence[Session]:
        """Unfinished sessions whose end lies in (after, until], soonest first."""
        open_ones = _QUERY.where(text("session.state NOT IN ('settled', 'failed', 'refused')"))
        soon = open_ones.where(session.c.ends_us > to_us(after), session.c.ends_us <= to_us(until))
        return self._all(soon.order_by(session.c.ends_us, session.c.hold_id))

    def observe(self, rows: Sequence[Session]) -> None:
        """Write what was seen of these sessions; what is wanted of them, and rows that are over, stay as they are."""
        if rows:
            self._connection.execute(_OBSERVE, [_seen_values(row) for row in rows])

    def add_extension(self, extension: Extension) -> None:
        self._connection.execute(session_extension.insert().values(_extension_values(extension)))

    def put_extension(self, extension: Extension) -> None:
        """Replace the row of `extension.id`."""
        self._connection.execute(
            update(session_extension).where(session_extension.c.id == extension.id).values(_extension_values(extension))
        )

    def extension(self, extension_id: str) -> Extension | None:
        row = self._connection.execute(select(session_extension).where(session_extension.c.id == extension_id)).first()
        return None if row is None else _extension(row)

    def open_extensions(self) -> Sequence[Extension]:
        """Extensions of which it is not known whether the backend took them, oldest first."""
        query = select(session_extension).where(text("session_extension.state = 'asked'"))
        ordered = query.order_by(session_extension.c.asked_us, session_extension.c.id)
        return [_extension(row) for row in self._connection.execute(ordered)]

    def _all(self, query: Select[Any]) -> list[Session]:
        return [_session(row) for row in self._connection.execute(query)]


@lru_cache(maxsize=16_384)
def _terms(text: str) -> SessionTerms:
    """What a hold pinned never changes, and each pass reads it again for all that run."""
    return SessionTerms.from_details(json.loads(text))


def _session(row: Row[Any]) -> Session:
    return Session(
        hold_id=HoldId(row.hold_id),
        person_id=PersonId(row.person_id),
        project_id=ProjectId(row.project_id),
        allocation_id=AllocationId(row.allocation_id),
        terms=_terms(row.terms),
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
        target=Target(row.target),
        stop_at=from_us_or_none(row.stop_us),
        extended_s=row.extended_s,
        waiting_since=from_us_or_none(row.waiting_us),
        asked_at=from_us_or_none(row.asked_us),
        suspended=row.suspended,
        note=row.note,
        tries=row.tries,
        next_try_at=from_us_or_none(row.next_try_us),
    )


def _not_over(state: ColumnElement[str]) -> ColumnElement[bool]:
    """NOT IN, spelt out: SQLAlchemy expands an IN at execution and refuses it for several rows at once."""
    return and_(*(state != over for over in _OVER))


# A stop that was asked for while the pass looked is not lost: it keeps the state "stopping" until an end is seen. Nor is an end that
# was moved meanwhile, by an extension or by a decision: what the pass reckoned from the row as it was is left to the next pass.
_AS_IT_WAS = and_(
    session.c.extended_s == bindparam("b_extended_s"),
    func.coalesce(session.c.stop_us, -1) == func.coalesce(bindparam("b_stop_us", type_=BigInteger), -1),
)
_OBSERVE = (
    update(session)
    .where(session.c.hold_id == bindparam("b_hold_id"), _not_over(session.c.state))
    .values(
        state=case(
            (
                and_(session.c.state == "stopping", _not_over(bindparam("b_state", type_=Text))),
                literal("stopping"),
            ),
            else_=bindparam("b_state", type_=Text),
        ),
        ends_us=case((_AS_IT_WAS, bindparam("b_ends_us", type_=BigInteger)), else_=session.c.ends_us),
        **{name: bindparam(f"b_{name}", type_=session.c[name].type) for name in _SEEN},
    )
)


def _seen_values(row: Session) -> dict[str, object]:
    return {
        "b_hold_id": row.hold_id,
        "b_state": row.state.value,
        "b_started_us": to_us_or_none(row.started_at),
        "b_alive_us": to_us_or_none(row.alive_at),
        "b_ends_us": to_us_or_none(row.ends_at),
        "b_extended_s": row.extended_s,
        "b_stop_us": to_us_or_none(row.stop_at),
        "b_ended_us": to_us_or_none(row.ended_at),
        "b_end_reason": None if row.end_reason is None else row.end_reason.value,
        "b_waiting_us": to_us_or_none(row.waiting_since),
        "b_suspended": row.suspended,
        "b_note": row.note,
    }


def _extension_values(one: Extension) -> dict[str, object]:
    return {
        "id": one.id,
        "hold_id": one.hold_id,
        "actor": one.actor,
        "seconds": one.seconds,
        "amount": one.amount,
        "state": one.state.value,
        "asked_us": to_us(one.asked_at),
        "ends_us": to_us(one.ends_at),
        "refusal_code": None if one.refusal is None else one.refusal.code.value,
        "refusal_params": None if one.refusal is None else json.dumps(dict(one.refusal.params)),
    }


def _extension(row: Row[Any]) -> Extension:
    refusal = None
    if row.refusal_code is not None:
        refusal = Refused(RefusalCode(row.refusal_code), json.loads(row.refusal_params))
    return Extension(
        id=row.id,
        hold_id=HoldId(row.hold_id),
        actor=PersonId(row.actor),
        seconds=row.seconds,
        amount=row.amount,
        state=ExtensionState(row.state),
        asked_at=from_us(row.asked_us),
        ends_at=from_us(row.ends_us),
        refusal=refusal,
    )
