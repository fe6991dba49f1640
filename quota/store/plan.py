"""What a batch of operations does to its working set: decided here, in the order they came; written and guarded by `persist`.

Pure but for the working set. Invariants: an operation that raises has changed nothing; whatever it moves, it writes as entries
that sum to zero; what is asked for a second time gets the first answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any, Final

from quota.domain.errors import (
    IdConflict,
    Invalid,
    InvariantBroken,
    QuotaError,
    RefusalCode,
    Refused,
    Unknown,
    WrongState,
)
from quota.domain.fence import Fence
from quota.domain.hold import Charged, Hold, HoldState
from quota.domain.limits import SESSION_MS
from quota.domain.units import AMOUNT_MAX
from quota.store.fences import stale
from quota.store.json_text import dump
from quota.store.operations import (
    Charge,
    Close,
    ExtendLease,
    Fenced,
    Operation,
    PlaceHold,
    Settle,
    TopUp,
    Withdraw,
    made,
)
from quota.store.working_set import (
    FIRST_LINE,
    STORED,
    AccountRow,
    HoldLimitRow,
    HoldRow,
    LineRow,
    RefusedLine,
    UsageRow,
    WorkingSet,
    fresh_hold,
    hold_from,
    placed_hold,
    refused_from,
)

Answer = Hold | Refused | Charged
SIMULTANEOUS: Final = "simultaneous"  # a limit of this kind counts holds, not amounts: charging gives nothing back


def run(ws: WorkingSet, operation: Operation, epoch: int) -> Answer | QuotaError:
    """Apply one operation; what is wrong with it alone is its answer and hurts no other."""
    try:
        if isinstance(operation, Fenced):
            _must_be_in_force(ws, operation.fence)
            operation = operation.operation
        if type(operation) is PlaceHold:
            return _place(ws, operation, epoch)
        return _DOES[type(operation)](ws, operation)
    except QuotaError as error:
        return error


def _must_be_in_force(ws: WorkingSet, fence: Fence) -> None:
    if ws.fences.get(fence.name) != fence.epoch:
        raise stale(fence, ws.fences.get(fence.name))


def _place(ws: WorkingSet, op: PlaceHold, epoch: int) -> Hold:
    order = op.order
    known = ws.holds.get(order.id)
    if known is not None:
        if known.body_hash != op.body_hash:
            raise IdConflict("this hold id was used with another body", hold_id=order.id)
        return hold_from(known, replayed=True)
    refusal = _why_not(ws, op)
    if refusal is not None:
        ws.keep_refusal(order.actor)
    row = fresh_hold(op, refusal, epoch)
    ws.holds[order.id] = row
    if refusal is None:
        _set_aside(ws, row, order.amount, f"h:{order.id}", "hold", op.at_us)
        if order.limits:
            ws.hold_limits[order.id] = [HoldLimitRow(use.limit_id, use.amount, 0, fresh=True) for use in order.limits]
            for use in order.limits:
                limit = ws.limits[use.limit_id]
                limit.move(held=use.amount, charged=0)
                limit.overruns = limit.overruns or use.beyond
    return placed_hold(op, row)


def _why_not(ws: WorkingSet, op: PlaceHold) -> Refused | None:
    order = op.order
    account = ws.accounts.get(order.allocation_id)
    if account is not None:
        account.judged = True
    if account is None or account.project_id != order.project_id or account.unit != order.unit:
        return Refused(RefusalCode.NO_ALLOCATION)
    short = _why_not_from(account, order.amount, op.at_us)
    if short is not None:
        return short
    for use in order.limits:
        limit = ws.limits.get(use.limit_id)
        if limit is None:
            raise Unknown("limit", limit_id=use.limit_id)
        if not use.beyond and use.amount > 0 and limit.available < use.amount:
            return Refused(
                RefusalCode.LIMIT_REACHED,
                {"limit": limit.id, "kind": limit.kind, "requested": use.amount, "available": limit.available},
            )
    return None


def _why_not_from(account: AccountRow, amount: int, at_us: int) -> Refused | None:
    if account.frozen:
        return Refused(RefusalCode.FROZEN)
    # What is free may start after the end, too: the use case decides about the grace.
    if at_us < account.period_start_us or (amount > 0 and at_us >= account.period_end_us):
        return Refused(RefusalCode.NO_ALLOCATION)
    # What is free can start on an overdrawn account too: the rescue profile.
    if amount > 0 and account.available < amount:
        return Refused(RefusalCode.INSUFFICIENT_BALANCE, {"requested": amount, "available": account.available})
    return None


def _set_aside(ws: WorkingSet, hold: HoldRow, amount: int, txn_id: str, kind: str, at_us: int) -> None:
    if amount == 0:
        return
    account = ws.accounts[hold.account_id]
    account.move(held=amount, charged=0)
    account.takes = True
    ws.entries.append((txn_id, account.id, "available", -amount, hold.id, None, kind, at_us, hold.actor, "held"))


def _top_up(ws: WorkingSet, op: TopUp) -> Hold | Refused:
    hold = _known(ws, op.hold_id)
    refused = ws.refused_lines.get((hold.id, op.line_id))
    line = next((one for one in ws.lines_of(hold) if one.line_id == op.line_id), None)
    if _asked(refused, line, op) != op.amount:
        raise IdConflict("this top-up's id was used with another amount", hold_id=hold.id)
    if refused is not None:
        return refused_from(refused.refusal_code, refused.refusal_params)
    if line is not None:
        return hold_from(hold, replayed=True)
    _must_be_open(hold)
    refusal = _why_not_more(ws, hold, op)
    if refusal is not None:
        ws.keep_refusal(hold.actor)
        stored = RefusedLine(hold.id, op.line_id, op.amount, op.at_us, refusal.code.value, dump(refusal.params))
        ws.refused_lines[hold.id, op.line_id] = stored
        ws.new_refused_lines.append(stored)
        return refusal
    ws.add_line(hold, LineRow(op.line_id, "top_up", op.amount, 0, op.at_us, op.amount, fresh=True))
    hold.amount += op.amount
    hold.lease_until_us, hold.lease_until = max(hold.lease_until_us, op.lease_until_us), None
    hold.changed = True
    _set_aside(ws, hold, op.amount, f"t:{hold.id}:{op.line_id}", "top_up", op.at_us)
    for use in ws.hold_limits.get(hold.id, ()):
        limit = ws.limits[use.limit_id]
        if limit.kind != SIMULTANEOUS:
            limit.move(held=op.amount, charged=0)
            use.amount += op.amount
            use.changed = True
    return hold_from(hold)


def _asked(refused: RefusedLine | None, line: LineRow | None, op: TopUp) -> int:
    """What this top-up asked for when it came first; a withdrawal since has changed the line, not the question."""
    if refused is not None:
        return refused.amount
    if line is None:
        return op.amount
    return line.amount if line.asked is None else line.asked


def _withdraw(ws: WorkingSet, op: Withdraw) -> Hold:
    """What is charged to the line already stays; a second time, and on a closed hold, nothing is left to give back."""
    hold = _known(ws, op.hold_id)
    added = (one for one in ws.lines_of(hold) if one.line_id != FIRST_LINE)
    line = next((one for one in added if one.line_id == op.line_id), None)
    if line is None:
        raise Unknown("line", hold_id=hold.id, line_id=op.line_id)
    rest = line.amount - line.charged
    if rest == 0 or not hold.open:
        return hold_from(hold, replayed=True)
    line.amount -= rest
    line.changed = True
    hold.amount -= rest
    hold.changed = True
    account = ws.accounts[hold.account_id]
    account.move(held=-rest, charged=0)
    txn_id = f"w:{hold.id}:{op.line_id}"
    ws.entries.append((txn_id, account.id, "held", -rest, hold.id, None, "withdraw", op.at_us, hold.actor, "available"))
    for use in ws.hold_limits.get(hold.id, ()):
        limit = ws.limits[use.limit_id]
        back = min(rest, use.amount - use.charged)
        if limit.kind != SIMULTANEOUS and back > 0:
            limit.move(held=-back, charged=0)
            use.amount -= back
            use.changed = True
    return hold_from(hold)


def _why_not_more(ws: WorkingSet, hold: HoldRow, op: TopUp) -> Refused | None:
    short = _why_not_from(ws.accounts[hold.account_id], op.amount, op.at_us)
    if short is not None:
        return short
    for use in ws.hold_limits.get(hold.id, ()):
        limit = ws.limits[use.limit_id]
        if limit.kind != SIMULTANEOUS and limit.available < op.amount:
            return Refused(
                RefusalCode.LIMIT_REACHED,
                {"limit": limit.id, "kind": limit.kind, "requested": op.amount, "available": limit.available},
            )
    return None


def _charge(ws: WorkingSet, op: Charge) -> Charged:
    hold = _known(ws, op.hold_id)
    before = _recorded(ws, op)
    if before is not None:
        return Charged(hold_from(hold, replayed=True), applied=False, overrun=before.overrun)
    _must_be_open(hold)
    overrun = _record(ws, hold, op)
    return Charged(hold_from(hold), applied=True, overrun=overrun)


def _recorded(ws: WorkingSet, op: Charge) -> UsageRow | None:
    """The same usage as recorded before. Raises IdConflict where its id came with something else."""
    usage = op.usage
    before = ws.usages.get((usage.source, usage.event_id))
    if before is not None and before.payload_hash != op.payload_hash:
        raise IdConflict("this usage id was recorded with other content", source=usage.source, event_id=usage.event_id)
    return before


def _record(ws: WorkingSet, hold: HoldRow, op: Charge) -> int:
    """Record new usage on an open hold and move its amount; returns what went beyond the hold."""
    usage = op.usage
    account = ws.accounts[hold.account_id]
    if account.charged + account.held + usage.amount > AMOUNT_MAX:
        raise Invalid([("amount", "out_of_range")])
    if hold.charged_to_us is not None and op.from_us < hold.charged_to_us:
        for from_us, to_us in ws.intervals(hold.id):
            if op.from_us < to_us and from_us < op.to_us:
                raise InvariantBroken("this usage overlaps what was charged already", hold_id=hold.id)
    excess = max(0, usage.amount - hold.amount + hold.charged)
    row = made(UsageRow, (
        usage.source, usage.event_id, hold.id, hold.next_seq, op.from_us, op.to_us, usage.quantity, usage.amount, excess,
        int(usage.estimated), op.payload, op.payload_hash,
    ))  # fmt: skip
    ws.usages[usage.source, usage.event_id] = row
    ws.new_usages.append(row)
    _spend(ws, hold, row, op.to_us)
    hold.next_seq += 1
    if hold.charged_to_us is None or op.to_us > hold.charged_to_us:
        hold.charged_to_us = op.to_us
        hold.charged_to = usage.to_at if usage.to_at.tzinfo is UTC else None
    hold.changed = True
    return excess


def _spend(ws: WorkingSet, hold: HoldRow, usage: UsageRow, at_us: int) -> None:
    """Move a usage's amount from held to charged, line by line; the excess comes out of what is available, or overdraws."""
    within, ref = usage.amount - usage.overrun, f"{usage.source}:{usage.event_id}"
    account = ws.accounts[hold.account_id]
    account.move(held=-within, charged=usage.amount)
    account.overruns = account.overruns or usage.overrun > 0
    txn_id = f"u:{ref}"
    for bucket, amount in (("available", usage.overrun), ("held", within)):
        if amount > 0:
            ws.entries.append(
                (txn_id, account.id, bucket, -amount, hold.id, ref, "charge", at_us, hold.actor, "charged")
            )
    if hold.line_count > 1 or usage.overrun > 0:
        _spend_lines(ws, hold, usage, at_us)
    hold.charged += usage.amount
    if hold.limit_count:
        _spend_limits(ws, hold, usage)


