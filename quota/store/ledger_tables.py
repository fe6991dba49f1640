"""The ledger's tables, as SQLAlchemy Core metadata.

Amounts are integers in their unit. `entry`, `usage_record`, `ledger_link`, `adjustment`, `refund` and `checkpoint` are append-only by
trigger. The hot tables (hold, hold_line, usage_record, entry) carry no foreign keys: their rows are written by one module under the
account's lock, and `verify` looks for orphans; a key check a row would cost more than the row. Whoever updates an account adds one to
its `version`: a writer that remembers the row compares it, and nothing else, with the one that is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    Column,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from quota.store.columns import check, int_column, metadata, serial_column, text_column

_AMOUNT_MAX: Final = 2**62

account = Table(
    "account",
    metadata,
    Column("id", Text, primary_key=True),
    text_column("kind"),
    text_column("unit"),
    text_column("project_id", null=True),
    int_column("period_start_us", null=True),
    int_column("period_end_us", null=True),
    int_column("awarded", default=0),
    int_column("charged", default=0),
    int_column("held", default=0),
    int_column("overdraft_limit", default=0),
    int_column("overdraft_used", default=0),
    Column("frozen", Boolean, nullable=False, server_default=false()),
    int_column("version", default=0),
    check("kind", "kind IN ('allocation', 'pool')"),
    check("unit", "unit IN ('gpu_ms', 'tokens')"),
    check("charged", "charged >= 0"),
    check("held", "held >= 0"),
    check("awarded", f"awarded BETWEEN 0 AND {_AMOUNT_MAX}"),
    check("overdraft", "overdraft_used BETWEEN 0 AND overdraft_limit"),
    check("balance", "charged + held <= awarded + overdraft_used"),
)
fence = Table(
    "fence",
    metadata,
    Column("name", Text, primary_key=True),
    int_column("epoch"),
    text_column("holder"),
    int_column("taken_us"),
    check("epoch", "epoch > 0"),
    comment="Of several processes of a name, the one whose epoch stands here may write.",
)
limit_counter = Table(
    "limit_counter",
    metadata,
    Column("id", Text, primary_key=True),
    text_column("kind"),
    text_column("subject"),
    text_column("unit"),
    int_column("cap"),
    int_column("charged", default=0),
    int_column("held", default=0),
    int_column("beyond_cap", default=0),
    check("kind", "kind IN ('member', 'day', 'simultaneous')"),
    check("amounts", "charged >= 0 AND held >= 0 AND beyond_cap >= 0"),
    check("cap", "charged + held <= cap + beyond_cap"),
    comment="beyond_cap: what stands beyond the cap since it was lowered or usage overran; new holds never add to it.",
)
hold = Table(
    "hold",
    metadata,
    Column("id", Text, primary_key=True),
    text_column("kind"),
    text_column("state"),
    text_column("subject"),
    text_column("actor"),
    text_column("project_id"),
    text_column("account_id"),
    text_column("unit"),
    int_column("amount"),
    int_column("charged"),
    int_column("next_seq"),
    int_column("line_count"),
    int_column("limit_count"),
    int_column("placed_us"),
    int_column("lease_until_us"),
    int_column("charged_to_us", null=True),
    int_column("closed_us", null=True),
    text_column("close_reason", null=True),
    text_column("body_hash"),
    text_column("details"),
    text_column("refusal_code", null=True),
    text_column("refusal_params", null=True),
    int_column("epoch"),
    check("kind", "kind IN ('session', 'request')"),
    check("state", "state IN ('held', 'settled', 'released', 'expired', 'refused')"),
    check("amounts", "0 <= charged AND charged <= amount"),
    check("refusal", "(state = 'refused') = (refusal_code IS NOT NULL)"),
    comment="amount and charged are the sums of the hold's lines; a refused hold keeps what was asked for.",
)
Index(
    "ix_hold_open",
    hold.c.kind,
    hold.c.placed_us,
    sqlite_where=text("state = 'held'"),
    postgresql_where=text("state = 'held'"),
)
hold_line = Table(
    "hold_line",
    metadata,
    text_column("hold_id"),
    text_column("line_id"),
    text_column("kind"),
    int_column("amount"),
    int_column("charged"),
    int_column("at_us"),
    int_column("asked", null=True),  # by a top-up, of which a withdrawal may have left less
    PrimaryKeyConstraint("hold_id", "line_id"),
    check("kind", "kind IN ('hold', 'top_up', 'overrun')"),
    check("amounts", "0 <= charged AND charged <= amount"),
)
refused_line = Table(
    "refused_line",
    metadata,
    text_column("hold_id"),
    text_column("line_id"),
    int_column("amount"),
    int_column("at_us"),
    text_column("refusal_code"),
    text_column("refusal_params"),
    PrimaryKeyConstraint("hold_id", "line_id"),
)
hold_limit = Table(
    "hold_limit",
    metadata,
    text_column("hold_id"),
    text_column("limit_id"),
    int_column("amount"),
    int_column("charged"),
    PrimaryKeyConstraint("hold_id", "limit_id"),
    check("amounts", "0 <= charged AND charged <= amount"),
)
usage_record = Table(
    "usage_record",
    metadata,
    text_column("source"),
    text_column("event_id"),
    text_column("hold_id"),
    int_column("seq"),
    int_column("from_us"),
    int_column("to_us"),
    int_column("quantity"),
    int_column("amount"),
    int_column("overrun"),
    Column("estimated", Boolean, nullable=False),
    text_column("payload"),
    text_column("payload_hash"),
    int_column("link"),
    PrimaryKeyConstraint("source", "event_id"),
    UniqueConstraint("hold_id", "seq"),
    Index(None, "link"),
    check("interval", "from_us <= to_us"),
    check("amounts", "amount >= 0 AND overrun BETWEEN 0 AND amount"),
)
ledger_epoch = Table(
    "ledger_epoch",
    metadata,
    serial_column("id"),
    text_column("writer"),
    int_column("started_us"),
    int_column("links", default=0),
    text_column("head_hash"),
    comment="One row a writer's start: the fencing epoch of what it writes and the head of its own hash chain.",
    sqlite_autoincrement=True,
)
ledger_link = Table(
    "ledger_link",
    metadata,
    serial_column("id"),
    int_column("epoch"),
    int_column("n"),
    text_column("prev_hash"),
    text_column("hash"),
    int_column("entries"),
    int_column("usages"),
    UniqueConstraint("epoch", "n"),
    comment="One row a committed batch: the hash over its entries and usage records, chained within its epoch.",
    sqlite_autoincrement=True,
)
entry = Table(
    "entry",
    metadata,
    serial_column("seq"),
    int_column("link"),
    text_column("txn_id"),
    text_column("account_id"),
    text_column("bucket"),
    int_column("amount"),
    text_column("hold_id", null=True),
    text_column("usage_ref", null=True),
    text_column("kind"),
    int_column("at_us"),
    text_column("actor"),
    text_column("contra", null=True),
    Index(None, "account_id", "seq"),
    check("bucket", "bucket IN ('available', 'held', 'charged', 'pool')"),
    check("amount", "amount <> 0"),
    check(
        "contra",
        "contra IS NULL OR (contra IN ('available', 'held', 'charged') AND contra <> bucket AND bucket <> 'pool')",
    ),
    # An entry with a contra bucket moves its amount from that bucket of the account: it sums to zero by itself. Without, the other side
    # of the transaction is an entry of its own, on another account (an award out of the pool) or, before revision 0016, on the same.
    sqlite_autoincrement=True,
)
# A view, outside `metadata`: each entry as the postings that it stands for, one a bucket, under its seq. SQLite's way to rebuild `entry`
# is to drop it first.
posting = Table("posting", MetaData(), *(Column(one.name, one.type) for one in entry.columns if one.name != "contra"))


def sides(row: Row[Any]) -> Iterator[tuple[str, int]]:
    """An entry's postings, as the view has them: bucket, and amount in its unit."""
    yield row.bucket, row.amount
    if row.contra is not None:
        yield row.contra, -row.amount


