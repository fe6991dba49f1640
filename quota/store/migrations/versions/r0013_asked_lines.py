"""What a top-up asked for, also once it is taken back: a repeat is compared with it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hold_line", sa.Column("asked", sa.BigInteger(), nullable=True))
