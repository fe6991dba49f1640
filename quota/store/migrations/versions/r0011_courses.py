"""Courses: a project's course attributes, roles beside the membership, invitations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "course",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("starts_us", sa.BigInteger(), nullable=False),
        sa.Column("ends_us", sa.BigInteger(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("gpu_ms_each", sa.BigInteger(), nullable=True),
        sa.Column("tokens_each", sa.BigInteger(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("retired_us", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("starts_us < ends_us", name=op.f("ck_course_dates")),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_course_project_id_project")),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_course")),
        sa.UniqueConstraint("slug", name=op.f("uq_course_slug")),
        comment="A project that teaches; its leads are the instructors. Rows stay after the end: grades hang on them.",
    )
    op.create_table(
        "course_person",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("since_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("role IN ('grader', 'student')", name=op.f("ck_course_person_role")),
        sa.ForeignKeyConstraint(["project_id"], ["course.project_id"], name=op.f("fk_course_person_project_id_course")),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_course_person_person_id_person")),
        sa.PrimaryKeyConstraint("project_id", "person_id", name=op.f("pk_course_person")),
        comment="What a member is in a course. Counts only while they are a member; leads need no row.",
    )
    op.create_index(op.f("ix_course_person_person_id"), "course_person", ["person_id"], unique=False)
    op.create_table(
        "course_invitation",
        sa.Column("code_hash", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.Column("made_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.CheckConstraint("role IN ('grader', 'student')", name=op.f("ck_course_invitation_role")),
        sa.CheckConstraint("used >= 0", name=op.f("ck_course_invitation_used")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["course.project_id"], name=op.f("fk_course_invitation_project_id_course")
        ),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("pk_course_invitation")),
        comment="Links that make a person a student or grader, under the hash of their code; a new one replaces those of its role.",
    )
    op.create_index(op.f("ix_course_invitation_project_id"), "course_invitation", ["project_id"], unique=False)
