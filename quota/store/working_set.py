"""The rows that a batch of ledger operations touches, in memory: as read, and as the batch will leave them.

Invariant: a row knows what was read (`seen_…`, the `d_…` deltas), so that each UPDATE can demand that nothing changed in between.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

from quota.domain.errors import RefusalCode, Refused
from quota.domain.hold import Hold, HoldKind, HoldState
from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId
from quota.domain.units import Unit
from quota.store.instants import from_us, from_us_or_none
from quota.store.json_text import dump, load
from quota.store.operations import PlaceHold, made
from quota.store.refusals import RefusalWindow

FIRST_LINE: Final = ""  # the line that a hold is placed with; top-ups bring the caller's ids
HOLD_COLUMNS: Final = (
    "id", "kind", "state", "subject", "actor", "project_id", "account_id", "unit", "amount", "charged", "next_seq",
    "line_count", "limit_count", "placed_us", "lease_until_us", "charged_to_us", "closed_us", "close_reason", "body_hash",
    "details", "refusal_code", "refusal_params", "epoch",
)  # fmt: skip


@dataclass(slots=True)
class AccountRow:
    id: str
    unit: str
    project_id: str
    period_start_us: int
    period_end_us: int
    awarded: int
    charged: int
    held: int
    frozen: bool
    version: int
    d_charged: int = 0
    d_held: int = 0
    takes: bool = False  # a new hold or top-up is among the changes
    overruns: bool = False
    changed: bool = False
    remembered: bool = False  # not read for this batch
    judged: bool = False  # an answer rests on it, a refusal too

    @property
    def available(self) -> int:
        return self.awarded - self.charged - self.held

    @property
    def touched(self) -> bool:
        """Whether the batch updates the row, be it only to see that it is still the one that was remembered."""
        return self.changed or (self.judged and self.remembered)

    def move(self, *, held: int, charged: int) -> None:
        """Change both sums by the given amounts."""
        self.held += held
        self.d_held += held
        self.charged += charged
        self.d_charged += charged
        self.changed = True

    def written(self) -> None:
        """The database will have the row as it stands: what its next change compares with."""
        self.version += self.touched
        self.d_held = self.d_charged = 0
        self.takes = self.overruns = self.changed = self.judged = False
        self.remembered = True


@dataclass(slots=True)
class HoldRow:
    """A hold's row, columns in the order of HOLD_COLUMNS."""

    id: HoldId
    kind: str
    state: str
    subject: str
    actor: PersonId
    project_id: ProjectId
    account_id: AllocationId
    unit: str
    amount: int
    charged: int
    next_seq: int
    line_count: int
    limit_count: int
    placed_us: int
    lease_until_us: int
    charged_to_us: int | None
    closed_us: int | None
    close_reason: str | None
    body_hash: str
    details: str
    refusal_code: str | None
    refusal_params: str | None
    epoch: int
    fresh: bool = False
    changed: bool = False
    seen_next_seq: int = 0
    seen_line_count: int = 0
    seen_amount: int = 0
    # As they were given, instants where they were given as UTC: converting them costs more than the rest of an answer.
    placed_at: datetime | None = None
    lease_until: datetime | None = None
    charged_to: datetime | None = None
    said: Mapping[str, object] | None = None  # the details

    @property
    def rest(self) -> int:
        return self.amount - self.charged

    @property
    def open(self) -> bool:
        return self.state == "held"

    def written(self) -> None:
        """The database has the row as it stands: what its next change compares with."""
        self.fresh = self.changed = False
        self.seen_next_seq, self.seen_line_count, self.seen_amount = self.next_seq, self.line_count, self.amount


def stored_hold(row: Sequence[Any]) -> HoldRow:
    """A row as read, with what the guards of its change compare."""
    hold = HoldRow(*row)
    hold.written()
    return hold


as_row: Final[Callable[[HoldRow], tuple[object, ...]]] = attrgetter(*HOLD_COLUMNS)


@dataclass(slots=True)
class LineRow:
    line_id: str
    kind: str
    amount: int
    charged: int
    at_us: int
    asked: int | None = None  # by a top-up
    fresh: bool = False
    changed: bool = False


@dataclass(slots=True)
class LimitRow:
    id: str
    kind: str
    unit: str
    cap: int
    charged: int
    held: int
    d_charged: int = 0
    d_held: int = 0
    overruns: bool = False

    @property
    def available(self) -> int:
        return self.cap - self.charged - self.held

    def move(self, *, held: int, charged: int) -> None:
        self.held += held
        self.d_held += held
        self.charged += charged
        self.d_charged += charged


@dataclass(slots=True)
class HoldLimitRow:
    limit_id: str
    amount: int
    charged: int
    fresh: bool = False
    changed: bool = False
    seen_amount: int = 0
    seen_charged: int = 0


class UsageRow(NamedTuple):
    """A usage record, columns in the order of the table's, `link` left out."""

    source: str
    event_id: str
    hold_id: str
    seq: int
    from_us: int
    to_us: int
    quantity: int
    amount: int
    overrun: int
    estimated: int  # 0 or 1: as SQLite keeps it and the hash chain counts it
    payload: str
    payload_hash: str


@dataclass(frozen=True, slots=True)
class RefusedLine:
    hold_id: str
    line_id: str
    amount: int
    at_us: int
    refusal_code: str
    refusal_params: str


