"""Reads the working set of a batch: the holds, which name their accounts, then the accounts, locked, then what hangs on them.

Invariants: balances and usage are read under the account's lock (PostgreSQL: row locks in id order, so that writers cannot
deadlock; SQLite: BEGIN IMMEDIATE). Or nothing of a batch is read, its accounts being remembered, too: then `statements.MOVE_ACCOUNTS`
locks them, in the same order, and compares their versions. A hold is read before; where another writer changes it in between, the guards of
`statements.CHANGE_HOLDS` notice and the batch is planned again, or, where an event was there already, it is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from quota.store import statements as sql
from quota.store.memory import Memory
from quota.store.operations import Charge, Fenced, Operation, PlaceHold, Plain, Settle, TopUp, Withdraw
from quota.store.wire import Wire
from quota.store.working_set import (
    AccountRow,
    HoldLimitRow,
    HoldRow,
    LimitRow,
    LineRow,
    RefusedLine,
    UsageRow,
    WorkingSet,
    stored_hold,
)

_OF_LINES: Final = (TopUp, Withdraw)  # tuples: asking for `A | B` makes a union each time
_WITH_USAGE: Final = (Charge, Settle)


def load(wire: Wire, operations: Sequence[Operation], memory: Memory | None = None) -> WorkingSet:
    """Lock and read all rows that `operations` touch; with a `memory`, what it has and holds that look new are not looked up.

    Raises InFlight where something has to be read and cannot be now.
    """
    ws = WorkingSet()
    operations = _unfenced(wire, ws, operations)
    kinds = set(map(type, operations))
    placed = [op.order for op in operations if isinstance(op, PlaceHold)]
    all_known = _load_holds(wire, ws, operations, memory)
    account_ids: set[str] = {order.allocation_id for order in placed}
    account_ids.update([hold.account_id for hold in ws.holds.values()])
    reads = not all_known or bool(ws.fences) or any(order.limits for order in placed)
    remembered = None if memory is None or reads else memory.accounts(account_ids)
    if remembered is not None:  # nothing of this batch is read
        ws.accounts.update(remembered)
    elif account_ids:
        for row in wire.select(sql.LOCK_ACCOUNTS, _keys(account_ids)):
            ws.accounts[row[0]] = AccountRow(*row)
    _load_lines(
        wire, ws, [op for op in operations if isinstance(op, _OF_LINES)] if kinds.intersection(_OF_LINES) else ()
    )
    if kinds.intersection(_WITH_USAGE):
        _load_usages(wire, ws, operations)
    _load_limits(wire, ws, operations)
    ws.stored_intervals = lambda hold_id: [(row[0], row[1]) for row in wire.select(sql.INTERVALS, [[hold_id]])]
    if memory is not None:
        memory.taken(ws)
    return ws


def _load_holds(wire: Wire, ws: WorkingSet, operations: Sequence[Plain], memory: Memory | None) -> bool:
    """Whether none had to be read."""
    remembered = {} if memory is None else memory.holds
    known, new, read = _sorted_out(operations, remembered)
    if memory is None:
        read |= new
    else:
        new -= read
        known -= read
        ws.believed = known | new
    if read:
        for row in wire.select(sql.HOLDS, _keys(read)):
            ws.holds[row[0]] = stored_hold(row)
    for hold_id in known:
        ws.holds[hold_id] = remembered[hold_id]
    return not read


def _sorted_out(operations: Sequence[Plain], remembered: Mapping[str, HoldRow]) -> tuple[set[str], set[str], set[str]]:
    """Ids of holds whose rows are remembered and of those that look new, which each operation writes under a guard; and the others."""
    known: set[str] = set()
    new: set[str] = set()
    read: set[str] = set()
    for op in operations:
        if isinstance(op, PlaceHold):
            hold_id = op.order.id
            (read if hold_id in remembered else new).add(hold_id)
        elif op.hold_id in remembered and isinstance(op, _WITH_USAGE):
            known.add(op.hold_id)
        else:
            read.add(op.hold_id)
    return known, new, read


def _unfenced(wire: Wire, ws: WorkingSet, operations: Sequence[Operation]) -> list[Plain]:
    """The operations themselves. Who names an epoch keeps it in force until this transaction ends."""
    names = {op.fence.name for op in operations if isinstance(op, Fenced)}
    if not names:
        return operations  # type: ignore[return-value]
    ws.fences.update((row[0], row[1]) for row in wire.select(sql.FENCES, _keys(names)))
    return [op.operation if isinstance(op, Fenced) else op for op in operations]


def _load_lines(wire: Wire, ws: WorkingSet, of_lines: Sequence[TopUp | Withdraw]) -> None:
    several = [hold.id for hold in ws.holds.values() if hold.line_count > 1 and hold.open]
    top_ups = [op for op in of_lines if isinstance(op, TopUp)]
    wanted = {*several, *(op.hold_id for op in of_lines if op.hold_id in ws.holds)}
    if wanted:
        for hold_id, *line in wire.select(sql.LINES, _keys(wanted)):
            ws.lines.setdefault(hold_id, []).append(LineRow(*line))
    if top_ups:
        for row in wire.select(sql.REFUSED_LINES, [[op.hold_id, op.line_id] for op in top_ups]):
            ws.refused_lines[row[0], row[1]] = RefusedLine(*row)


def _load_usages(wire: Wire, ws: WorkingSet, operations: Sequence[Plain]) -> None:
    believed = ws.believed
    looked_up = [op for op in operations if isinstance(op, _WITH_USAGE) and op.hold_id not in believed]
    charges = [op.charge if isinstance(op, Settle) else op for op in looked_up]
    keys = {(charge.usage.source, charge.usage.event_id) for charge in charges if charge is not None}
    if keys:
        for row in wire.select(sql.USAGES, sorted(keys)):
            ws.usages[row[0], row[1]] = UsageRow(*row)
        _read_again(wire, ws, charges)


def _read_again(wire: Wire, ws: WorkingSet, charges: Sequence[Charge | None]) -> None:
    """The holds of events that are there already: what charged one may have come in between its hold's row and the account's lock.

    A COMMIT that arrived although its reply was lost does so, and another writer. Nothing is written for such an event, so that no
    guard would notice, and its answer would show the hold as it was before.
    """
    seen = {one.hold_id for one in charges if one is not None and (one.usage.source, one.usage.event_id) in ws.usages}
    seen &= ws.holds.keys()
    for row in wire.select(sql.HOLDS, _keys(seen)) if seen else []:
        ws.holds[row[0]] = stored_hold(row)


def _load_limits(wire: Wire, ws: WorkingSet, operations: Sequence[Plain]) -> None:
    limited = [hold.id for hold in ws.holds.values() if hold.limit_count > 0]
    ids = {use.limit_id for op in operations if isinstance(op, PlaceHold) for use in op.order.limits}
    uses = wire.select(sql.HOLD_LIMITS, _keys(limited)) if limited else []
    ids.update(use[1] for use in uses)
    if ids:
        for row in wire.select(sql.LOCK_LIMITS, _keys(ids)):
            ws.limits[row[0]] = LimitRow(*row)
    # Read again under the limits' lock: another writer may have charged the hold on the way here.
    for hold_id, *use in wire.select(sql.HOLD_LIMITS, _keys(limited)) if limited else []:
        ws.hold_limits.setdefault(hold_id, []).append(
            HoldLimitRow(use[0], use[1], use[2], seen_amount=use[1], seen_charged=use[2])
        )


def _keys(ids: Iterable[str]) -> list[list[str]]:
    return [[one] for one in sorted(ids)]
