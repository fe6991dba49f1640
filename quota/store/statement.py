"""The statement: entries as lines that people read, one a (transaction, account), newest first.

Invariant: the entries of one transaction on one account follow each other without a gap (they are written by one statement), so
that a page costs what it shows, however long the history is.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, and_, select, tuple_

from quota.domain.grading import is_grading
from quota.domain.hold import HoldKind
from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId
from quota.domain.units import Unit
from quota.service.ports import StatementLine
from quota.store.instants import from_us, from_us_or_none
from quota.store.ledger_tables import sides
from quota.store.tables import account, adjustment, entry, hold, person, person_data, refund, usage_record

_ENTRIES_A_LINE: Final = 3  # before revision 0016 an overrun was three entries


@dataclass(frozen=True, slots=True)
class _Around:
    """The rows that the entries of a page refer to, by id."""

    holds: Mapping[str, Row[Any]]
    usages: Mapping[str, Row[Any]]
    adjustments: Mapping[str, Row[Any]]
    refunds: Mapping[str, Row[Any]]
    names: Mapping[str, str]


def statement_lines(
    connection: Connection, project_id: ProjectId, *, before: int | None, limit: int
) -> list[StatementLine]:
    """Lines of a project's accounts with seq < `before`; a line's seq is its first entry's."""
    owned = connection.execute(select(account.c.id, account.c.unit).where(account.c.project_id == project_id))
    units = {row.id: row.unit for row in owned}
    groups: list[list[Row[Any]]] = []
    for account_id in units:
        query = select(entry).where(entry.c.account_id == account_id).order_by(entry.c.seq.desc())
        if before is not None:
            query = query.where(entry.c.seq < before)
        rows = connection.execute(query.limit(limit * _ENTRIES_A_LINE)).all()
        groups += [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.txn_id)]
    groups.sort(key=lambda group: group[-1].seq, reverse=True)
    groups = groups[:limit]
    around = _around(connection, [group[0] for group in groups])
    return [_line(group, Unit(units[group[0].account_id]), around) for group in groups]


def _around(connection: Connection, rows: Sequence[Row[Any]]) -> _Around:
    holds = _by(connection, hold, "id", {row.hold_id for row in rows if row.hold_id is not None})
    adjustments = _by(connection, adjustment, "id", {row.txn_id[2:] for row in rows if row.txn_id.startswith("a:")})
    refunds = _by(connection, refund, "id", {row.txn_id[2:] for row in rows if row.kind == "refund"})
    people = {row.actor for row in rows}
    named = connection.execute(
        select(person.c.id, person.c.login, person_data.c.display_name)
        .outerjoin(person_data, and_(person_data.c.person_id == person.c.id))
        .where(person.c.id.in_(people))
    )
    refs = {tuple(row.usage_ref.split(":", 1)) for row in rows if row.usage_ref is not None}
    usages = connection.execute(
        select(usage_record).where(tuple_(usage_record.c.source, usage_record.c.event_id).in_(refs))
    )
    return _Around(
        holds,
        {f"{row.source}:{row.event_id}": row for row in usages},
        adjustments,
        refunds,
        {row.id: row.display_name if row.display_name is not None else row.login for row in named},
    )


def _by(connection: Connection, table: Table, column: str, ids: set[str]) -> dict[str, Row[Any]]:
    if not ids:
        return {}
    query = select(table).where(table.c[column].in_(ids))
    return {getattr(row, column): row for row in connection.execute(query)}


def _line(group: Sequence[Row[Any]], unit: Unit, around: _Around) -> StatementLine:
    first = group[-1]
    moved: Counter[str] = Counter()
    for bucket, amount in itertools.chain.from_iterable(map(sides, group)):
        moved[bucket] += amount
    held, charged = moved["held"], moved["charged"]
    usage = around.usages.get(first.usage_ref) if first.usage_ref is not None else None
    on_hold = around.holds.get(first.hold_id) if first.hold_id is not None else None
    change = around.adjustments.get(first.txn_id[2:]) if first.hold_id is None else None
    code, params, reason = first.kind, {}, None
    if on_hold is not None:
        details = json.loads(on_hold.details)
        code = "session" if on_hold.kind == HoldKind.SESSION else "grading" if is_grading(details) else "request"
        params, reason = (
            details,
            on_hold.close_reason if first.kind in ("release", "expire") else None,
        )
        if first.kind == "refund":
            code, reason = "refund", around.refunds[first.txn_id[2:]].reason
    elif change is not None:
        code, params, reason = change.code, json.loads(change.params), change.reason
    return StatementLine(
        seq=first.seq,
        at=from_us(first.at_us),
        kind=first.kind,
        allocation_id=AllocationId(first.account_id),
        unit=unit,
        delta_awarded=moved["available"] + held + charged,
        delta_held=held,
        delta_charged=charged,
        actor=PersonId(first.actor),
        actor_name=around.names.get(first.actor, first.actor),
        hold_id=None if first.hold_id is None else HoldId(first.hold_id),
        from_at=None if usage is None else from_us_or_none(usage.from_us),
        to_at=None if usage is None else from_us_or_none(usage.to_us),
        quantity=None if usage is None else usage.quantity,
        estimated=usage is not None and usage.estimated,
        code=code,
        params=params,
        reason=reason,
    )
