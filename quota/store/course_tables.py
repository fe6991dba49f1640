"""The tables of courses. quota.store.tables has the rest.

Invariant: a course's row stays after its end, because grades and what was charged hang on it.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, PrimaryKeyConstraint, Table, Text, UniqueConstraint

from quota.store.columns import check, int_column, metadata, text_column

course = Table(
    "course",
    metadata,
    Column("project_id", Text, ForeignKey("project.id"), primary_key=True),
    text_column("slug"),
    text_column("title"),
    int_column("starts_us"),
    int_column("ends_us"),
    text_column("zone"),
    int_column("gpu_ms_each", null=True),
    int_column("tokens_each", null=True),
    int_column("created_us"),
    int_column("retired_us", null=True),
    UniqueConstraint("slug"),
    check("dates", "starts_us < ends_us"),
    comment="A project that teaches; its leads are the instructors. Rows stay after the end: grades hang on them.",
)
course_person = Table(
    "course_person",
    metadata,
    Column("project_id", Text, ForeignKey("course.project_id"), nullable=False),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False, index=True),
    text_column("role"),
    int_column("since_us"),
    PrimaryKeyConstraint("project_id", "person_id"),
    check("role", "role IN ('grader', 'student')"),
    comment="What a member is in a course. Counts only while they are a member; leads need no row.",
)
course_invitation = Table(
    "course_invitation",
    metadata,
    Column("code_hash", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("course.project_id"), nullable=False, index=True),
    text_column("role"),
    text_column("made_by"),
    int_column("made_us"),
    int_column("expires_us"),
    int_column("used", default=0),
    check("role", "role IN ('grader', 'student')"),
    check("used", "used >= 0"),
    comment="Links that make a person a student or grader, under the hash of their code; a new one replaces those of its role.",
)
