"""Signed checkpoints, from which `verify` starts; usage records are found by their link."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from quota.store.migrations.append_only import forbid_change

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoint",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_link", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoint")),
        sa.UniqueConstraint("prev_hash", name=op.f("uq_checkpoint_prev_hash")),
        comment="What the books said at an entry, proved and signed: `verify` starts from the newest.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_usage_record_link"), "usage_record", ["link"], unique=False)
    forbid_change("checkpoint")
