"""Routes of a course's exchange: what nbgrader's clients call, with the token of a session or of a person.

Who it is comes from the token alone; the course in the path and the caller's role there decide (quota.service.exchange, .uploads).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import Field

from quota.api import views
from quota.api.bodies import Body, HubName, Id, Instant, PathId
from quota.api.errors import error_response, refused_response
from quota.api.principals import Exchanger, PartsDep
from quota.domain.course import CoursePhase
from quota.domain.errors import Invalid, Refused
from quota.domain.exchange import (
    NAME_PATTERN,
    POINTS_MILLI_MAX,
    SHA256,
    Assignment,
    Dates,
    Grade,
    GradeLine,
    Stored,
    Submission,
    UploadKind,
    UploadOrder,
)
from quota.service import exchange, uploads
from quota.service.exchange import Seat
from quota.service.uploads import Upload, WrongOffset

router = APIRouter(prefix="/exchange", tags=["people"])
Slug = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{1,39}$")]
Name = Annotated[str, Path(pattern=NAME_PATTERN)]
Points = Annotated[int, Field(ge=-POINTS_MILLI_MAX, le=POINTS_MILLI_MAX)]
_CSV = "text/csv; charset=utf-8"


class DatesBody(Body):
    due_at: Instant | None
    closes_at: Instant | None

    def dates(self) -> Dates:
        return Dates(self.due_at, self.closes_at)


class UploadBody(Body):
    course: str = Field(pattern=r"^[a-z][a-z0-9-]{1,39}$")
    kind: UploadKind = Field(strict=False)
    assignment: str = Field(pattern=NAME_PATTERN)
    size_bytes: int = Field(ge=1, le=2**40)
    sha256: str = Field(pattern=SHA256)
    due_at: Instant | None = None
    closes_at: Instant | None = None
    submission_id: Id | None = None

    def order(self, upload_id: str) -> UploadOrder:
        return UploadOrder(
            id=upload_id,
            course=self.course,
            kind=self.kind,
            assignment=self.assignment,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            dates=Dates(self.due_at, self.closes_at),
            submission_id=self.submission_id or "",
        )


class GradeBody(Body):
    student: HubName
    score_milli: Points
    max_milli: int = Field(ge=0, le=POINTS_MILLI_MAX)
    late_penalty_milli: int = Field(0, ge=0, le=POINTS_MILLI_MAX)


class GradesBody(Body):
    grades: list[GradeBody] = Field(min_length=1, max_length=2000)


@router.get("/courses")
async def get_courses(parts: PartsDep, caller: Exchanger) -> views.Json:
    """The courses in which the caller is something."""
    at = parts.services.clock.now()
    found = await exchange.courses(parts.services, caller)
    return {"hub_name": caller.person.hub_name, "courses": [_course(seat, seat.course.phase_at(at)) for seat in found]}


@router.get("/courses/{course}/assignments")
async def get_assignments(parts: PartsDep, caller: Exchanger, course: Slug) -> views.Json:
    """What is released now."""
    seat, found = await exchange.assignments(parts.services, caller, course)
    return {"role": seat.role.value, "assignments": [_assignment(one) for one in found]}


@router.get("/courses/{course}/assignments/{name}/bundle")
async def get_assignment_bundle(parts: PartsDep, caller: Exchanger, course: Slug, name: Name) -> Response:
    """The released files, as a tar."""
    return _bytes(parts, await exchange.assignment_bundle(parts.services, caller, course, name))


@router.put("/courses/{course}/assignments/{name}/dates")
async def put_dates(parts: PartsDep, caller: Exchanger, course: Slug, name: Name, body: DatesBody) -> views.Json:
    """When it is due and when it closes; null: the course's end."""
    return _assignment(await exchange.set_dates(parts.services, caller, course, name, body.dates()))


@router.post("/courses/{course}/assignments/{name}/withdraw")
async def post_withdraw(parts: PartsDep, caller: Exchanger, course: Slug, name: Name) -> views.Json:
    """Take an assignment back; what was submitted stays."""
    await exchange.withdraw(parts.services, caller, course, name)
    return {"withdrawn": True}


