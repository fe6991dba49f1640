"""The exchange of courses: uploads, releases, submissions, feedback, grades."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from quota.store.migrations.append_only import forbid_change

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_T, _N = sa.Text(), sa.BigInteger()


def upgrade() -> None:
    _arrivals()
    _standing()
    for table in ("assignment_release", "submission", "feedback"):
        forbid_change(table)


def _column(name: str, kind: sa.Text | sa.BigInteger, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def _refers(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_{target.partition('.')[0]}")
    return sa.ForeignKeyConstraint([column], [target], name=name)


def _arrivals() -> None:
    _uploads_and_releases()
    _submissions_and_feedback()


def _uploads_and_releases() -> None:
    op.create_table(
        "exchange_upload",
        *(_column(name, _T) for name in ("id", "project_id", "person_id", "body")),
        _column("made_us", _N),
        _column("done_us", _N, null=True),
        _refers("exchange_upload", "project_id", "course.project_id"),
        _refers("exchange_upload", "person_id", "person.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exchange_upload")),
        comment="What somebody announced that they will send; the same id with another body is a conflict.",
    )
    op.create_index(
        op.f("ix_exchange_upload_person_id_done_us"), "exchange_upload", ["person_id", "done_us"], unique=False
    )
    op.create_table(
        "assignment_release",
        *(_column(name, _T) for name in ("id", "project_id", "name", "sha256")),
        _column("size_bytes", _N),
        _column("notebooks", _T),
        _column("released_by", _T),
        _column("released_us", _N),
        sa.CheckConstraint("size_bytes > 0", name=op.f("ck_assignment_release_size")),
        _refers("assignment_release", "project_id", "course.project_id"),
        _refers("assignment_release", "released_by", "person.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignment_release")),
    )
    op.create_index(op.f("ix_assignment_release_project_id"), "assignment_release", ["project_id"], unique=False)


def _submissions_and_feedback() -> None:
    op.create_table(
        "submission",
        *(_column(name, _T) for name in ("id", "project_id", "assignment", "person_id")),
        _column("number", _N),
        _column("sha256", _T),
        _column("size_bytes", _N),
        _column("notebooks", _T),
        _column("received_us", _N),
        _column("due_us", _N, null=True),
        sa.CheckConstraint("number > 0", name=op.f("ck_submission_number")),
        sa.CheckConstraint("size_bytes > 0", name=op.f("ck_submission_size")),
        _refers("submission", "project_id", "course.project_id"),
        _refers("submission", "person_id", "person.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_submission")),
        sa.UniqueConstraint(
            "project_id",
            "assignment",
            "person_id",
            "number",
            name=op.f("uq_submission_project_id_assignment_person_id_number"),
        ),
        comment="A row is a receipt: what arrived, when by the server's clock, and what was due then.",
    )
    op.create_index(op.f("ix_submission_person_id"), "submission", ["person_id"], unique=False)
    op.create_table(
        "feedback",
        *(_column(name, _T) for name in ("id", "submission_id", "sha256")),
        _column("size_bytes", _N),
        _column("made_by", _T),
        _column("made_us", _N),
        _refers("feedback", "submission_id", "submission.id"),
        _refers("feedback", "made_by", "person.id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
        comment="The newest of a submission counts.",
    )
    op.create_index(op.f("ix_feedback_submission_id"), "feedback", ["submission_id"], unique=False)


def _standing() -> None:
    op.create_table(
        "assignment",
        *(_column(name, _T) for name in ("project_id", "name", "release_id")),
        *(_column(name, _N, null=True) for name in ("due_us", "closes_us", "withdrawn_us")),
        _refers("assignment", "project_id", "course.project_id"),
        _refers("assignment", "release_id", "assignment_release.id"),
        sa.PrimaryKeyConstraint("project_id", "name", name=op.f("pk_assignment")),
        comment="What a name stands for now: its newest release, and when it is due.",
    )
    op.create_table(
        "grade",
        *(_column(name, _T) for name in ("project_id", "assignment", "person_id")),
        *(_column(name, _N) for name in ("score_milli", "max_milli", "late_penalty_milli")),
        _column("graded_by", _T),
        _column("graded_us", _N),
        sa.CheckConstraint("max_milli >= 0 AND late_penalty_milli >= 0", name=op.f("ck_grade_points")),
        _refers("grade", "project_id", "course.project_id"),
        _refers("grade", "person_id", "person.id"),
        sa.PrimaryKeyConstraint("project_id", "assignment", "person_id", name=op.f("pk_grade")),
        comment="Thousandths of a point, as the course's gradebook last said.",
    )
    op.create_index(op.f("ix_grade_person_id"), "grade", ["person_id"], unique=False)