def _spend_lines(ws: WorkingSet, hold: HoldRow, usage: UsageRow, at_us: int) -> None:
    """Which lines pay: the oldest first; an overrun is a line of its own."""
    if usage.overrun > 0:
        overrun = LineRow(f"overrun:{usage.seq}", "overrun", usage.overrun, usage.overrun, at_us, fresh=True)
        ws.add_line(hold, overrun)
        hold.amount += usage.overrun
    left = usage.amount - usage.overrun
    for line in ws.lines_of(hold):
        part = min(left, line.amount - line.charged)
        if part > 0:
            line.charged += part
            line.changed = True
            left -= part


def _spend_limits(ws: WorkingSet, hold: HoldRow, usage: UsageRow) -> None:
    for use in ws.hold_limits.get(hold.id, ()):
        limit = ws.limits[use.limit_id]
        amount = usage.quantity if limit.unit == SESSION_MS else usage.amount
        if limit.kind == SIMULTANEOUS or amount == 0:
            continue
        within = min(amount, use.amount - use.charged)
        limit.move(held=-within, charged=amount)
        limit.overruns = limit.overruns or amount > within
        use.amount += amount - within
        use.charged += amount
        use.changed = True


def _settle(ws: WorkingSet, op: Settle) -> Hold:
    hold = _known(ws, op.hold_id)
    if not hold.open:
        return hold_from(hold, replayed=True)
    if op.charge is not None and _recorded(ws, op.charge) is None:
        _record(ws, hold, op.charge)
    _close(ws, hold, HoldState.SETTLED, op.at_us, "s", "settle")
    return hold_from(hold)


