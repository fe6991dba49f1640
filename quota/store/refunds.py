"""Refunds: what was charged on a hold is given back, whole or in part, by a transaction that names the hold.

Invariants: of a hold never more is refunded than was charged; the hold's own sums, its lines and its usage stay what was measured,
the account's (and the limits') follow the entries. A row under the caller's id keeps the answer, refusals included.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from quota.domain.errors import IdConflict, Invalid, RefusalCode, Refused, Unknown
from quota.domain.hold import body_hash
from quota.domain.ids import HoldId, PersonId, RefundId
from quota.domain.units import Balance, Unit
from quota.service.ports import Adjusted
from quota.store.accounts import balance_of, locked_account, write_entries
from quota.store.instants import to_us
from quota.store.json_text import dump
from quota.store.plan import SIMULTANEOUS
from quota.store.tables import account, hold, hold_limit, limit_counter, refund


class SqlRefunds:
    """`quota.service.ports.Refunds`; `audit` appends to the audit of the same transaction."""

    def __init__(self, connection: Connection, audit: Callable[..., None]) -> None:
        self._connection = connection
        self._audit = audit

    def give(
        self, refund_id: RefundId, hold_id: HoldId, amount: int, *, actor: PersonId, reason: str, at: datetime
    ) -> Adjusted | Refused:
        """Move `amount` (> 0) of what the hold was charged back to what its allocation has available."""
        if amount <= 0:
            raise Invalid([("amount", "out_of_range")])
        on = self._connection.execute(select(hold.c.account_id).where(hold.c.id == hold_id)).scalar()
        if on is None:
            raise Unknown("hold", hold_id=hold_id)
        row = locked_account(self._connection, on)
        said = body_hash({"hold_id": hold_id, "amount": amount, "actor": actor, "reason": reason})
        known = self._connection.execute(select(refund).where(refund.c.id == refund_id)).first()
        if known is not None:
            return _known(known, said, Unit(row.unit))
        before, refundable = balance_of(row), self._refundable(hold_id)
        refusal = None
        if amount > refundable:
            params = {"requested": amount, "available": refundable, "unit": row.unit}
            refusal = Refused(RefusalCode.REFUND_EXCEEDS_CHARGED, params)
        self._connection.execute(
            refund.insert().values(
                id=refund_id,
                hold_id=hold_id,
                account_id=row.id,
                amount=amount,
                actor=actor,
                at_us=to_us(at),
                reason=reason,
                awarded_before=before.awarded,
                charged_before=before.charged,
                held_before=before.held,
                refusal_code=None if refusal is None else refusal.code.value,
                refusal_params=None if refusal is None else dump(refusal.params),
                body_hash=said,
            )
        )
        if refusal is not None:
            return refusal
        self._move(row.id, hold_id, amount)
        given = (f"f:{refund_id}", row.id, "charged", -amount, hold_id, None, "refund", to_us(at), actor, "available")
        write_entries(self._connection, [given])
        after = Balance(before.unit, before.awarded, before.charged - amount, before.held)
        self._audit(
            actor=actor,
            action="refunded",
            subject=row.id,
            before={"charged": before.charged},
            after={"charged": after.charged, "refund_id": refund_id, "hold_id": hold_id},
            reason=reason,
            at=at,
        )
        return Adjusted(before, after, replayed=False)

    def _refundable(self, hold_id: HoldId) -> int:
        # Under the account's lock: what is charged and refunded meanwhile waits for it.
        charged = self._connection.execute(select(hold.c.charged).where(hold.c.id == hold_id)).scalar_one()
        given = select(func.coalesce(func.sum(refund.c.amount), 0)).where(
            refund.c.hold_id == hold_id, refund.c.refusal_code.is_(None)
        )
        return int(charged) - int(self._connection.execute(given).scalar_one())

    def _move(self, account_id: str, hold_id: HoldId, amount: int) -> None:
        """Lower what the account and the limits count as charged, and what is overdrawn by it."""
        on_sqlite = self._connection.dialect.name == "sqlite"
        larger, smaller = (func.max, func.min) if on_sqlite else (func.greatest, func.least)
        beyond = larger(0, account.c.charged - amount + account.c.held - account.c.awarded)
        self._connection.execute(
            update(account)
            .where(account.c.id == account_id)
            .values(
                charged=account.c.charged - amount,
                overdraft_used=smaller(account.c.overdraft_used, beyond),
                version=account.c.version + 1,
            )
        )
        counted = select(hold_limit.c.limit_id).where(hold_limit.c.hold_id == hold_id)
        amounts = limit_counter.c.id.in_(counted), limit_counter.c.kind != SIMULTANEOUS
        query = select(limit_counter.c.id).where(*amounts).order_by(limit_counter.c.id).with_for_update(key_share=True)
        for limit_id in self._connection.execute(query).scalars().all():
            self._connection.execute(
                update(limit_counter)
                .where(limit_counter.c.id == limit_id)
                .values(charged=limit_counter.c.charged - amount)
            )
            self._connection.execute(
                update(hold_limit)
                .where(hold_limit.c.hold_id == hold_id, hold_limit.c.limit_id == limit_id)
                .values(amount=hold_limit.c.amount - amount, charged=hold_limit.c.charged - amount)
            )


def _known(row: Row[Any], said: str, unit: Unit) -> Adjusted | Refused:
    if row.body_hash != said:
        raise IdConflict("this refund id was used with another body", refund_id=row.id)
    if row.refusal_code is not None:
        return Refused(RefusalCode(row.refusal_code), json.loads(row.refusal_params))
    before = Balance(unit, row.awarded_before, row.charged_before, row.held_before)
    after = Balance(unit, row.awarded_before, row.charged_before - row.amount, row.held_before)
    return Adjusted(before, after, replayed=True)
