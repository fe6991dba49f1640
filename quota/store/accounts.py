"""Allocations, deposits and adjustments: the ledger's slower side, inside a `Store` transaction together with other rows.

Invariants: an account is locked before it is read; every change of an award is two entries that sum to zero (the allocation's
`available` against the programme's `pool`), a link of the store's chain, and a row under the caller's id, refusals included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, update

from quota.domain.errors import IdConflict, Invalid, InvariantBroken, RefusalCode, Refused, Unknown, WrongState
from quota.domain.hold import body_hash
from quota.domain.ids import AdjustmentId, AllocationId, PersonId, ProjectId
from quota.domain.project import Allocation
from quota.domain.units import AMOUNT_MAX, Balance, Unit
from quota.service.ports import Adjusted, StatementLine
from quota.store.chain import link_hash
from quota.store.daily_use import daily_use
from quota.store.instants import from_us, to_us
from quota.store.json_text import dump
from quota.store.statement import statement_lines
from quota.store.tables import account, adjustment, allocation, entry, ledger_epoch, ledger_link

_ALLOCATIONS = select(account, allocation.c.suspended, allocation.c.revoked, allocation.c.target_awarded).join(
    allocation, allocation.c.id == account.c.id
)
STORE_EPOCH = 1  # the chain that all Store transactions share; they run one after the other


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of an award, as it is asked for."""

    id: str
    account_id: str
    kind: str
    delta: int
    actor: PersonId
    at: datetime
    code: str
    params: Mapping[str, object]
    reason: str | None
    reverses: str | None = None

    @property
    def body_hash(self) -> str:
        said = (self.account_id, self.kind, self.delta, self.actor, self.code, dump(self.params), self.reason)
        return body_hash({"said": list(said)})


