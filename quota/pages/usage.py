"""A project's use of models: a chart by day with its table, by model and by member, and all of it as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import date
from typing import Final

from starlette.responses import Response

from quota.domain.ids import ProjectId
from quota.pages.statement import harmless
from quota.pages.visit import Visit
from quota.service import model_usage, report
from quota.service.model_usage import ModelUse, Total

PERIODS: Final = (7, 30, 90)
HEIGHT: Final = 160
_COLUMNS: Final = (
    "day", "who", "model", "requests", "prompt_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "charged_tokens",
    "estimated_requests",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """One day of the chart, in the units of its viewBox; anything above zero is at least visible."""

    day: date
    total: Total
    x: int
    width: int
    height: int


async def show(visit: Visit) -> Response:
    """The page; `?days=` chooses the period."""
    days = _days(visit)
    view = await report.project(visit.desk.services, visit.caller, _project_id(visit))
    use = await model_usage.of_project(visit.desk.services, visit.caller, _project_id(visit), days=days)
    bars = bars_of(use)
    return visit.render(
        "usage.html",
        card=view.card,
        use=use,
        bars=bars,
        most=max((bar.total.charged for bar in bars), default=0),
        height=HEIGHT,
        width=sum(bar.width for bar in bars),
        days=days,
        periods=PERIODS,
    )


async def download(visit: Visit) -> Response:
    """Every row as CSV: one a day, member and model."""
    view = await report.project(visit.desk.services, visit.caller, _project_id(visit))
    use = await model_usage.of_project(visit.desk.services, visit.caller, _project_id(visit), days=_days(visit))
    out = io.StringIO()
    out.write("\ufeff")  # tells spreadsheets that this is UTF-8
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for row in use.rows:
        counts = (row.requests, row.prompt, row.cached, row.output, row.reasoning, row.charged, row.estimated)
        writer.writerow([row.day.isoformat(), harmless(row.who), harmless(row.model), *counts])
    name = f"tokens-{view.card.project.slug}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(out.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


async def tiers(visit: Visit) -> Response:
    """What each tier served, for those who award or administer."""
    days = _days(visit)
    found = await model_usage.tiers(visit.desk.services, visit.caller, days=days)
    return visit.render("tiers.html", tiers=found, days=days, periods=PERIODS)


def bars_of(use: ModelUse) -> list[Bar]:
    """The chart's bars, highest day at HEIGHT."""
    days = use.days
    most = max((total.charged for _, total in days), default=0)
    width = 12 if len(days) > 31 else 24
    return [
        Bar(day, total, number * width, width, max(total.charged * HEIGHT // most, 2) if total.charged else 0)
        for number, (day, total) in enumerate(days)
    ]


def _days(visit: Visit) -> int:
    text = visit.request.query_params.get("days", "")
    return int(text) if text.isascii() and text.isdigit() and int(text[:4]) in PERIODS else 30


def _project_id(visit: Visit) -> ProjectId:
    return ProjectId(str(visit.request.path_params["project_id"]))
