"""Fencing epochs, refunds, and adjustments that take another back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from quota.store.migrations.append_only import forbid_change

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ADJUSTMENT = (
    "Changes of awards, refused ones included, under the caller's id; `reverses` names the adjustment taken back."
)
_REVERSED_ONCE = "reverses IS NOT NULL AND refusal_code IS NULL"


def upgrade() -> None:
    op.create_table(
        "fence",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("taken_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("epoch > 0", name=op.f("ck_fence_epoch")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_fence")),
        comment="Of several processes of a name, the one whose epoch stands here may write.",
    )
    op.add_column("adjustment", sa.Column("reverses", sa.Text(), nullable=True))
    op.create_index(
        "uq_adjustment_reversed_once",
        "adjustment",
        ["reverses"],
        unique=True,
        sqlite_where=sa.text(_REVERSED_ONCE),
        postgresql_where=sa.text(_REVERSED_ONCE),
    )
    if op.get_bind().dialect.name != "sqlite":  # which keeps no comments
        op.create_table_comment("adjustment", _ADJUSTMENT)
    _make_refund()


def _make_refund() -> None:
    op.create_table(
        "refund",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("awarded_before", sa.BigInteger(), nullable=False),
        sa.Column("charged_before", sa.BigInteger(), nullable=False),
        sa.Column("held_before", sa.BigInteger(), nullable=False),
        sa.Column("refusal_code", sa.Text(), nullable=True),
        sa.Column("refusal_params", sa.Text(), nullable=True),
        sa.Column("body_hash", sa.Text(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_refund_amount")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refund")),
        comment="Charges given back, refused ones included, under the caller's id; `hold_id` names what they correct.",
    )
    op.create_index(op.f("ix_refund_hold_id"), "refund", ["hold_id"], unique=False)
    forbid_change("refund")