def as_hashed(said: list[Any]) -> list[Any]:
    """An entry's values, `contra` the last, as hashes cover them: without it where there is none, as before that column."""
    return said if said[-1] is not None else said[:-1]


adjustment = Table(
    "adjustment",
    metadata,
    Column("id", Text, primary_key=True),
    text_column("account_id"),
    text_column("kind"),
    int_column("delta"),
    text_column("actor"),
    int_column("at_us"),
    text_column("code"),
    text_column("params"),
    text_column("reason", null=True),
    int_column("awarded_before"),
    int_column("charged_before"),
    int_column("held_before"),
    text_column("refusal_code", null=True),
    text_column("refusal_params", null=True),
    text_column("body_hash"),
    text_column("reverses", null=True),
    check("kind", "kind IN ('deposit', 'adjustment')"),
    comment="Changes of awards, refused ones included, under the caller's id; `reverses` names the adjustment taken back.",
)
Index(
    "uq_adjustment_reversed_once",
    adjustment.c.reverses,
    unique=True,
    sqlite_where=text("reverses IS NOT NULL AND refusal_code IS NULL"),
    postgresql_where=text("reverses IS NOT NULL AND refusal_code IS NULL"),
)
refund = Table(
    "refund",
    metadata,
    Column("id", Text, primary_key=True),
    text_column("hold_id"),
    text_column("account_id"),
    int_column("amount"),
    text_column("actor"),
    int_column("at_us"),
    text_column("reason"),
    int_column("awarded_before"),
    int_column("charged_before"),
    int_column("held_before"),
    text_column("refusal_code", null=True),
    text_column("refusal_params", null=True),
    text_column("body_hash"),
    Index(None, "hold_id"),
    check("amount", "amount > 0"),
    comment="Charges given back, refused ones included, under the caller's id; `hold_id` names what they correct.",
)
checkpoint = Table(
    "checkpoint",
    metadata,
    serial_column("id"),
    int_column("at_us"),
    int_column("last_seq"),
    int_column("last_link"),
    text_column("body"),
    text_column("prev_hash"),
    text_column("hash"),
    text_column("signature"),
    UniqueConstraint("prev_hash"),
    comment="What the books said at an entry, proved and signed: `verify` starts from the newest.",
    sqlite_autoincrement=True,
)
