"""Every table, as SQLAlchemy Core metadata; the migrations build the same and a test compares the two.

Amounts are integers in their unit, instants whole microseconds UTC (`_us`), JSON is text. `entry`, `usage_record`, `ledger_link`
and `audit` are append-only by trigger. The hot tables (hold, hold_line, usage_record, entry) carry no foreign keys: their rows are
written by one module under the account's lock, and `verify` looks for orphans; a key check a row would cost more than the row.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
APPEND_ONLY: Final = ("entry", "usage_record", "ledger_link", "audit")

# SQLite numbers rows by itself only in a column of type INTEGER.
_Serial = BigInteger().with_variant(Integer(), "sqlite")
_AMOUNT_MAX: Final = 2**62


def _text(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def _int(name: str, *, null: bool = False, default: int | None = None) -> Column[int]:
    return Column(name, BigInteger, nullable=null, server_default=None if default is None else text(str(default)))


def _check(name: str, sql: str) -> CheckConstraint:
    return CheckConstraint(sql, name=name)


def _serial(name: str) -> Column[int]:
    return Column(name, _Serial, primary_key=True, autoincrement=True)


person = Table(
    "person",
    metadata,
    Column("id", Text, primary_key=True),
    _text("hub_name"),
    _text("login"),
    _int("uid"),
    _int("created_us"),
    UniqueConstraint("hub_name"),
    UniqueConstraint("login"),
    UniqueConstraint("uid"),
    _check("uid", "uid > 20000"),
)
identity = Table(
    "identity",
    metadata,
    _text("issuer"),
    _text("subject"),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False, index=True),
    _int("linked_us"),
    PrimaryKeyConstraint("issuer", "subject"),
)
person_data = Table(
    "person_data",
    metadata,
    Column("person_id", Text, ForeignKey("person.id"), primary_key=True),
    _text("display_name"),
    _text("email", null=True),
    _text("language"),
    comment="Personal data: a row is deleted when a person asks for it; everything else knows the opaque id only.",
)
counter = Table(
    "counter",
    metadata,
    Column("name", Text, primary_key=True),
    _int("value"),
    comment="Numbers that are given out once and never again, such as uids.",
)
project = Table(
    "project",
    metadata,
    Column("id", Text, primary_key=True),
    _text("slug"),
    _text("title"),
    _text("state"),
    _int("created_us"),
    UniqueConstraint("slug"),
    _check("state", "state IN ('active', 'suspended', 'closed')"),
)
member = Table(
    "member",
    metadata,
    Column("project_id", Text, ForeignKey("project.id"), nullable=False),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False, index=True),
    _text("role"),
    _int("since_us"),
    PrimaryKeyConstraint("project_id", "person_id"),
    _check("role", "role IN ('pi', 'co_pi', 'manager', 'member')"),
)
Index(
    "uq_member_one_pi",
    member.c.project_id,
    unique=True,
    sqlite_where=text("role = 'pi'"),
    postgresql_where=text("role = 'pi'"),
)
application = Table(
    "application",
    metadata,
    Column("id", Text, primary_key=True),
    Column("applicant", Text, ForeignKey("person.id"), nullable=False, index=True),
    _text("title"),
    _text("purpose"),
    _int("gpu_ms"),
    _int("tokens"),
    _text("starts_on"),
    _text("ends_on"),
    _text("state"),
    _int("submitted_us"),
    _int("decided_us", null=True),
    Column("decided_by", Text, ForeignKey("person.id"), nullable=True),
    _text("message", null=True),
    _int("awarded_gpu_ms", null=True),
    _int("awarded_tokens", null=True),
    Column("project_id", Text, ForeignKey("project.id"), nullable=True),
    _text("body_hash"),
    Index(None, "state", "submitted_us"),
)
charge_rate = Table(
    "charge_rate",
    metadata,
    _text("hardware"),
    _int("valid_from_us"),
    _int("numerator"),
    _int("denominator"),
    PrimaryKeyConstraint("hardware", "valid_from_us"),
    _check("rate", "numerator >= 0 AND denominator > 0"),
)
allocation = Table(
    "allocation",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("project.id"), nullable=False, index=True),
    Column("suspended", Boolean, nullable=False, server_default=false()),
    comment="What the programme decided; unit, dates and balance are those of the account with the same id.",
)
account = Table(
    "account",
    metadata,
    Column("id", Text, primary_key=True),
    _text("kind"),
    _text("unit"),
    _text("project_id", null=True),
    _int("period_start_us", null=True),
    _int("period_end_us", null=True),
    _int("awarded", default=0),
    _int("charged", default=0),
    _int("held", default=0),
    _int("overdraft_limit", default=0),
    _int("overdraft_used", default=0),
    Column("frozen", Boolean, nullable=False, server_default=false()),
    _int("version", default=0),
    _check("kind", "kind IN ('allocation', 'pool')"),
    _check("unit", "unit IN ('gpu_ms', 'tokens')"),
    _check("charged", "charged >= 0"),
    _check("held", "held >= 0"),
    _check("awarded", f"awarded BETWEEN 0 AND {_AMOUNT_MAX}"),
    _check("overdraft", "overdraft_used BETWEEN 0 AND overdraft_limit"),
    _check("balance", "charged + held <= awarded + overdraft_used"),
)
limit_counter = Table(
    "limit_counter",
    metadata,
    Column("id", Text, primary_key=True),
    _text("kind"),
    _text("subject"),
    _text("unit"),
    _int("cap"),
    _int("charged", default=0),
    _int("held", default=0),
    _int("beyond_cap", default=0),
    _check("kind", "kind IN ('member', 'day', 'simultaneous')"),
    _check("amounts", "charged >= 0 AND held >= 0 AND beyond_cap >= 0"),
    _check("cap", "charged + held <= cap + beyond_cap"),
    comment="beyond_cap: what stands beyond the cap since it was lowered or usage overran; new holds never add to it.",
)
hold = Table(
    "hold",
    metadata,
    Column("id", Text, primary_key=True),
    _text("kind"),
    _text("state"),
    _text("subject"),
    _text("actor"),
    _text("project_id"),
    _text("account_id"),
    _text("unit"),
    _int("amount"),
    _int("charged"),
    _int("next_seq"),
    _int("line_count"),
    _int("limit_count"),
    _int("placed_us"),
    _int("lease_until_us"),
    _int("charged_to_us", null=True),
    _int("closed_us", null=True),
    _text("close_reason", null=True),
    _text("body_hash"),
    _text("details"),
    _text("refusal_code", null=True),
    _text("refusal_params", null=True),
    _int("epoch"),
    _check("kind", "kind IN ('session', 'request')"),
    _check("state", "state IN ('held', 'settled', 'released', 'expired', 'refused')"),
    _check("amounts", "0 <= charged AND charged <= amount"),
    _check("refusal", "(state = 'refused') = (refusal_code IS NOT NULL)"),
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
    _text("hold_id"),
    _text("line_id"),
    _text("kind"),
    _int("amount"),
    _int("charged"),
    _int("at_us"),
    PrimaryKeyConstraint("hold_id", "line_id"),
    _check("kind", "kind IN ('hold', 'top_up', 'overrun')"),
    _check("amounts", "0 <= charged AND charged <= amount"),
)
refused_line = Table(
    "refused_line",
    metadata,
    _text("hold_id"),
    _text("line_id"),
    _int("amount"),
    _int("at_us"),
    _text("refusal_code"),
    _text("refusal_params"),
    PrimaryKeyConstraint("hold_id", "line_id"),
)
hold_limit = Table(
    "hold_limit",
    metadata,
    _text("hold_id"),
    _text("limit_id"),
    _int("amount"),
    _int("charged"),
    PrimaryKeyConstraint("hold_id", "limit_id"),
    _check("amounts", "0 <= charged AND charged <= amount"),
)
usage_record = Table(
    "usage_record",
    metadata,
    _text("source"),
    _text("event_id"),
    _text("hold_id"),
    _int("seq"),
    _int("from_us"),
    _int("to_us"),
    _int("quantity"),
    _int("amount"),
    _int("overrun"),
    Column("estimated", Boolean, nullable=False),
    _text("payload"),
    _text("payload_hash"),
    _int("link"),
    PrimaryKeyConstraint("source", "event_id"),
    UniqueConstraint("hold_id", "seq"),
    _check("interval", "from_us <= to_us"),
    _check("amounts", "amount >= 0 AND overrun BETWEEN 0 AND amount"),
)
ledger_epoch = Table(
    "ledger_epoch",
    metadata,
    _serial("id"),
    _text("writer"),
    _int("started_us"),
    _int("links", default=0),
    _text("head_hash"),
    comment="One row a writer's start: the fencing epoch of what it writes and the head of its own hash chain.",
    sqlite_autoincrement=True,
)
ledger_link = Table(
    "ledger_link",
    metadata,
    _serial("id"),
    _int("epoch"),
    _int("n"),
    _text("prev_hash"),
    _text("hash"),
    _int("entries"),
    _int("usages"),
    UniqueConstraint("epoch", "n"),
    comment="One row a committed batch: the hash over its entries and usage records, chained within its epoch.",
    sqlite_autoincrement=True,
)
entry = Table(
    "entry",
    metadata,
    _serial("seq"),
    _int("link"),
    _text("txn_id"),
    _text("account_id"),
    _text("bucket"),
    _int("amount"),
    _text("hold_id", null=True),
    _text("usage_ref", null=True),
    _text("kind"),
    _int("at_us"),
    _text("actor"),
    Index(None, "account_id", "seq"),
    _check("bucket", "bucket IN ('available', 'held', 'charged', 'pool')"),
    _check("amount", "amount <> 0"),
    sqlite_autoincrement=True,
)
adjustment = Table(
    "adjustment",
    metadata,
    Column("id", Text, primary_key=True),
    _text("account_id"),
    _text("kind"),
    _int("delta"),
    _text("actor"),
    _int("at_us"),
    _text("code"),
    _text("params"),
    _text("reason", null=True),
    _int("awarded_before"),
    _int("charged_before"),
    _int("held_before"),
    _text("refusal_code", null=True),
    _text("refusal_params", null=True),
    _text("body_hash"),
    _check("kind", "kind IN ('deposit', 'adjustment')"),
    comment="Changes of awards, refused ones included, under the caller's id.",
)
audit = Table(
    "audit",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=False),
    _text("prev_hash"),
    _text("hash"),
    _text("actor", null=True),
    _text("on_behalf_of", null=True),
    _text("action"),
    _text("subject"),
    _text("before", null=True),
    _text("after", null=True),
    _text("reason", null=True),
    _text("request_id", null=True),
    _int("at_us"),
    comment="seq has no gaps: it is given under a lock, one more than the head.",
)
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=False),
    _int("length"),
    _text("head_hash"),
    _check("one_row", "id = 1"),
)
session = Table(
    "session",
    metadata,
    Column("hold_id", Text, primary_key=True),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False),
    Column("project_id", Text, ForeignKey("project.id"), nullable=False),
    _text("allocation_id"),
    _text("terms"),
    _text("state"),
    _int("held_us"),
    _int("started_us", null=True),
    _int("alive_us", null=True),
    _int("ends_us", null=True),
    _int("ended_us", null=True),
    _text("end_reason", null=True),
    _text("stop_reason", null=True),
    Index(None, "person_id", "held_us"),
    _check("state", "state IN ('held', 'running', 'unknown', 'stopping', 'settled', 'failed')"),
)
Index(
    "ix_session_unfinished",
    session.c.held_us,
    sqlite_where=text("state NOT IN ('settled', 'failed')"),
    postgresql_where=text("state NOT IN ('settled', 'failed')"),
)
