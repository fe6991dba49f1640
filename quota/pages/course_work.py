"""A course's work on its page: assignments with their deadlines in the course's zone, what came in, grades; grades as CSV.

`quota.service.exchange` decides what a reader sees: who grades reads everybody's, students their own. A score is a whole number of
thousandths there, and is written as a decimal here.
"""

from __future__ import annotations

import asyncio
import csv
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from starlette.responses import HTMLResponse, Response, StreamingResponse

from quota.domain.course import Course, shown
from quota.domain.errors import Unknown
from quota.domain.exchange import Assignment, Grade, Submission
from quota.domain.ids import PersonId
from quota.pages.guard import FOREIGN
from quota.pages.statement import harmless
from quota.pages.visit import Visit
from quota.service import course_export, courses, exchange
from quota.service.courses import CourseView

_COLUMNS: Final = ("assignment", "user_name", "display_name", "score", "max", "late_penalty", "graded_at")


@dataclass(frozen=True, slots=True)
class Row:
    """One assignment as the page shows it; `mine` and `grade` are a student's own."""

    name: str
    due: str  # as a clock in the course's zone shows it; the course's end where none was set
    closes: str
    submitted: int  # people
    graded: int
    mine: Submission | None
    mine_at: str
    grade: Grade | None
    score: str


async def rows_of(visit: Visit, view: CourseView) -> Sequence[Row]:
    """The assignments that the reader may see, by name; none for an administrator who is not in the course."""
    if view.role is None:
        return ()
    services, caller, course = visit.desk.services, visit.caller, view.course
    _, released = await exchange.assignments(services, caller, course.slug)
    received = await exchange.submissions(services, caller, course.slug, None, newest_only=True)
    _, grades = await exchange.grades(services, caller, course.slug)
    return [_row(view, one, received, grades) for one in sorted(released, key=lambda one: one.name)]


def _row(view: CourseView, one: Assignment, received: Sequence[Submission], grades: Sequence[Grade]) -> Row:
    theirs = [s for s in received if s.assignment == one.name]
    graded = [g for g in grades if g.assignment == one.name]
    mine = None if view.is_staff or not theirs else theirs[-1]
    grade = None if view.is_staff or not graded else graded[-1]
    return Row(
        name=one.name,
        due=_when(one.dates.due_at or view.course.ends_at, view.course),
        closes=_when(one.dates.closes_at, view.course),
        submitted=len({s.person_id for s in theirs}),
        graded=len({g.person_id for g in graded}),
        mine=mine,
        mine_at=_when(None if mine is None else mine.received_at, view.course),
        grade=grade,
        score=""
        if grade is None
        else f"{points(grade.score_milli - grade.late_penalty_milli)} / {points(grade.max_milli)}",
    )


async def download(visit: Visit) -> Response:
    """Grades as CSV: everybody's for who grades, a student's own for a student."""
    slug = str(visit.request.path_params["slug"])
    view = await courses.view(visit.desk.services, visit.caller, slug)
    _, grades = await exchange.grades(visit.desk.services, visit.caller, slug)
    names = {one.person_id: one.display_name for one in view.people}
    names.setdefault(visit.caller.id, visit.caller.person.display_name)
    return Response(
        csv_of(grades, names),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="grades-{slug}.csv"'},
    )


async def feedback(visit: Visit) -> Response:
    """One notebook of a submission with what its graders say, in a sandbox: a student's own code wrote a part of it."""
    params = visit.request.path_params
    slug, submission_id = str(params["slug"]), str(params["submission_id"])
    kept = await exchange.feedback(visit.desk.services, visit.caller, slug, submission_id)
    bundle = exchange.objects_of(visit.desk.services).path(kept.sha256)
    page = await asyncio.to_thread(_page_of, bundle, f"{params['notebook']}.html")
    return HTMLResponse(page, headers={"Content-Security-Policy": FOREIGN})


def _page_of(bundle: Path, name: str) -> bytes:
    with tarfile.open(bundle, "r:") as archive:
        for member in archive:
            if member.name == name and (file := archive.extractfile(member)) is not None:
                return file.read()
    raise Unknown("feedback")


async def export(visit: Visit) -> Response:
    """Everything that the portal keeps of a course, for its instructors."""
    slug = str(visit.request.path_params["slug"])
    made = await course_export.archive(visit.desk.services, visit.caller, slug)
    headers = {"Content-Disposition": f'attachment; filename="{slug}.tar"'}
    return StreamingResponse(made.chunks(), media_type="application/x-tar", headers=headers)


def csv_of(grades: Sequence[Grade], names: Mapping[PersonId, str]) -> str:
    """One line a grade, by assignment and user name; no cell is run by a spreadsheet."""
    out = io.StringIO()
    out.write("\ufeff")  # tells spreadsheets that this is UTF-8
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for one in sorted(grades, key=lambda one: (one.assignment, one.hub_name)):
        texts = (one.assignment, one.hub_name, names.get(one.person_id, ""))
        numbers = (one.score_milli, one.max_milli, one.late_penalty_milli)
        at = one.graded_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        writer.writerow([*(harmless(text) for text in texts), *(points(number) for number in numbers), at])
    return out.getvalue()


def points(milli: int) -> str:
    """Thousandths of a point as a decimal: '9', '8.5'."""
    whole, rest = divmod(abs(milli), 1000)
    text = f"{whole}.{rest:03}".rstrip("0").rstrip(".")
    return f"-{text}" if milli < 0 else text


def _when(at: datetime | None, course: Course) -> str:
    return "" if at is None else shown(at, course.zone)
