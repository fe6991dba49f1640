"""The ledger: accounts, holds, usage, entries, chains, audit; append-only by trigger on both engines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from quota.store.migrations.append_only import forbid_change

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _accounts()
    _adjustments()
    _audit()
    _entries()
    _holds()
    _open_holds()
    _lines()
    _chain()
    _limits()
    _usage()
    _allocations()
    _first_rows()


def _accounts() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=True),
        sa.Column("period_start_us", sa.BigInteger(), nullable=True),
        sa.Column("period_end_us", sa.BigInteger(), nullable=True),
        sa.Column("awarded", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("charged", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("held", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("overdraft_limit", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("overdraft_used", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("frozen", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("kind IN ('allocation', 'pool')", name=op.f("ck_account_kind")),
        sa.CheckConstraint("unit IN ('gpu_ms', 'tokens')", name=op.f("ck_account_unit")),
        sa.CheckConstraint("awarded BETWEEN 0 AND 4611686018427387904", name=op.f("ck_account_awarded")),
        sa.CheckConstraint("charged + held <= awarded + overdraft_used", name=op.f("ck_account_balance")),
        sa.CheckConstraint("charged >= 0", name=op.f("ck_account_charged")),
        sa.CheckConstraint("held >= 0", name=op.f("ck_account_held")),
        sa.CheckConstraint("overdraft_used BETWEEN 0 AND overdraft_limit", name=op.f("ck_account_overdraft")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
    )


def _adjustments() -> None:
    op.create_table(
        "adjustment",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("delta", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("awarded_before", sa.BigInteger(), nullable=False),
        sa.Column("charged_before", sa.BigInteger(), nullable=False),
        sa.Column("held_before", sa.BigInteger(), nullable=False),
        sa.Column("refusal_code", sa.Text(), nullable=True),
        sa.Column("refusal_params", sa.Text(), nullable=True),
        sa.Column("body_hash", sa.Text(), nullable=False),
        sa.CheckConstraint("kind IN ('deposit', 'adjustment')", name=op.f("ck_adjustment_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adjustment")),
        comment="Changes of awards, refused ones included, under the caller's id.",
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("prev_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("on_behalf_of", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
        comment="seq has no gaps: it is given under a lock, one more than the head.",
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("head_hash", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_head_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )


def _entries() -> None:
    op.create_table(
        "entry",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("link", sa.BigInteger(), nullable=False),
        sa.Column("txn_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("hold_id", sa.Text(), nullable=True),
        sa.Column("usage_ref", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.CheckConstraint("bucket IN ('available', 'held', 'charged', 'pool')", name=op.f("ck_entry_bucket")),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_entry_amount")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_entry")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_entry_account_id_seq"), "entry", ["account_id", "seq"], unique=False)


def _holds() -> None:
    op.create_table(
        "hold",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.Column("next_seq", sa.BigInteger(), nullable=False),
        sa.Column("line_count", sa.BigInteger(), nullable=False),
        sa.Column("limit_count", sa.BigInteger(), nullable=False),
        sa.Column("placed_us", sa.BigInteger(), nullable=False),
        sa.Column("lease_until_us", sa.BigInteger(), nullable=False),
        sa.Column("charged_to_us", sa.BigInteger(), nullable=True),
        sa.Column("closed_us", sa.BigInteger(), nullable=True),
        sa.Column("close_reason", sa.Text(), nullable=True),
        sa.Column("body_hash", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("refusal_code", sa.Text(), nullable=True),
        sa.Column("refusal_params", sa.Text(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(state = 'refused') = (refusal_code IS NOT NULL)", name=op.f("ck_hold_refusal")),
        sa.CheckConstraint("kind IN ('session', 'request')", name=op.f("ck_hold_kind")),
        sa.CheckConstraint(
            "state IN ('held', 'settled', 'released', 'expired', 'refused')", name=op.f("ck_hold_state")
        ),
        sa.CheckConstraint("0 <= charged AND charged <= amount", name=op.f("ck_hold_amounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hold")),
        comment="amount and charged are the sums of the hold's lines; a refused hold keeps what was asked for.",
    )


def _open_holds() -> None:
    op.create_index(
        "ix_hold_open",
        "hold",
        ["kind", "placed_us"],
        unique=False,
        sqlite_where=sa.text("state = 'held'"),
        postgresql_where=sa.text("state = 'held'"),
    )


def _lines() -> None:
    op.create_table(
        "hold_limit",
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("limit_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("0 <= charged AND charged <= amount", name=op.f("ck_hold_limit_amounts")),
        sa.PrimaryKeyConstraint("hold_id", "limit_id", name=op.f("pk_hold_limit")),
    )
    op.create_table(
        "hold_line",
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("line_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('hold', 'top_up', 'overrun')", name=op.f("ck_hold_line_kind")),
        sa.CheckConstraint("0 <= charged AND charged <= amount", name=op.f("ck_hold_line_amounts")),
        sa.PrimaryKeyConstraint("hold_id", "line_id", name=op.f("pk_hold_line")),
    )


def _chain() -> None:
    op.create_table(
        "ledger_epoch",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("links", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("head_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_epoch")),
        comment="One row a writer's start: the fencing epoch of what it writes and the head of its own hash chain.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "ledger_link",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("prev_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("usages", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_link")),
        sa.UniqueConstraint("epoch", "n", name=op.f("uq_ledger_link_epoch_n")),
        comment="One row a committed batch: the hash over its entries and usage records, chained within its epoch.",
        sqlite_autoincrement=True,
    )


def _limits() -> None:
    op.create_table(
        "limit_counter",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("cap", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("held", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("beyond_cap", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("kind IN ('member', 'day', 'simultaneous')", name=op.f("ck_limit_counter_kind")),
        sa.CheckConstraint("charged + held <= cap + beyond_cap", name=op.f("ck_limit_counter_cap")),
        sa.CheckConstraint("charged >= 0 AND held >= 0 AND beyond_cap >= 0", name=op.f("ck_limit_counter_amounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_limit_counter")),
        comment="beyond_cap: what stands beyond the cap since it was lowered or usage overran; new holds never add to it.",
    )
    op.create_table(
        "refused_line",
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("line_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("refusal_code", sa.Text(), nullable=False),
        sa.Column("refusal_params", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hold_id", "line_id", name=op.f("pk_refused_line")),
    )


def _usage() -> None:
    op.create_table(
        "usage_record",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("from_us", sa.BigInteger(), nullable=False),
        sa.Column("to_us", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("overrun", sa.BigInteger(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("payload_hash", sa.Text(), nullable=False),
        sa.Column("link", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount >= 0 AND overrun BETWEEN 0 AND amount", name=op.f("ck_usage_record_amounts")),
        sa.CheckConstraint("from_us <= to_us", name=op.f("ck_usage_record_interval")),
        sa.PrimaryKeyConstraint("source", "event_id", name=op.f("pk_usage_record")),
        sa.UniqueConstraint("hold_id", "seq", name=op.f("uq_usage_record_hold_id_seq")),
    )


def _allocations() -> None:
    op.create_table(
        "allocation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("suspended", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_allocation_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allocation")),
        comment="What the programme decided; unit, dates and balance are those of the account with the same id.",
    )
    op.create_index(op.f("ix_allocation_project_id"), "allocation", ["project_id"], unique=False)


def _first_rows() -> None:
    for table in ("entry", "usage_record", "ledger_link", "audit"):
        forbid_change(table)
    op.execute("INSERT INTO ledger_epoch (writer, started_us, links, head_hash) VALUES ('store', 0, 0, '')")
    op.execute("INSERT INTO audit_head (id, length, head_hash) VALUES (1, 0, '')")
    for unit in ("gpu_ms", "tokens"):
        op.execute(f"INSERT INTO account (id, kind, unit) VALUES ('pool-{unit}', 'pool', '{unit}')")  # noqa: S608
