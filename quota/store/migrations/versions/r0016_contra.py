"""An entry may name the bucket of the same account that moved the other way, and is then both sides of it; `posting` shows each side.

What was written before stays as it is, in two entries: its hashes, checkpoints and archives hold. Words are compared one by one, for
which SQLite needs no table (see 0014).
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_ALIKE = "seq, link, txn_id, account_id, {bucket} AS bucket, {amount} AS amount, hold_id, usage_ref, kind, at_us, actor"


def upgrade() -> None:
    one_of = "contra = 'available' OR contra = 'held' OR contra = 'charged'"
    op.execute(
        "ALTER TABLE entry ADD COLUMN contra TEXT CONSTRAINT ck_entry_contra CHECK "
        f"(contra IS NULL OR (({one_of}) AND contra <> bucket AND bucket <> 'pool'))"
    )
    op.execute(
        f"CREATE VIEW posting AS SELECT {_ALIKE.format(bucket='bucket', amount='amount')} FROM entry UNION ALL "  # noqa: S608
        f"SELECT {_ALIKE.format(bucket='contra', amount='-amount')} FROM entry WHERE contra IS NOT NULL"
    )
