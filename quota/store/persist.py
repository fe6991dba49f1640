"""Writes what a batch left in its working set, in a handful of guarded statements, with one link of the writer's chain.

Invariant: each guarded statement changes exactly the rows that the plan changed, or the whole batch is planned again
(`Interference`); nothing is half written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from quota.store import statements as sql
from quota.store.chain import dumped_link_hash
from quota.store.json_text import dump_rows
from quota.store.wire import Insert, Row, Statement, Wire
from quota.store.working_set import AccountRow, HoldRow, WorkingSet, as_row


@dataclass(frozen=True, slots=True)
class Head:
    """Where a writer's chain ends."""

    epoch: int
    n: int
    hash: str


_ID: Final[Callable[[AccountRow], str]] = attrgetter("id")
as_placed: Final[Callable[[HoldRow], Row]] = attrgetter(*sql.PLACED_COLUMNS)
as_change: Final[Callable[[HoldRow], Row]] = attrgetter(*sql.CHANGE_HOLDS.rows.columns)
as_settled: Final[Callable[[HoldRow], Row]] = attrgetter(*sql.SETTLE_HOLDS.rows.columns)


def persist(wire: Wire, ws: WorkingSet, head: Head) -> Head:
    """Ask for the changes and the next link; the new head, or the same where nothing changed. Raises Interference."""
    wrote = _change_counters(wire, ws)
    wrote |= _write_holds(wire, ws, head)
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
        (a.id, a.d_held, a.d_charged, int(a.takes), int(a.overruns), int(a.overruns or a.remembered), a.version)
        for a in _in_lock_order(ws.accounts.values())
        if a.touched
    ]
    limits = [(one.id, one.d_held, one.d_charged, int(one.overruns)) for one in ws.limits.values()]
    limits = [row for row in limits if row[1] or row[2]]
    return _guarded(wire, sql.MOVE_ACCOUNTS, moved) | _guarded(wire, sql.MOVE_LIMITS, limits)


def _in_lock_order(accounts: Iterable[AccountRow]) -> list[AccountRow]:
    """By id, as `statements.LOCK_ACCOUNTS` locks them."""
    return sorted(accounts, key=_ID)


def _write_holds(wire: Wire, ws: WorkingSet, head: Head) -> bool:
    placed: list[Row] = []
    whole: list[Row] = []
    changed: list[Row] = []
    settled: list[Row] = []
    for hold in ws.holds.values():
        if hold.fresh:
            if hold.next_seq == 0 and hold.line_count == 1 and hold.state == "held":  # nothing happened to it since
                placed.append(as_placed(hold))
            else:
                whole.append(as_row(hold))
        elif hold.changed:
            if hold.state == "settled" and hold.line_count == 1 and hold.limit_count == 0:
                settled.append(as_settled(hold))
            else:
                changed.append(as_change(hold))
    wrote = _insert(wire, sql.PLACE_HOLDS, placed, (head.epoch,)) | _insert(wire, sql.ADD_HOLDS, whole)
    return wrote | _guarded(wire, sql.SETTLE_HOLDS, settled) | _guarded(wire, sql.CHANGE_HOLDS, changed)


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
    usages = [
        *map(tuple, sorted(ws.new_usages))
    ]  # by source and event id; plain tuples, which are written as JSON far faster
    said, measured = dump_rows(ws.entries), dump_rows(usages)
    new = Head(head.epoch, head.n + 1, dumped_link_hash(head.hash, said, measured))
    row = (new.epoch, new.n, head.hash, new.hash, len(ws.entries), len(usages))
    # The head first: who holds its table still (checkpoints.at_rest) knows that nobody has taken a number.
    _guarded(wire, sql.MOVE_HEAD, [(new.epoch, new.n, new.hash)])
    link = wire.add_link(sql.ADD_LINK, row)
    _insert(wire, sql.ADD_USAGES, usages, (link,), measured)
    _insert(wire, sql.ADD_ENTRIES, ws.entries, (link,), said)
    return new


def _guarded(wire: Wire, statement: Statement, rows: Sequence[Row]) -> bool:
    if rows:
        wire.update(statement, rows)
    return bool(rows)


def _insert(wire: Wire, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> bool:
    if rows:
        wire.insert(insert, rows, shared, dumped)
    return bool(rows)
