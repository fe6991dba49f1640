"""The statement for people: rows of the page, and the whole of it as CSV.

A cell of the CSV that a person wrote and that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV
injection); numbers that we wrote stay numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Final

from starlette.responses import Response, StreamingResponse

from quota.domain.ids import ProjectId
from quota.domain.messages import render
from quota.domain.units import Unit
from quota.pages.figures import plain_number
from quota.pages.visit import Visit
from quota.service import report
from quota.service.ports import ProfileCatalogue, StatementLine

PAGE_LINES: Final = 50
_CSV_LINES: Final = 500
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_COLUMNS: Final = [
    *("seq", "at", "kind", "what", "who", "from", "to", "gpus", "rate", "quantity", "unit"),
    *("delta_awarded", "delta_held", "delta_charged", "delta_awarded_h", "delta_held_h", "delta_charged_h"),
    *("estimated", "reason", "hold_id"),
]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the statement. `elapsed_s` is what a session's clock measured; `count` what a model request reported."""

    line: StatementLine
    params: Mapping[str, object]  # of the line's text, with the profile's title for its id
    elapsed_s: int | None
    count: int | None
    rate: str | None


def row_of(line: StatementLine, catalogue: ProfileCatalogue) -> Row:
    """The line with its quantity, rate and profile in readable form."""
    gpu = line.unit is Unit.GPU_MS
    elapsed = line.quantity // 1000 if gpu and line.quantity is not None else None
    profile = catalogue.profile(str(line.params.get("profile", "")))
    params = {**line.params, "profile": profile.title} if profile is not None else line.params
    return Row(line, params, elapsed, line.quantity if not gpu else None, _rate_per_hour(line))


def before_of(text: str | None) -> int | None:
    """The cursor of a page; None for none and for nonsense."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None


async def download(visit: Visit) -> Response:
    """The whole statement as CSV, newest first, read page by page."""
    project_id = ProjectId(str(visit.request.path_params["project_id"]))
    view = await report.project(visit.desk.services, visit.caller, project_id)
    first = await report.statement(visit.desk.services, visit.caller, project_id, before=None, limit=_CSV_LINES)
    name = f"statement-{view.card.project.slug}.csv"
    return StreamingResponse(
        _csv(visit, project_id, first),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{_file_name(name)}"'},
    )


async def _csv(visit: Visit, project_id: ProjectId, page: report.StatementPage) -> AsyncIterator[str]:
    yield "\ufeff" + _csv_line(_COLUMNS)  # the mark tells spreadsheets that this is UTF-8
    while True:  # ends with the statement
        for line in page.lines:
            yield _csv_line(cells_of(visit, line))
        if page.next is None:
            return
        page = await report.statement(visit.desk.services, visit.caller, project_id, before=page.next, limit=_CSV_LINES)


def cells_of(visit: Visit, line: StatementLine) -> list[str]:
    """One line's cells; texts are in the reader's language, numbers exact."""
    texts = [
        render(f"kind.{line.kind}", {}, visit.gettext).message,
        render(line.code, line.params, visit.gettext).message,
        line.actor_name,
    ]
    deltas = (line.delta_awarded, line.delta_held, line.delta_charged)
    return [
        str(line.seq),
        _utc(line.at),
        *(harmless(text) for text in texts),
        _utc(line.from_at),
        _utc(line.to_at),
        harmless(str(line.params.get("gpus", ""))),
        harmless(str(line.params.get("rate", ""))),
        str(line.quantity) if line.quantity is not None else "",
        line.unit.value,
        *(str(delta) for delta in deltas),
        *(plain_number(delta, line.unit) if line.unit is Unit.GPU_MS else "" for delta in deltas),
        "yes" if line.estimated else "",
        harmless(line.reason or ""),
        line.hold_id or "",
    ]


def harmless(text: str) -> str:
    """`text` as a cell that no spreadsheet runs."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv_line(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()


def _utc(at: datetime | None) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at is not None else ""


def _file_name(name: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "-" for char in name)


def _rate_per_hour(line: StatementLine) -> str | None:
    """GPU-hours an hour of a session's line; None where there is none."""
    if line.unit is not Unit.GPU_MS or "rate" not in line.params:
        return None
    try:
        rate = Fraction(str(line.params["rate"])) * int(str(line.params.get("gpus", 1)))
    except (ValueError, ZeroDivisionError):
        return None
    return f"{float(rate):.2f}".rstrip("0").rstrip(".")
