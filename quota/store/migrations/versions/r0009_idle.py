"""What is remembered of a session's idleness."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "session_idle",
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("active_us", sa.BigInteger(), nullable=False),
        sa.Column("kept_until_us", sa.BigInteger(), nullable=True),
        sa.Column("told_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_session_idle")),
        comment="When a session's kernels were last seen to work, until when its owner keeps it, since when its notice stands.",
    )
