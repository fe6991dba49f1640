"""A hold's only line follows from the hold: it is written once a second one comes. What was written before is taken out."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM hold_line WHERE hold_id IN (SELECT id FROM hold WHERE line_count = 1)")