@router.put("/courses/{course}/assignments/{name}/grades")
async def put_grades(parts: PartsDep, caller: Exchanger, course: Slug, name: Name, body: GradesBody) -> views.Json:
    """Replace what the named students have for an assignment."""
    lines = [GradeLine(**one.model_dump()) for one in body.grades]
    return {"grades": await exchange.put_grades(parts.services, caller, course, name, lines)}


@router.get("/courses/{course}/grades")
async def get_grades(parts: PartsDep, caller: Exchanger, course: Slug) -> views.Json:
    """Everybody's for those who grade, one's own for students."""
    seat, found = await exchange.grades(parts.services, caller, course)
    return {"role": seat.role.value, "grades": [_grade(one) for one in found]}


@router.get("/courses/{course}/grades.csv")
async def get_grades_csv(parts: PartsDep, caller: Exchanger, course: Slug) -> Response:
    """The same as a table."""
    _, found = await exchange.grades(parts.services, caller, course)
    headers = {"Content-Disposition": f'attachment; filename="{course}-grades.csv"', "Cache-Control": "no-store"}
    return Response(_table(found), media_type=_CSV, headers=headers)


@router.get("/courses/{course}/submissions")
async def get_submissions(
    parts: PartsDep,
    caller: Exchanger,
    course: Slug,
    assignment: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
    newest: Annotated[str, Query(pattern="^[01]$")] = "0",
) -> views.Json:
    """Receipts: everybody's, with people's names, for those who grade, one's own for students; `newest=1`: each person's last one."""
    found = await exchange.submissions(parts.services, caller, course, assignment, newest_only=newest == "1")
    names = await exchange.names(parts.services, caller, course)
    return {"submissions": [_submission(one) for one in found], **({"names": names} if names else {})}


@router.get("/courses/{course}/submissions/{submission_id}")
async def get_submission(parts: PartsDep, caller: Exchanger, course: Slug, submission_id: PathId) -> views.Json:
    """A receipt."""
    return _submission(await exchange.submission(parts.services, caller, course, submission_id))


@router.get("/courses/{course}/submissions/{submission_id}/bundle")
async def get_submission_bundle(parts: PartsDep, caller: Exchanger, course: Slug, submission_id: PathId) -> Response:
    """The submitted files, as a tar."""
    return _bytes(parts, (await exchange.submission(parts.services, caller, course, submission_id)).bundle)


@router.get("/courses/{course}/submissions/{submission_id}/feedback")
async def get_feedback(parts: PartsDep, caller: Exchanger, course: Slug, submission_id: PathId) -> Response:
    """The newest feedback, as a tar."""
    return _bytes(parts, await exchange.feedback(parts.services, caller, course, submission_id))


@router.put("/uploads/{upload_id}", status_code=201, response_model=None)
async def put_upload(
    request: Request, response: Response, parts: PartsDep, caller: Exchanger, upload_id: PathId, body: UploadBody
) -> views.Json | JSONResponse:
    """Announce an upload; again: how far it is."""
    begun = await uploads.begin(parts.services, caller, body.order(upload_id))
    if isinstance(begun, Refused):
        return refused_response(request, begun)
    response.status_code = 200 if begun.offset else 201
    return _upload(begun)


@router.get("/uploads/{upload_id}")
async def get_upload(parts: PartsDep, caller: Exchanger, upload_id: PathId) -> views.Json:
    """How far an upload of one's own is."""
    return _upload(await uploads.look(parts.services, caller, upload_id))


@router.patch("/uploads/{upload_id}", response_model=None)
async def patch_upload(
    request: Request,
    parts: PartsDep,
    caller: Exchanger,
    upload_id: PathId,
    offset: Annotated[str, Header(alias="Upload-Offset", pattern=r"^[0-9]{1,15}$")],
) -> views.Json | JSONResponse:
    """Send a part, which begins at `Upload-Offset`."""
    if request.headers.get("content-type", "") != "application/octet-stream":
        raise Invalid([("Content-Type", "wrong_type")])
    sent = await uploads.send(parts.services, caller, upload_id, int(offset), request.stream())
    return _elsewhere(request, sent) if isinstance(sent, WrongOffset) else _upload(sent)


