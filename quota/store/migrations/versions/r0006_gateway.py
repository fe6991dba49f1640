"""The gateway: personal keys, shared rate windows, kept answers; usage of models by time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gateway_key",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("models", sa.Text(), nullable=True),
        sa.Column("tokens_max", sa.BigInteger(), nullable=True),
        sa.Column("requests_per_minute", sa.BigInteger(), nullable=True),
        sa.Column("tokens_per_minute", sa.BigInteger(), nullable=True),
        sa.Column("made_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_gateway_key_person_id")),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_gateway_key_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gateway_key")),
    )
    op.create_index(op.f("ix_gateway_key_project_id"), "gateway_key", ["project_id"], unique=False)
    op.create_table(
        "rate_window",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("requests >= 0 AND tokens >= 0", name=op.f("ck_rate_window_amounts")),
        sa.PrimaryKeyConstraint("key_id", "minute", name=op.f("pk_rate_window")),
        comment="What the gateway's processes have taken of a key's minute; only where several of them share a database.",
    )
    op.create_table(
        "kept_answer",
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_kept_answer")),
        comment="Answers to requests with an Idempotency-Key, sealed with the client's own key.",
    )
    op.create_index(op.f("ix_kept_answer_until_us"), "kept_answer", ["until_us"], unique=False)
    gateways = sa.text("source = 'gateway'")
    op.create_index(
        "ix_usage_record_gateway", "usage_record", ["to_us"], sqlite_where=gateways, postgresql_where=gateways
    )
