"""The tables of the exchange. quota.store.tables has the rest.

Invariant: releases, submissions and feedback are append-only, under the ids that their senders gave; a submission's row is its receipt.
Bytes lie in the data folder under their own hash.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, PrimaryKeyConstraint, Table, Text, UniqueConstraint

from quota.store.columns import check, int_column, metadata, text_column

exchange_upload = Table(
    "exchange_upload",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("course.project_id"), nullable=False),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False),
    text_column("body"),
    int_column("made_us"),
    int_column("done_us", null=True),
    Index(None, "person_id", "done_us"),
    comment="What somebody announced that they will send; the same id with another body is a conflict.",
)
assignment_release = Table(
    "assignment_release",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("course.project_id"), nullable=False, index=True),
    text_column("name"),
    text_column("sha256"),
    int_column("size_bytes"),
    text_column("notebooks"),
    Column("released_by", Text, ForeignKey("person.id"), nullable=False),
    int_column("released_us"),
    check("size", "size_bytes > 0"),
)
assignment = Table(
    "assignment",
    metadata,
    Column("project_id", Text, ForeignKey("course.project_id"), nullable=False),
    text_column("name"),
    Column("release_id", Text, ForeignKey("assignment_release.id"), nullable=False),
    int_column("due_us", null=True),
    int_column("closes_us", null=True),
    int_column("withdrawn_us", null=True),
    PrimaryKeyConstraint("project_id", "name"),
    comment="What a name stands for now: its newest release, and when it is due.",
)
submission = Table(
    "submission",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("course.project_id"), nullable=False),
    text_column("assignment"),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False, index=True),
    int_column("number"),
    text_column("sha256"),
    int_column("size_bytes"),
    text_column("notebooks"),
    int_column("received_us"),
    int_column("due_us", null=True),
    UniqueConstraint("project_id", "assignment", "person_id", "number"),
    check("number", "number > 0"),
    check("size", "size_bytes > 0"),
    comment="A row is a receipt: what arrived, when by the server's clock, and what was due then.",
)
feedback = Table(
    "feedback",
    metadata,
    Column("id", Text, primary_key=True),
    Column("submission_id", Text, ForeignKey("submission.id"), nullable=False, index=True),
    text_column("sha256"),
    int_column("size_bytes"),
    Column("made_by", Text, ForeignKey("person.id"), nullable=False),
    int_column("made_us"),
    comment="The newest of a submission counts.",
)
grade = Table(
    "grade",
    metadata,
    Column("project_id", Text, ForeignKey("course.project_id"), nullable=False),
    text_column("assignment"),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False, index=True),
    int_column("score_milli"),
    int_column("max_milli"),
    int_column("late_penalty_milli"),
    text_column("graded_by"),
    int_column("graded_us"),
    PrimaryKeyConstraint("project_id", "assignment", "person_id"),
    check("points", "max_milli >= 0 AND late_penalty_milli >= 0"),
    comment="Thousandths of a point, as the course's gradebook last said.",
)
APPEND_ONLY = ("assignment_release", "submission", "feedback")
