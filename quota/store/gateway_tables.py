"""The gateway's tables beside the ledger: personal keys, rate windows that its processes share, answers kept for a repeated request.

No prompt and no readable answer is in any of them: a kept answer is sealed with what only its client has.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, LargeBinary, PrimaryKeyConstraint, Table, Text, text

from quota.store.columns import check, int_column, metadata, text_column

gateway_key = Table(
    "gateway_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("project.id"), nullable=False, index=True),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False),
    text_column("name"),
    text_column("secret_hash"),
    text_column("models", null=True),
    int_column("tokens_max", null=True),
    int_column("requests_per_minute", null=True),
    int_column("tokens_per_minute", null=True),
    int_column("made_us"),
    int_column("expires_us"),
    int_column("revoked_us", null=True),
)
rate_window = Table(
    "rate_window",
    metadata,
    text_column("key_id"),
    int_column("minute"),
    int_column("requests"),
    int_column("tokens"),
    PrimaryKeyConstraint("key_id", "minute"),
    check("amounts", "requests >= 0 AND tokens >= 0"),
    comment="What the gateway's processes have taken of a key's minute; only where several of them share a database.",
)
kept_answer = Table(
    "kept_answer",
    metadata,
    Column("hold_id", Text, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    int_column("until_us"),
    Index(None, "until_us"),
    comment="Answers to requests with an Idempotency-Key, sealed with the client's own key.",
)
# The usage of models is read by time.
USAGE_BY_TIME = ("ix_usage_record_gateway", "usage_record", "to_us", "source = 'gateway'")


def index_usage(table: Table) -> None:
    """The index of USAGE_BY_TIME on the ledger's table."""
    name, _, column, where = USAGE_BY_TIME
    Index(name, table.c[column], sqlite_where=text(where), postgresql_where=text(where))
