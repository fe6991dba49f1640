"""What a project was charged a day, from the ledger's entries.

Entries carry no index by time: where the days begin is found by halving the sequence numbers, which grow with time but for charges that
are booked late, so that a page reads the entries of its days and not the whole history. A day is that of the charge's own instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from sqlalchemy import Connection, case, func, or_, select

from quota.domain.ids import ProjectId
from quota.domain.units import Unit
from quota.store.instants import to_us
from quota.store.tables import account, entry

_DAY_US: Final = 86_400_000_000
_EPOCH: Final = date(1970, 1, 1)
_SLACK_US: Final = _DAY_US  # by how much charges may be booked late (an outage of the quota service)


def daily_use(connection: Connection, project_id: ProjectId, since: date) -> Mapping[Unit, Mapping[date, int]]:
    """What was charged on each UTC day from `since` on, by unit; refunds count against the day that booked them."""
    since_us = to_us(datetime.combine(since, time(), UTC))
    first = _first_seq(connection, since_us - _SLACK_US)
    day = (entry.c.at_us // _DAY_US).label("day")
    # Not from the view `posting`: PostgreSQL would read its second half without the index by account.
    amount = case((entry.c.bucket == "charged", entry.c.amount), else_=-entry.c.amount)
    query = (
        select(account.c.unit, day, func.sum(amount).label("charged"))
        .join(account, account.c.id == entry.c.account_id)
        .where(account.c.project_id == project_id, or_(entry.c.bucket == "charged", entry.c.contra == "charged"))
        .where(entry.c.seq >= first, entry.c.at_us >= since_us)
        .group_by(account.c.unit, day)
    )
    found: dict[Unit, dict[date, int]] = {unit: {} for unit in Unit}
    for row in connection.execute(query):
        found[Unit(row.unit)][_EPOCH + timedelta(days=int(row.day))] = int(row.charged)
    return found


def _first_seq(connection: Connection, at_us: int) -> int:
    """A sequence number with nothing of `at_us` or later before it."""
    low, high = 0, connection.execute(select(func.max(entry.c.seq))).scalar() or 0
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            select(entry.c.seq, entry.c.at_us).where(entry.c.seq > middle).order_by(entry.c.seq).limit(1)
        ).first()
        if row is None or row.at_us >= at_us:
            high = middle
        else:
            low = row.seq
    return low