def _close_unused(ws: WorkingSet, op: Close) -> Hold:
    hold = _known(ws, op.hold_id)
    if hold.state == op.to:
        return hold_from(hold, replayed=True)
    _must_be_open(hold)
    if hold.next_seq > 0:
        raise WrongState("something was charged on this hold: settle it", hold_id=hold.id)
    hold.close_reason = op.reason
    _close(ws, hold, op.to, op.at_us, "r", "release" if op.to is HoldState.RELEASED else "expire")
    return hold_from(hold)


def _close(ws: WorkingSet, hold: HoldRow, state: HoldState, at_us: int, letter: str, kind: str) -> None:
    rest = hold.rest
    if rest > 0:
        account, txn_id = ws.accounts[hold.account_id], f"{letter}:{hold.id}"
        account.move(held=-rest, charged=0)
        ws.entries.append((txn_id, account.id, "held", -rest, hold.id, None, kind, at_us, hold.actor, "available"))
    if hold.limit_count:
        for use in ws.hold_limits.get(hold.id, ()):
            ws.limits[use.limit_id].move(held=use.charged - use.amount, charged=0)
    hold.state = STORED[state]
    hold.closed_us = at_us
    hold.changed = True


def _extend(ws: WorkingSet, op: ExtendLease) -> Hold:
    hold = _known(ws, op.hold_id)
    if hold.open and op.lease_until_us > hold.lease_until_us:
        hold.lease_until_us, hold.lease_until = op.lease_until_us, None
        hold.changed = True
    return hold_from(hold)


def _known(ws: WorkingSet, hold_id: str) -> HoldRow:
    hold = ws.holds.get(hold_id)
    if hold is None:
        raise Unknown("hold", hold_id=hold_id)
    return hold


def _must_be_open(hold: HoldRow) -> None:
    if not hold.open:
        raise WrongState(f"the hold is {hold.state}", hold_id=hold.id, state=hold.state)


_DOES: Final[Mapping[type, Callable[[WorkingSet, Any], Answer]]] = {
    TopUp: _top_up,
    Withdraw: _withdraw,
    Charge: _charge,
    Settle: _settle,
    Close: _close_unused,
    ExtendLease: _extend,
}
