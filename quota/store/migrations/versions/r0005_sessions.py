"""What is wanted of a session beside what is seen of it, extensions, and what POLICY does to allocations and projects."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATES = "'held', 'starting', 'pending', 'running', 'unknown', 'stopping', 'settled', 'failed', 'refused'"
_OPEN = "state NOT IN ('settled', 'failed', 'refused')"


def upgrade() -> None:
    op.drop_index("ix_session_unfinished", "session")
    with op.batch_alter_table("session", table_kwargs={"comment": None}) as table:
        table.add_column(sa.Column("target", sa.Text(), nullable=False, server_default="running"))
        table.add_column(sa.Column("stop_us", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("extended_s", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
        table.add_column(sa.Column("waiting_us", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("asked_us", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("suspended", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("note", sa.Text(), nullable=False, server_default=""))
        table.add_column(sa.Column("tries", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
        table.add_column(sa.Column("next_try_us", sa.BigInteger(), nullable=True))
        table.drop_constraint(op.f("ck_session_state"), type_="check")
        table.create_check_constraint(op.f("ck_session_state"), f"state IN ({_STATES})")
        table.create_check_constraint(op.f("ck_session_target"), "target IN ('running', 'stopped')")
        table.create_check_constraint(op.f("ck_session_extended"), "extended_s >= 0")
    op.create_index(
        "ix_session_open", "session", ["held_us"], sqlite_where=sa.text(_OPEN), postgresql_where=sa.text(_OPEN)
    )
    if op.get_bind().dialect.name != "sqlite":  # which keeps no comments
        op.create_table_comment(
            "session",
            "target and stop_us are what people and policy want; the other columns are what reconciliation saw.",
        )
    _make_extension()
    op.add_column("allocation", sa.Column("revoked", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("allocation", sa.Column("target_awarded", sa.BigInteger(), nullable=True))
    op.add_column("project", sa.Column("without_pi_us", sa.BigInteger(), nullable=True))


def _make_extension() -> None:
    op.create_table(
        "session_extension",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("seconds", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("asked_us", sa.BigInteger(), nullable=False),
        sa.Column("ends_us", sa.BigInteger(), nullable=False),
        sa.Column("refusal_code", sa.Text(), nullable=True),
        sa.Column("refusal_params", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('asked', 'applied', 'undone', 'refused')", name=op.f("ck_session_extension_state")
        ),
        sa.CheckConstraint("seconds > 0", name=op.f("ck_session_extension_seconds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_session_extension")),
        comment="Extensions under the caller's id: the further hold first, then the backend's limit; undone where the backend refuses.",
    )
    op.create_index(op.f("ix_session_extension_hold_id"), "session_extension", ["hold_id"], unique=False)
    op.create_index(
        "ix_session_extension_open",
        "session_extension",
        ["asked_us"],
        sqlite_where=sa.text("state = 'asked'"),
        postgresql_where=sa.text("state = 'asked'"),
    )
