"""Limits, inside a `Store` transaction: counters made and their caps moved; the ledger's writer does the counting.

Invariant: a counter equals the sum of the holds that count against it from the moment it exists: those that stand, and for shares
and days those that were charged before, are entered when it is made, under the accounts' locks.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from typing import Any, Final

from sqlalchemy import Connection, Row, select, update

from quota.domain.limits import SESSION_MS, Limit
from quota.service.ports import LimitStanding
from quota.store.instants import to_us
from quota.store.tables import account, hold, hold_limit, limit_counter

_DAY_US: Final = 86_400 * 10**6
_AMOUNTS: Final = frozenset({"gpu_ms", "tokens"})


class SqlLimits:
    """`quota.service.ports.LimitCounters`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, limit_id: str) -> LimitStanding | None:
        row = self._connection.execute(select(limit_counter).where(limit_counter.c.id == limit_id)).first()
        return None if row is None else _standing(row)

    def put(self, limit: Limit) -> LimitStanding:
        """Make a counter with what stands, or move its cap."""
        if self.get(limit.id) is None:
            self._make(limit)
        row = self._locked(limit.id)
        beyond = max(0, row.charged + row.held - limit.cap)
        query = update(limit_counter).where(limit_counter.c.id == limit.id)
        self._connection.execute(query.values(cap=limit.cap, beyond_cap=beyond))
        return LimitStanding(limit.id, limit.cap, row.charged, row.held)

    def _make(self, limit: Limit) -> None:
        """Enter the holds that count, then the counter as their sum."""
        counted = [(row.id, *_counts(limit, row)) for row in self._holds(limit)]
        counted = [one for one in counted if one[1] > 0]
        if counted:
            rows = [
                {"hold_id": hold_id, "limit_id": limit.id, "amount": amount, "charged": charged}
                for hold_id, amount, charged, _ in counted
            ]
            self._connection.execute(hold_limit.insert(), rows)
            for hold_id, *_ in counted:
                self._connection.execute(
                    update(hold).where(hold.c.id == hold_id).values(limit_count=hold.c.limit_count + 1)
                )
        charged = sum(one[2] for one in counted)
        held = sum(one[1] - one[2] for one in counted if one[3])
        cap = max(limit.cap, charged + held)
        self._connection.execute(
            limit_counter.insert().values(
                id=limit.id,
                kind=limit.kind,
                subject=limit.subject,
                unit=limit.unit,
                cap=cap,
                charged=charged,
                held=held,
            )
        )

    def _holds(self, limit: Limit) -> list[Row[Any]]:
        """The holds that count, their accounts locked first, so that no writer charges one of them meanwhile.

        Of a limit on time none: its counter is made before the first hold that counts.
        """
        if limit.unit == SESSION_MS:
            return []
        where = [hold.c.state != "refused"]
        if limit.project_id is not None:
            where.append(hold.c.project_id == limit.project_id)
        if limit.person_id is not None:
            where.append(hold.c.actor == limit.person_id)
        if limit.unit in _AMOUNTS:
            where.append(hold.c.unit == limit.unit)
        else:
            where += [hold.c.kind == "session", hold.c.state == "held"]
        if limit.day:
            midnight_us = to_us(datetime.combine(date.fromisoformat(limit.day), time(), tzinfo=UTC))
            where += [hold.c.placed_us >= midnight_us, hold.c.placed_us < midnight_us + _DAY_US]
        accounts = select(account.c.id).where(account.c.id.in_(select(hold.c.account_id).where(*where)))
        self._connection.execute(accounts.order_by(account.c.id).with_for_update(key_share=True))
        return list(self._connection.execute(select(hold).where(*where)))

    def _locked(self, limit_id: str) -> Row[Any]:
        return self._connection.execute(
            select(limit_counter).where(limit_counter.c.id == limit_id).with_for_update()
        ).one()


def _counts(limit: Limit, row: Row[Any]) -> tuple[int, int, bool]:
    """Amount, charged and whether the hold is open, as they count."""
    is_open = row.state == "held"
    if limit.unit == "sessions":
        return 1, 0, is_open
    if limit.unit == "gpus":
        return int(json.loads(row.details).get("gpus", 0)), 0, is_open
    return row.amount if is_open else row.charged, row.charged, is_open


def _standing(row: Row[Any]) -> LimitStanding:
    return LimitStanding(row.id, row.cap, row.charged, row.held)
