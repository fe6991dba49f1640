"""The statement as people read it: the ledger's lines, newest first, folded into rows.

A running session is charged in slices and a model request takes three steps; each becomes one row, also where other people's lines
lie between. A session's row ends where something else happened to its hold (an extension), so that the order stays true.
Invariant: each line is in exactly one row of exactly one page, so that the rows of all pages add up to the account's figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from quota.domain.ids import HoldId, ProjectId
from quota.domain.units import Unit
from quota.pages.figures import rate_shown
from quota.pages.visit import Visit
from quota.service import report
from quota.service.ports import StatementLine

PAGE_ROWS: Final = 50
PAGE_LINES_MAX: Final = 2500  # the end of a page whose few rows have very many slices
_LINES_AT_ONCE: Final = 500
_SHORT: Final = timedelta(minutes=2)
_SLICES: Final = frozenset({"charge", "settle"})


@dataclass(slots=True)
class Row:
    """Lines of one hold, or one line alone; `lines` is never empty and newest first."""

    lines: list[StatementLine]

    @property
    def newest(self) -> StatementLine:
        return self.lines[0]

    @property
    def kind(self) -> str:
        """The newest line's kind; a request that was charged is "charge" however it was closed."""
        charged = self.newest.code == "request" and any(line.kind == "charge" for line in self.lines)
        return "charge" if charged else self.newest.kind

    @property
    def slices(self) -> int:
        """How many charges a session's row has."""
        return sum(line.kind == "charge" for line in self.lines) if self.newest.code == "session" else 0

    @property
    def delta_awarded(self) -> int:
        return sum(line.delta_awarded for line in self.lines)

    @property
    def delta_held(self) -> int:
        return sum(line.delta_held for line in self.lines)

    @property
    def delta_charged(self) -> int:
        return sum(line.delta_charged for line in self.lines)

    @property
    def free(self) -> bool:
        """Whether a request was closed without a charge: a true zero, worth showing."""
        return self.newest.code == "request" and self.kind == "settle" and self.delta_charged == 0

    @property
    def from_at(self) -> datetime | None:
        return min((line.from_at for line in self.lines if line.from_at is not None), default=None)

    @property
    def to_at(self) -> datetime | None:
        return max((line.to_at for line in self.lines if line.to_at is not None), default=None)

    @property
    def clock(self) -> str:
        """How its span is written: with seconds where it is short, with its day where it began on another one."""
        if self.from_at is None or self.to_at is None:
            return "time"
        if self.to_at - self.from_at < _SHORT:
            return "second"
        return "time" if self.from_at.date() == self.newest.at.date() else "datetime"

    @property
    def in_one_second(self) -> bool:
        """Whether its span's two ends read the same."""
        ends = (self.from_at, self.to_at)
        return len({at.replace(microsecond=0) for at in ends if at is not None}) == 1

    @property
    def estimated(self) -> bool:
        return any(line.estimated for line in self.lines)

    @property
    def elapsed_s(self) -> int | None:
        """What a session's clock measured."""
        measured = self._quantity() if self.newest.unit is Unit.GPU_MS else None
        return measured // 1000 if measured is not None else None

    @property
    def count(self) -> int | None:
        """Tokens that a model request reported."""
        return self._quantity() if self.newest.unit is Unit.TOKENS else None

    @property
    def rate(self) -> str | None:
        """GPU-hours an hour of a session; None where there is none."""
        params = self.newest.params
        if self.newest.unit is not Unit.GPU_MS or "rate" not in params:
            return None
        try:
            return rate_shown(Fraction(str(params["rate"])) * int(str(params.get("gpus", 1))))
        except (ValueError, ZeroDivisionError):
            return None

    def _quantity(self) -> int | None:
        measured = [line.quantity for line in self.lines if line.quantity is not None]
        return sum(measured) if measured else None


@dataclass(slots=True)
class Fold:
    """Folds lines, given newest first, into rows; at most `rows_max` of them."""

    rows_max: int = PAGE_ROWS
    rows: list[Row] = field(default_factory=list)
    lines: int = 0
    _open: dict[HoldId, Row] = field(default_factory=dict)  # rows that an older line may still join

    def take(self, line: StatementLine) -> bool:
        """Put `line` where it belongs; False where it needs a row more than there may be."""
        folds = line.hold_id is not None and (line.code == "request" or line.kind in _SLICES)
        row = self._open.get(line.hold_id) if folds and line.hold_id is not None else None
        if row is None:
            if len(self.rows) >= self.rows_max:
                return False
            row = Row([])
            self.rows.append(row)
        row.lines.append(line)
        self.lines += 1
        if line.hold_id is not None:
            if folds:
                self._open[line.hold_id] = row
            else:
                self._open.pop(line.hold_id, None)
        return True


@dataclass(frozen=True, slots=True)
class RowPage:
    """Newest first; `next` is passed as `before` for the following page, None at the end."""

    rows: list[Row]
    next: int | None


async def page_of_rows(visit: Visit, project_id: ProjectId, *, before: int | None) -> RowPage:
    """A page of the statement: lines are read until they need a row too many, or are too many. Raises Unknown('project')."""
    fold = Fold()
    while True:  # ends with the statement, the page's rows or its lines
        page = await report.statement(
            visit.desk.services,
            visit.caller,
            project_id,
            before=before,
            limit=_LINES_AT_ONCE,
            language=visit.language,
        )
        for line in page.lines:
            if not fold.take(line):
                return RowPage(fold.rows, before)
            before = line.seq
        if page.next is None or fold.lines >= PAGE_LINES_MAX:
            return RowPage(fold.rows, page.next)