@router.post("/uploads/{upload_id}/finish", response_model=None)
async def post_finish(
    request: Request, parts: PartsDep, caller: Exchanger, upload_id: PathId
) -> views.Json | JSONResponse:
    """Store what was sent; the answer is the receipt, the same however often it is asked for."""
    done = await uploads.finish(parts.services, caller, upload_id)
    if isinstance(done, Refused):
        return refused_response(request, done)
    return _elsewhere(request, done) if isinstance(done, WrongOffset) else _upload(done)


def _elsewhere(request: Request, wrong: WrongOffset) -> JSONResponse:
    return error_response(request, "wrong_offset", {"offset": wrong.offset})


def _bytes(parts: PartsDep, stored: Stored) -> Response:
    """A bundle as a file that no browser shows."""
    path = exchange.objects_of(parts.services).path(stored.sha256)
    headers = {
        "ETag": f'"{stored.sha256}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": "attachment",
    }
    return FileResponse(path, media_type="application/x-tar", headers=headers)


def _course(seat: Seat, phase: CoursePhase) -> views.Json:
    one = seat.course
    return {
        "course": one.slug,
        "title": one.title,
        "role": seat.role.value,
        "phase": phase.value,
        "starts_at": views.instant(one.starts_at),
        "ends_at": views.instant(one.over_at),
        "zone": one.zone,
    }


def _stored(one: Stored) -> views.Json:
    return {"sha256": one.sha256, "size_bytes": one.size_bytes}


def _assignment(one: Assignment) -> views.Json:
    return {
        "assignment": one.name,
        "release_id": one.release_id,
        "released_at": views.instant(one.released_at),
        "due_at": views.instant(one.dates.due_at),
        "closes_at": views.instant(one.dates.closes_at),
        "notebooks": list(one.bundle.notebooks),
        **_stored(one.bundle),
    }


def _submission(one: Submission) -> views.Json:
    return {
        "submission_id": one.id,
        "assignment": one.assignment,
        "student": one.hub_name,
        "number": one.number,
        "received_at": views.instant(one.received_at),
        "due_at": views.instant(one.due_at),
        "late": one.late,
        "notebooks": list(one.bundle.notebooks),
        **_stored(one.bundle),
        "feedback": None if one.feedback is None else _stored(one.feedback),
    }


def _upload(one: Upload) -> views.Json:
    done = None if one.kept is None else {"at": views.instant(one.at), **_stored(one.kept)}
    return {
        "upload_id": one.order.id,
        "kind": one.order.kind.value,
        "offset": one.offset,
        "size_bytes": one.order.size_bytes,
        "receipt": done,
    }


def _grade(one: Grade) -> views.Json:
    return {
        "assignment": one.assignment,
        "student": one.hub_name,
        "score_milli": one.score_milli,
        "max_milli": one.max_milli,
        "late_penalty_milli": one.late_penalty_milli,
        "graded_at": views.instant(one.graded_at),
    }


def _table(grades: Sequence[Grade]) -> str:
    """CSV; what a spreadsheet could take for a formula is quoted as text."""
    lines = io.StringIO()
    table = csv.writer(lines)
    table.writerow(["assignment", "student", "score", "max_score", "late_penalty", "graded_at"])
    for one in grades:
        points = [_points(milli) for milli in (one.score_milli, one.max_milli, one.late_penalty_milli)]
        names = [_text(one.assignment), _text(one.hub_name)]
        table.writerow([*names, *points, views.instant(one.graded_at)])
    return lines.getvalue()


def _points(milli: int) -> str:
    whole, rest = divmod(abs(milli), 1000)
    return f"{'-' if milli < 0 else ''}{whole}" + (f".{rest:03}".rstrip("0") if rest else "")


def _text(cell: str) -> str:
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell
