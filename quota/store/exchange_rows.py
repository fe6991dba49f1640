"""The exchange's rows: `quota.service.exchange_ports.ExchangeRows`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, delete, func, select, update

from quota.domain.exchange import Assignment, Dates, Grade, Release, Stored, Submission, UploadKind, UploadOrder
from quota.domain.ids import PersonId, ProjectId
from quota.service.exchange_ports import UploadRow
from quota.store.exchange_tables import assignment, assignment_release, exchange_upload, feedback, grade, submission
from quota.store.instants import from_us, from_us_or_none, to_us, to_us_or_none
from quota.store.tables import person

_SINCE = (assignment.c.due_us, assignment.c.closes_us, assignment.c.withdrawn_us)


class SqlExchange:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def upload(self, upload_id: str) -> UploadRow | None:
        row = self._connection.execute(select(exchange_upload).where(exchange_upload.c.id == upload_id)).first()
        return None if row is None else _upload(row)

    def add_upload(self, row: UploadRow) -> None:
        self._connection.execute(
            exchange_upload.insert().values(
                id=row.order.id,
                project_id=row.project_id,
                person_id=row.person_id,
                body=_body(row.order),
                made_us=to_us(row.made_at),
                done_us=to_us_or_none(row.done_at),
            )
        )

    def finish_upload(self, upload_id: str, at: datetime) -> None:
        self._connection.execute(
            update(exchange_upload).where(exchange_upload.c.id == upload_id).values(done_us=to_us(at))
        )

    def forget_uploads(self, person_id: PersonId, before: datetime) -> Sequence[str]:
        """Remove this person's unfinished uploads that are older; their ids."""
        old = and_(
            exchange_upload.c.person_id == person_id,
            exchange_upload.c.done_us.is_(None),
            exchange_upload.c.made_us < to_us(before),
        )
        ids = self._connection.execute(select(exchange_upload.c.id).where(old)).scalars().all()
        if ids:
            self._connection.execute(delete(exchange_upload).where(old))
        return ids

    def open_uploads(self, person_id: PersonId) -> int:
        query = select(func.count()).where(
            exchange_upload.c.person_id == person_id, exchange_upload.c.done_us.is_(None)
        )
        return int(self._connection.execute(query).scalar_one())

    def add_release(self, row: UploadRow, bundle: Stored, at: datetime) -> None:
        """Write a release down, and make it what its name stands for, with its dates."""
        self._connection.execute(
            assignment_release.insert().values(
                id=row.order.id,
                project_id=row.project_id,
                name=row.order.assignment,
                sha256=bundle.sha256,
                size_bytes=bundle.size_bytes,
                notebooks=json.dumps(bundle.notebooks),
                released_by=row.person_id,
                released_us=to_us(at),
            )
        )
        now = {"release_id": row.order.id, "withdrawn_us": None, **_dates(row.order.dates)}
        known = update(assignment).where(*_named(row.project_id, row.order.assignment)).values(**now)
        if self._connection.execute(known).rowcount == 0:
            self._connection.execute(
                assignment.insert().values(project_id=row.project_id, name=row.order.assignment, **now)
            )

    def assignment(self, project_id: ProjectId, name: str) -> Assignment | None:
        row = self._connection.execute(_released(project_id).where(assignment.c.name == name)).first()
        return None if row is None else _assignment(row)

    def assignments(self, project_id: ProjectId) -> Sequence[Assignment]:
        """What is released now, by name."""
        return [_assignment(row) for row in self._connection.execute(_released(project_id))]

    def releases(self, project_id: ProjectId) -> Sequence[Release]:
        """All that was ever released, withdrawn or replaced since, by name and number."""
        query = (
            select(assignment_release, assignment.c.release_id, *_SINCE)
            .join(assignment, and_(*_named(project_id, assignment_release.c.name)))
            .where(assignment_release.c.project_id == project_id)
            .order_by(assignment_release.c.name, assignment_release.c.released_us, assignment_release.c.id)
        )
        found: list[Release] = []
        for row in self._connection.execute(query):
            number = found[-1].number + 1 if found and found[-1].name == row.name else 1
            bundle = Stored(row.sha256, row.size_bytes, tuple(json.loads(row.notebooks)))
            one = Release(row.name, number, bundle, from_us(row.released_us))
            if row.id == row.release_id:
                dates = Dates(from_us_or_none(row.due_us), from_us_or_none(row.closes_us))
                one = replace(one, dates=dates, withdrawn_at=from_us_or_none(row.withdrawn_us))
            found.append(one)
        return found

    def set_dates(self, project_id: ProjectId, name: str, dates: Dates) -> None:
        self._connection.execute(update(assignment).where(*_named(project_id, name)).values(**_dates(dates)))

    def withdraw(self, project_id: ProjectId, name: str, at: datetime) -> bool:
        """Take an assignment back; False where it is not out."""
        out = update(assignment).where(*_named(project_id, name), assignment.c.withdrawn_us.is_(None))
        return self._connection.execute(out.values(withdrawn_us=to_us(at))).rowcount == 1

    def add_submission(self, row: UploadRow, bundle: Stored, at: datetime, due_at: datetime | None) -> None:
        mine = and_(
            submission.c.project_id == row.project_id,
            submission.c.assignment == row.order.assignment,
            submission.c.person_id == row.person_id,
        )
        last = self._connection.execute(select(func.max(submission.c.number)).where(mine)).scalar() or 0
        self._connection.execute(
            submission.insert().values(
                id=row.order.id,
                project_id=row.project_id,
                assignment=row.order.assignment,
                person_id=row.person_id,
                number=last + 1,
                sha256=bundle.sha256,
                size_bytes=bundle.size_bytes,
                notebooks=json.dumps(bundle.notebooks),
                received_us=to_us(at),
                due_us=to_us_or_none(due_at),
            )
        )

    def submission(self, submission_id: str) -> Submission | None:
        found = self._submissions(_submitted().where(submission.c.id == submission_id))
        return found[0] if found else None

    def submissions(
        self, project_id: ProjectId, *, assignment: str | None, person_id: PersonId | None, newest_only: bool
    ) -> Sequence[Submission]:
        """By assignment, user name and number; `newest_only`: each person's last one."""
        query = _submitted().where(submission.c.project_id == project_id)
        if assignment is not None:
            query = query.where(submission.c.assignment == assignment)
        if person_id is not None:
            query = query.where(submission.c.person_id == person_id)
        found = self._submissions(query.order_by(submission.c.assignment, person.c.hub_name, submission.c.number))
        return list({(one.assignment, one.person_id): one for one in found}.values()) if newest_only else found

    def add_feedback(self, row: UploadRow, bundle: Stored, at: datetime) -> None:
        self._connection.execute(
            feedback.insert().values(
                id=row.order.id,
                submission_id=row.order.submission_id,
                sha256=bundle.sha256,
                size_bytes=bundle.size_bytes,
                made_by=row.person_id,
                made_us=to_us(at),
            )
        )

    def kept(self, kind: UploadKind, upload_id: str) -> tuple[Stored, datetime] | None:
        """What a finished upload of this kind became, and when."""
        table, at = {
            UploadKind.RELEASE: (assignment_release, "released_us"),
            UploadKind.SUBMISSION: (submission, "received_us"),
            UploadKind.FEEDBACK: (feedback, "made_us"),
        }[kind]
        query = select(table.c.sha256, table.c.size_bytes, table.c[at].label("at_us")).where(table.c.id == upload_id)
        row = self._connection.execute(query).first()
        return None if row is None else (Stored(row.sha256, row.size_bytes), from_us(row.at_us))

    def put_grades(self, project_id: ProjectId, grades: Sequence[Grade], by: PersonId | None) -> None:
        for one in grades:
            where = (
                grade.c.project_id == project_id,
                grade.c.assignment == one.assignment,
                grade.c.person_id == one.person_id,
            )
            values = {
                "score_milli": one.score_milli,
                "max_milli": one.max_milli,
                "late_penalty_milli": one.late_penalty_milli,
                "graded_by": by or "",
                "graded_us": to_us(one.graded_at),
            }
            if self._connection.execute(update(grade).where(*where).values(**values)).rowcount == 0:
                key = {"project_id": project_id, "assignment": one.assignment, "person_id": one.person_id}
                self._connection.execute(grade.insert().values(**key, **values))

    def grades(self, project_id: ProjectId, person_id: PersonId | None) -> Sequence[Grade]:
        """By assignment and user name."""
        query = (
            select(grade, person.c.hub_name)
            .join(person, person.c.id == grade.c.person_id)
            .where(grade.c.project_id == project_id)
            .order_by(grade.c.assignment, person.c.hub_name)
        )
        if person_id is not None:
            query = query.where(grade.c.person_id == person_id)
        return [
            Grade(
                PersonId(row.person_id),
                row.hub_name,
                row.assignment,
                row.score_milli,
                row.max_milli,
                row.late_penalty_milli,
                from_us(row.graded_us),
            )
            for row in self._connection.execute(query)
        ]

    def _submissions(self, query: Select[Any]) -> list[Submission]:
        rows = self._connection.execute(query).all()
        return [
            Submission(
                id=row.id,
                project_id=ProjectId(row.project_id),
                assignment=row.assignment,
                person_id=PersonId(row.person_id),
                hub_name=row.hub_name,
                number=row.number,
                bundle=Stored(row.sha256, row.size_bytes, tuple(json.loads(row.notebooks))),
                received_at=from_us(row.received_us),
                due_at=from_us_or_none(row.due_us),
                feedback=None if row.feedback_sha is None else Stored(row.feedback_sha, row.feedback_bytes),
            )
            for row in rows
        ]


def _submitted() -> Select[Any]:
    """Submissions with their owner's user name and their newest feedback."""
    newest = (
        select(feedback.c.id)
        .where(feedback.c.submission_id == submission.c.id)
        .order_by(feedback.c.made_us.desc(), feedback.c.id)
        .limit(1)
        .correlate(submission)
        .scalar_subquery()
    )
    said = feedback.c.sha256.label("feedback_sha"), feedback.c.size_bytes.label("feedback_bytes")
    return (
        select(submission, person.c.hub_name, *said)
        .join(person, person.c.id == submission.c.person_id)
        .outerjoin(feedback, feedback.c.id == newest)
    )


def _released(project_id: ProjectId) -> Select[Any]:
    newest = assignment_release.c
    return (
        select(assignment, newest.sha256, newest.size_bytes, newest.notebooks, newest.released_us)
        .join(assignment_release, newest.id == assignment.c.release_id)
        .where(assignment.c.project_id == project_id, assignment.c.withdrawn_us.is_(None))
        .order_by(assignment.c.name)
    )


def _named(project_id: ProjectId, name: Any) -> tuple[Any, Any]:
    return assignment.c.project_id == project_id, assignment.c.name == name


def _dates(dates: Dates) -> dict[str, int | None]:
    return {"due_us": to_us_or_none(dates.due_at), "closes_us": to_us_or_none(dates.closes_at)}


def _assignment(row: Row[Any]) -> Assignment:
    return Assignment(
        ProjectId(row.project_id),
        row.name,
        row.release_id,
        Stored(row.sha256, row.size_bytes, tuple(json.loads(row.notebooks))),
        from_us(row.released_us),
        Dates(from_us_or_none(row.due_us), from_us_or_none(row.closes_us)),
    )


def _body(order: UploadOrder) -> str:
    body = {
        "course": order.course,
        "kind": order.kind.value,
        "assignment": order.assignment,
        "size_bytes": order.size_bytes,
        "sha256": order.sha256,
        "submission_id": order.submission_id,
        **_dates(order.dates),
    }
    return json.dumps(body, sort_keys=True)


def _upload(row: Row[Any]) -> UploadRow:
    body = json.loads(row.body)
    dates = Dates(from_us_or_none(body.pop("due_us")), from_us_or_none(body.pop("closes_us")))
    order = UploadOrder(**{**body, "kind": UploadKind(body["kind"])}, id=row.id, dates=dates)
    return UploadRow(
        order, ProjectId(row.project_id), PersonId(row.person_id), from_us(row.made_us), from_us_or_none(row.done_us)
    )
