"""The epochs in force, inside a `Store` transaction; the ledger's writer compares them by `statements.FENCES`.

Invariant: an epoch is given once, and who compares keeps it in force until its transaction ends (PostgreSQL: a shared row lock;
SQLite: one writer at a time), so that nothing is written under an epoch that was replaced before.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select, update

from quota.domain.errors import StaleEpoch
from quota.domain.fence import Fence
from quota.store.instants import from_us, to_us
from quota.store.tables import fence as fence_table


class SqlFences:
    """`quota.service.ports.Fences`. Store transactions run one after the other, so that two cannot take the same epoch."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def take(self, name: str, holder: str, at: datetime) -> int:
        """The next epoch of `name`, starting with 1."""
        query = select(fence_table.c.epoch).where(fence_table.c.name == name).with_for_update()
        before = self._connection.execute(query).scalar()
        epoch, rest = (before or 0) + 1, {"holder": holder, "taken_us": to_us(at)}
        if before is None:
            self._connection.execute(fence_table.insert().values(name=name, epoch=epoch, **rest))
        else:
            self._connection.execute(update(fence_table).where(fence_table.c.name == name).values(epoch=epoch, **rest))
        return epoch

    def in_force(self, name: str) -> tuple[int, datetime] | None:
        """The epoch of `name` that writes, and since when."""
        query = select(fence_table.c.epoch, fence_table.c.taken_us).where(fence_table.c.name == name)
        row = self._connection.execute(query).first()
        return None if row is None else (row.epoch, from_us(row.taken_us))

    def check(self, fence: Fence) -> None:
        """Raises StaleEpoch where `fence` is not in force."""
        query = select(fence_table.c.epoch).where(fence_table.c.name == fence.name).with_for_update(read=True)
        in_force = self._connection.execute(query).scalar()
        if in_force != fence.epoch:
            raise stale(fence, in_force)


def stale(fence: Fence, in_force: int | None) -> StaleEpoch:
    """What somebody is told who was replaced, or whose epoch the ledger never gave (a database restored from before it)."""
    message = f"{fence.name} {fence.epoch} was replaced by {in_force}" if in_force else f"no {fence.name} took an epoch"
    return StaleEpoch(message, name=fence.name, epoch=fence.epoch, in_force=in_force)
