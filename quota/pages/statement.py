"""The whole statement as CSV: every line of the ledger, none folded.

A cell of the CSV that a person wrote and that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV
injection); numbers that we wrote stay numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final

from starlette.responses import Response, StreamingResponse

from quota.domain.ids import ProjectId
from quota.domain.messages import render
from quota.domain.units import Unit
from quota.pages.figures import plain_number
from quota.pages.visit import Visit
from quota.service import report
from quota.service.ports import StatementLine

_CSV_LINES: Final = 500
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_COLUMNS: Final = [
    *("seq", "at", "kind", "what", "who", "from", "to", "gpus", "rate", "quantity", "unit"),
    *("delta_awarded", "delta_held", "delta_charged", "delta_awarded_h", "delta_held_h", "delta_charged_h"),
    *("estimated", "reason", "hold_id"),
]


def before_of(text: str | None) -> int | None:
    """The cursor of a page; None for none and for nonsense."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None


async def download(visit: Visit) -> Response:
    """The whole statement as CSV, newest first, read page by page."""
    project_id = ProjectId(str(visit.request.path_params["project_id"]))
    view = await report.project(visit.desk.services, visit.caller, project_id)
    first = await _lines(visit, project_id, None)
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
        page = await _lines(visit, project_id, page.next)


async def _lines(visit: Visit, project_id: ProjectId, before: int | None) -> report.StatementPage:
    services, language = visit.desk.services, visit.language
    return await report.statement(
        services, visit.caller, project_id, before=before, limit=_CSV_LINES, language=language
    )


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