Entry = tuple[str, str, str, int, str | None, str | None, str, int, str, str]
"""txn_id, account_id, bucket, amount, hold_id, usage_ref, kind, at_us, actor, contra"""


@dataclass(slots=True)
class WorkingSet:
    """Everything that was read for a batch, and what the batch adds."""

    believed: set[str] = field(default_factory=set)  # holds that were not looked up
    fences: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, AccountRow] = field(default_factory=dict)
    holds: dict[str, HoldRow] = field(default_factory=dict)
    lines: dict[str, list[LineRow]] = field(default_factory=dict)
    refused_lines: dict[tuple[str, str], RefusedLine] = field(default_factory=dict)
    limits: dict[str, LimitRow] = field(default_factory=dict)
    hold_limits: dict[str, list[HoldLimitRow]] = field(default_factory=dict)
    usages: dict[tuple[str, str], UsageRow] = field(default_factory=dict)
    new_usages: list[UsageRow] = field(default_factory=list)
    new_refused_lines: list[RefusedLine] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)  # refusals to store, by actor
    refused_before: Mapping[str, int] = field(default_factory=Counter)  # by the batch that is not committed yet
    refusals: RefusalWindow = field(default_factory=RefusalWindow)
    stored_intervals: Callable[[str], Sequence[tuple[int, int]]] = lambda _: ()

    @property
    def remembers(self) -> bool:
        """Whether anything was planned on what was not looked up."""
        return bool(self.believed) or any(account.remembered for account in self.accounts.values())

    def keep_refusal(self, actor: str) -> None:
        """Make room for a refusal to store. Raises TooMany."""
        self.refusals.admit(actor, self.refused[actor] + self.refused_before.get(actor, 0))
        self.refused[actor] += 1

    def intervals(self, hold_id: str) -> Iterator[tuple[int, int]]:
        """The intervals of a hold's usage, stored and added by this batch."""
        yield from self.stored_intervals(hold_id)
        yield from ((usage.from_us, usage.to_us) for usage in self.new_usages if usage.hold_id == hold_id)

    def lines_of(self, hold: HoldRow) -> list[LineRow]:
        """A hold's lines. An only line follows from the hold and is no row yet."""
        lines = self.lines.get(hold.id)
        return [LineRow(FIRST_LINE, "hold", hold.amount, hold.charged, hold.placed_us)] if lines is None else lines

    def add_line(self, hold: HoldRow, line: LineRow) -> None:
        """A further line: from now on each has a row, the first included."""
        lines = self.lines_of(hold)
        if hold.line_count == 1:
            lines[0].fresh = True
            self.lines[hold.id] = lines
        lines.append(line)
        hold.line_count += 1


# Looked up in the hot path, where calling an enumeration costs ten times as much.
_KINDS: Final = {one.value: one for one in HoldKind}
_STATES: Final = {one.value: one for one in HoldState}
_UNITS: Final = {one.value: one for one in Unit}
STORED: Final[dict[str, str]] = {one: one.value for some in (HoldKind, HoldState, Unit) for one in some}


def fresh_hold(op: PlaceHold, refusal: Refused | None, epoch: int) -> HoldRow:
    """The row of a hold that is placed, or of its refusal. Fields by position: this runs once an operation."""
    order = op.order
    allowed = refusal is None
    row = HoldRow(
        order.id, STORED[order.kind], "held" if allowed else "refused", order.subject, order.actor, order.project_id,
        order.allocation_id, STORED[order.unit], order.amount, 0, 0, 1 if allowed else 0, len(order.limits) if allowed else 0,
        op.at_us, op.lease_until_us, None, None, None, op.body_hash, op.details,
        None if refusal is None else refusal.code.value, None if refusal is None else dump(refusal.params), epoch, True,
    )  # fmt: skip
    if order.at.tzinfo is UTC and order.lease_until.tzinfo is UTC:
        row.placed_at, row.lease_until = order.at, order.lease_until
    row.said = order.details
    return row


def placed_hold(op: PlaceHold, row: HoldRow) -> Hold:
    """As `hold_from` for what `fresh_hold` made: the caller's own values, converted from nothing."""
    order = op.order
    if row.refusal_code is not None or row.placed_at is None or row.lease_until is None:
        return hold_from(row)
    return made(Hold, (
        order.id, order.kind, HoldState.HELD, order.subject, order.actor, order.project_id, order.allocation_id, order.unit,
        order.amount, 0, row.placed_at, row.lease_until, order.details, None, 0, None, False,
    ))  # fmt: skip


def hold_from(row: HoldRow, *, replayed: bool = False) -> Hold:
    """A row as the domain's value."""
    refusal = None
    if row.refusal_code is not None:
        refusal = refused_from(row.refusal_code, row.refusal_params or "{}")
    return made(Hold, (
        row.id, _KINDS[row.kind], _STATES[row.state], row.subject, row.actor, row.project_id, row.account_id, _UNITS[row.unit],
        row.amount, row.charged, row.placed_at or from_us(row.placed_us), row.lease_until or from_us(row.lease_until_us),
        load(row.details) if row.said is None else row.said, refusal, row.next_seq,
        row.charged_to or from_us_or_none(row.charged_to_us), replayed,
    ))  # fmt: skip


def refused_from(code: str, params: str) -> Refused:
    """A stored refusal."""
    return Refused(RefusalCode(code), json.loads(params))
