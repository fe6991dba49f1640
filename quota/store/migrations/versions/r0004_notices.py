"""Notices, the outbox of their mails, and what people chose."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from quota.store.columns import Serial

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notice",
        sa.Column("seq", Serial, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("occasion", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=True),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=True),
        sa.Column("read_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_notice_person_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_notice")),
        sa.UniqueConstraint("id", name=op.f("uq_notice_id")),
        comment="seq grows in the order of commits: Store transactions run one after the other. id follows from what makes it one notice.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_notice_person_id_seq"), "notice", ["person_id", "seq"], unique=False)
    unread = sa.text("read_us IS NULL")
    op.create_index(
        "ix_notice_unread", "notice", ["person_id"], unique=False, sqlite_where=unread, postgresql_where=unread
    )
    op.create_table(
        "mail",
        sa.Column("notice_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("failures", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.Column("claimed_until_us", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("sent_us", sa.BigInteger(), nullable=True),
        sa.Column("reply", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('queued', 'sent', 'given_up')", name=op.f("ck_mail_state")),
        sa.ForeignKeyConstraint(["notice_id"], ["notice.id"], name=op.f("fk_mail_notice_id")),
        sa.PrimaryKeyConstraint("notice_id", name=op.f("pk_mail")),
        comment="The outbox: written in the notice's transaction; address and language are looked up when it is sent.",
    )
    queued = sa.text("state = 'queued'")
    op.create_index("ix_mail_queued", "mail", ["due_us"], unique=False, sqlite_where=queued, postgresql_where=queued)
    op.create_table(
        "notice_choice",
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("mails", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_notice_choice_person_id")),
        sa.PrimaryKeyConstraint("person_id", name=op.f("pk_notice_choice")),
        comment="What a person chose; a sign-in does not change it.",
    )
