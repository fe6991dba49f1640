"""Writes what a batch left in its working set, in a handful of guarded statements, with one link of the writer's chain.

Invariant: each guarded statement changes exactly the rows that the plan changed, or the whole batch is planned again
(`Interference`); nothing is half written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from quota.store import statements as sql
from quota.store.chain import link_hash
from quota.store.wire import Insert, Interference, Row, Statement, Wire
from quota.store.working_set import HoldRow, WorkingSet, as_row


@dataclass(frozen=True, slots=True)
class Head:
    """Where a writer's chain ends."""

    epoch: int
    n: int
    hash: str


as_placed: Final[Callable[[HoldRow], Row]] = attrgetter(*sql.PLACED_COLUMNS)


def persist(wire: Wire, ws: WorkingSet, head: Head) -> Head:
    """Write the changes and the next link; the new head, or the same where nothing changed. Raises Interference."""
    wrote = _change_counters(wire, ws)
    fresh = [hold for hold in ws.holds.values() if hold.fresh]
    wrote |= _insert(wire, sql.PLACE_HOLDS, [as_placed(hold) for hold in fresh if hold.only_placed], (head.epoch,))
    wrote |= _insert(wire, sql.ADD_HOLDS, [as_row(hold) for hold in fresh if not hold.only_placed])
    changed = [_hold_change(hold) for hold in ws.holds.values() if hold.changed and not hold.fresh]
    wrote |= _guarded(wire, sql.CHANGE_HOLDS, changed)
    wrote |= _write_lines(wire, ws)
    refused = ws.new_refused_lines
    wrote |= _insert(
        wire,
        sql.ADD_REFUSED_LINES,
        [(r.hold_id, r.line_id, r.amount, r.at_us, r.refusal_code, r.refusal_params) for r in refused],
    )
    if not wrote and not ws.new_usages and not ws.entries:
        return head
    return _write_link(wire, ws, head)


def _change_counters(wire: Wire, ws: WorkingSet) -> bool:
    moved = [
        (a.id, a.d_held, a.d_charged, int(a.takes), int(a.overruns), a.version)
        for a in ws.accounts.values()
        if a.changed
    ]
    limits = [(one.id, one.d_held, one.d_charged, int(one.overruns)) for one in ws.limits.values()]
    limits = [row for row in limits if row[1] or row[2]]
    return _guarded(wire, sql.MOVE_ACCOUNTS, moved) | _guarded(wire, sql.MOVE_LIMITS, limits)


def _hold_change(hold: HoldRow) -> Row:
    return (
        hold.id,
        hold.state,
        hold.amount,
        hold.charged,
        hold.next_seq,
        hold.line_count,
        hold.lease_until_us,
        hold.charged_to_us,
        hold.closed_us,
        hold.close_reason,
        hold.seen_next_seq,
        hold.seen_line_count,
        hold.seen_amount,
        hold.limit_count,
    )


def _write_lines(wire: Wire, ws: WorkingSet) -> bool:
    fresh: list[Row] = []
    changed: list[Row] = []
    for hold_id, lines in ws.lines.items():
        for line in lines:
            if line.fresh:
                fresh.append((hold_id, line.line_id, line.kind, line.amount, line.charged, line.at_us, line.asked))
            elif line.changed:
                changed.append((hold_id, line.line_id, line.amount, line.charged))
    fresh_uses: list[Row] = []
    changed_uses: list[Row] = []
    for hold_id, uses in ws.hold_limits.items():
        for use in uses:
            row = (hold_id, use.limit_id, use.amount, use.charged)
            if use.fresh:
                fresh_uses.append(row)
            elif use.changed:
                changed_uses.append((*row, use.seen_amount, use.seen_charged))
    wrote = _insert(wire, sql.ADD_LINES, fresh) | _guarded(wire, sql.CHANGE_LINES, changed)
    return wrote | _insert(wire, sql.ADD_HOLD_LIMITS, fresh_uses) | _guarded(wire, sql.CHANGE_HOLD_LIMITS, changed_uses)


def _write_link(wire: Wire, ws: WorkingSet, head: Head) -> Head:
    # In the order in which `verify` reads them back.
    usages = sorted(ws.new_usages)  # by source and event id
    new = Head(
        head.epoch,
        head.n + 1,
        link_hash(head.hash, ws.entries, [(*row[:9], int(row.estimated), *row[10:]) for row in usages]),
    )
    row = (new.epoch, new.n, head.hash, new.hash, len(ws.entries), len(usages))
    # The head first: who holds its table still (checkpoints.at_rest) knows that nobody has taken a number.
    _guarded(wire, sql.MOVE_HEAD, [(new.epoch, new.n, new.hash)])
    link = wire.select(sql.ADD_LINK, [row])[0][0]
    _insert(wire, sql.ADD_USAGES, usages, (link,))
    _insert(wire, sql.ADD_ENTRIES, ws.entries, (link,))
    return new


def _guarded(wire: Wire, statement: Statement, rows: Sequence[Row]) -> bool:
    if not rows:
        return False
    if wire.update(statement, rows) != len(rows):
        raise Interference(statement.sql)
    return True


def _insert(wire: Wire, insert: Insert, rows: Sequence[Row], shared: Row = ()) -> bool:
    if not rows:
        return False
    if wire.insert(insert, rows, shared) != len(rows):
        raise Interference(insert.table)
    return True
