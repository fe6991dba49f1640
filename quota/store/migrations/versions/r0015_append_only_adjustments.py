"""An award's change stands as it was written, as each entry does: a correction is a new adjustment that names the one it takes back."""

from __future__ import annotations

from quota.store.migrations.append_only import forbid_change

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    forbid_change("adjustment")