class SqlAccounts:
    """`quota.service.ports.Accounts`; `audit` appends to the audit of the same transaction."""

    def __init__(self, connection: Connection, audit: Callable[..., None]) -> None:
        self._connection = connection
        self._audit = audit

    def lock(self, allocation_ids: Sequence[AllocationId]) -> None:
        """Lock several allocations in the order of their ids, so that no ledger writer can wait for us while we wait for it."""
        for allocation_id in sorted(set(allocation_ids)):
            locked_account(self._connection, allocation_id)

    def open_allocation(
        self, allocation_id: AllocationId, project_id: ProjectId, unit: Unit, starts_at: datetime, ends_at: datetime
    ) -> None:
        """Make an empty allocation and its account."""
        self._connection.execute(allocation.insert().values(id=allocation_id, project_id=project_id))
        self._connection.execute(
            account.insert().values(
                id=allocation_id,
                kind="allocation",
                unit=unit.value,
                project_id=project_id,
                period_start_us=to_us(starts_at),
                period_end_us=to_us(ends_at),
            )
        )

    def deposit(
        self,
        txn_id: str,
        allocation_id: AllocationId,
        amount: int,
        *,
        actor: PersonId,
        at: datetime,
        code: str,
        params: Mapping[str, object],
    ) -> None:
        """Award `amount` (> 0) to the allocation out of the programme's pool; idempotent under `txn_id`."""
        if amount <= 0:
            raise Invalid([("amount", "out_of_range")])
        self._change(_Change(txn_id, allocation_id, "deposit", amount, actor, at, code, params, None))

    def adjust(
        self,
        adjustment_id: AdjustmentId,
        allocation_id: AllocationId,
        delta: int,
        *,
        actor: PersonId,
        reason: str,
        at: datetime,
    ) -> Adjusted | Refused:
        """Change the award by ±`delta`, with who and why in entries and audit. Refused where it would go below charged + held."""
        if delta == 0:
            raise Invalid([("delta", "zero")])
        return self._audited(
            _Change(adjustment_id, allocation_id, "adjustment", delta, actor, at, "adjustment", {}, reason)
        )

    def reverse(
        self, reversal_id: AdjustmentId, adjustment_id: AdjustmentId, *, actor: PersonId, reason: str, at: datetime
    ) -> Adjusted | Refused:
        """Take an adjustment back whole, once, by one of the opposite sign that names it. Refused as `adjust` is.

        Raises Unknown('adjustment'), and WrongState where it was reversed already or is itself a reversal.
        """
        first = self._connection.execute(
            select(adjustment).where(adjustment.c.id == adjustment_id, adjustment.c.kind == "adjustment")
        ).first()
        if first is None or first.refusal_code is not None:
            raise Unknown("adjustment", adjustment_id=adjustment_id)
        if first.reverses is not None:
            raise WrongState("this takes another adjustment back itself", adjustment_id=adjustment_id)
        params = {"adjustment_id": adjustment_id}
        return self._audited(
            _Change(
                reversal_id, first.account_id, "adjustment", -first.delta, actor, at, "reversal", params, reason,
                reverses=adjustment_id,
            )
        )  # fmt: skip

    def of_adjustment(self, adjustment_id: AdjustmentId) -> Allocation | None:
        """The allocation whose award an adjustment changed, or was refused to change; None where there is no such adjustment."""
        query = select(adjustment.c.account_id).where(adjustment.c.id == adjustment_id)
        account_id = self._connection.execute(query).scalar()
        return None if account_id is None else self.get(AllocationId(account_id))

    def _audited(self, change: _Change) -> Adjusted | Refused:
        done = self._change(change)
        if isinstance(done, Adjusted) and not done.replayed:
            named = {"adjustment_id": change.id, **({"reverses": change.reverses} if change.reverses else {})}
            self._audit(
                actor=change.actor,
                action="adjusted" if change.reverses is None else "reversed",
                subject=change.account_id,
                before={"awarded": done.before.awarded},
                after={"awarded": done.after.awarded, **named},
                reason=change.reason,
                at=change.at,
            )
        return done

    def revoke(self, allocation_id: AllocationId) -> None:
        """End an allocation for good: nothing is held on it any more; late charges still post to it."""
        self._connection.execute(update(allocation).where(allocation.c.id == allocation_id).values(revoked=True))
        changes = {"frozen": True, "version": account.c.version + 1}
        self._connection.execute(update(account).where(account.c.id == allocation_id).values(changes))

    def set_target(self, allocation_id: AllocationId, target: int | None) -> None:
        """Keep the award that was decided while use keeps the effective one higher; None: they are the same."""
        query = update(allocation).where(allocation.c.id == allocation_id).values(target_awarded=target)
        self._connection.execute(query)

    def with_target(self) -> Sequence[Allocation]:
        """Allocations whose award was lowered below their use and is not reclaimed yet."""
        return self._all(_ALLOCATIONS.where(allocation.c.target_awarded.is_not(None)).order_by(account.c.id))

    def of_project(self, project_id: ProjectId) -> Sequence[Allocation]:
        """Those that end first come first."""
        return self._all(
            _ALLOCATIONS.where(account.c.project_id == project_id).order_by(account.c.period_end_us, account.c.id)
        )

    def get(self, allocation_id: AllocationId) -> Allocation | None:
        found = self._all(_ALLOCATIONS.where(account.c.id == allocation_id))
        return found[0] if found else None

    def strained(self, at: datetime) -> Sequence[Allocation]:
        """Allocations of the day `at` that are charged at least four fifths, or have nothing available."""
        at_us, awarded, charged = to_us(at), account.c.awarded, account.c.charged
        query = _ALLOCATIONS.where(
            account.c.period_start_us <= at_us,
            account.c.period_end_us > at_us,
            (awarded > 0) | (charged > 0),
            (charged >= awarded - awarded // 5) | (charged + account.c.held >= awarded),
        )
        return self._all(query.order_by(account.c.id))

    def daily_use(self, project_id: ProjectId, since: date) -> Mapping[Unit, Mapping[date, int]]:
        """What was charged on each UTC day from `since` on, by unit."""
        return daily_use(self._connection, project_id, since)

    def statement(self, project_id: ProjectId, *, before: int | None, limit: int) -> Sequence[StatementLine]:
        """Newest first, lines with seq < `before`. One line per (transaction, account)."""
        return statement_lines(self._connection, project_id, before=before, limit=limit)

    def _change(self, change: _Change) -> Adjusted | Refused:
        # Locked before anything is read: a ledger writer may be at it (SQLite has the whole database locked).
        locked = locked_account(self._connection, change.account_id)
        known = self._connection.execute(select(adjustment).where(adjustment.c.id == change.id)).first()
        if known is not None:
            return self._known(known, change, Unit(locked.unit))
        if change.reverses is not None and self._reversed(change.reverses):
            raise WrongState("this adjustment was taken back already", adjustment_id=change.reverses)
        balance = balance_of(locked)
        if locked.awarded + change.delta > AMOUNT_MAX:
            raise Invalid([("delta", "out_of_range")])
        refusal = None
        if change.delta < 0 and balance.available + change.delta < 0:
            params = {"requested": -change.delta, "available": balance.available, "unit": locked.unit}
            refusal = Refused(RefusalCode.WOULD_TAKE_BACK_USED, params)
        self._remember(change, balance, refusal)
        if refusal is not None:
            return refusal
        self._move(change, locked.unit)
        after = Balance(balance.unit, balance.awarded + change.delta, balance.charged, balance.held)
        return Adjusted(balance, after, replayed=False)

    def _reversed(self, adjustment_id: str) -> bool:
        done = adjustment.c.reverses == adjustment_id, adjustment.c.refusal_code.is_(None)
        return self._connection.execute(select(adjustment.c.id).where(*done)).first() is not None

    def _known(self, row: Row[Any], change: _Change, unit: Unit) -> Adjusted | Refused:
        if row.body_hash != change.body_hash:
            raise IdConflict("this adjustment id was used with another body", adjustment_id=change.id)
        if row.refusal_code is not None:
            return Refused(RefusalCode(row.refusal_code), json.loads(row.refusal_params))
        before = Balance(unit, row.awarded_before, row.charged_before, row.held_before)
        after = Balance(unit, row.awarded_before + row.delta, row.charged_before, row.held_before)
        return Adjusted(before, after, replayed=True)

    def _remember(self, change: _Change, before: Balance, refusal: Refused | None) -> None:
        self._connection.execute(
            adjustment.insert().values(
                id=change.id,
                account_id=change.account_id,
                kind=change.kind,
                delta=change.delta,
                actor=change.actor,
                at_us=to_us(change.at),
                code=change.code,
                params=dump(change.params),
                reason=change.reason,
                awarded_before=before.awarded,
                charged_before=before.charged,
                held_before=before.held,
                refusal_code=None if refusal is None else refusal.code.value,
                refusal_params=None if refusal is None else dump(refusal.params),
                body_hash=change.body_hash,
                reverses=change.reverses,
            )
        )

    def _move(self, change: _Change, unit: str) -> None:
        """Move the award and what was overdrawn, where nobody needs it meanwhile, and write the entries."""
        beyond = account.c.charged + account.c.held - account.c.awarded - change.delta
        overdrawn = func.max(0, beyond) if self._connection.dialect.name == "sqlite" else func.greatest(0, beyond)
        smaller = func.min if self._connection.dialect.name == "sqlite" else func.least
        query = update(account).where(account.c.id == change.account_id)
        if change.delta < 0:
            query = query.where(account.c.awarded - account.c.charged - account.c.held >= -change.delta)
        moved = self._connection.execute(
            query.values(
                awarded=account.c.awarded + change.delta,
                overdraft_used=smaller(account.c.overdraft_used, overdrawn),
                version=account.c.version + 1,
            )
        ).rowcount
        if moved != 1:
            raise InvariantBroken("the account changed under its lock", allocation_id=change.account_id)
        txn_id, at_us = f"a:{change.id}", to_us(change.at)
        write_entries(
            self._connection,
            [
                (txn_id, f"pool-{unit}", "pool", -change.delta, None, None, change.kind, at_us, change.actor),
                (txn_id, change.account_id, "available", change.delta, None, None, change.kind, at_us, change.actor),
            ],
        )

    def _all(self, query: Select[Any]) -> list[Allocation]:
        return [
            Allocation(
                id=AllocationId(row.id),
                project_id=ProjectId(row.project_id),
                starts_at=from_us(row.period_start_us),
                ends_at=from_us(row.period_end_us),
                suspended=row.suspended,
                frozen=row.frozen,
                revoked=row.revoked,
                target=row.target_awarded,
                balance=balance_of(row),
            )
            for row in self._connection.execute(query)
        ]


def locked_account(connection: Connection, account_id: str) -> Row[Any]:
    """An allocation's account, which no ledger writer changes until this transaction ends. Raises Unknown('allocation')."""
    named = account.c.id == account_id, account.c.kind == "allocation"
    locked = connection.execute(select(account).where(*named).with_for_update(key_share=True)).first()
    if locked is None:
        raise Unknown("allocation", allocation_id=account_id)
    return locked


def write_entries(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Append entries (without `link`; without `contra` where there is none) under the next link of the store's chain."""
    head = connection.execute(
        select(ledger_epoch.c.links, ledger_epoch.c.head_hash).where(ledger_epoch.c.id == STORE_EPOCH).with_for_update()
    ).one()
    new_hash, n = link_hash(head.head_hash, rows, []), head.links + 1
    # Before a number is taken, as the ledger's writers do.
    connection.execute(update(ledger_epoch).where(ledger_epoch.c.id == STORE_EPOCH).values(links=n, head_hash=new_hash))
    link = connection.execute(
        ledger_link.insert()
        .values(epoch=STORE_EPOCH, n=n, prev_hash=head.head_hash, hash=new_hash, entries=len(rows), usages=0)
        .returning(ledger_link.c.id)
    ).scalar_one()
    names = ("txn_id", "account_id", "bucket", "amount", "hold_id", "usage_ref", "kind", "at_us", "actor", "contra")
    for row in rows:
        connection.execute(entry.insert().values(link=link, **dict(zip(names[: len(row)], row, strict=True))))


def balance_of(row: Row[Any]) -> Balance:
    """The balance in an account's row."""
    return Balance(Unit(row.unit), row.awarded, row.charged, row.held)
