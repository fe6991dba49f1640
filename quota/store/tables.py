"""Every table, as SQLAlchemy Core metadata; the migrations build the same and a test compares the two.

The ledger's own stand in `ledger_tables` and are imported here. Instants are whole microseconds UTC (`_us`), JSON is text.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)

from quota.store import exchange_tables, gateway_tables
from quota.store.columns import Serial, check, int_column, metadata, text_column
from quota.store.course_tables import course, course_invitation, course_person
from quota.store.ledger_tables import (
    account,
    adjustment,
    checkpoint,
    entry,
    fence,
    hold,
    hold_limit,
    hold_line,
    ledger_epoch,
    ledger_link,
    limit_counter,
    posting,
    refund,
    refused_line,
    usage_record,
)
from quota.store.notice_tables import mail, notice, notice_choice, session_idle

gateway_tables.index_usage(usage_record)

# `metadata` is complete once this module is imported.
__all__ = [
    "account",
    "adjustment",
    "checkpoint",
    "course",
    "course_invitation",
    "course_person",
    "entry",
    "fence",
    "hold",
    "hold_limit",
    "hold_line",
    "ledger_epoch",
    "ledger_link",
    "limit_counter",
    "mail",
    "metadata",
    "notice",
    "notice_choice",
    "posting",
    "refund",
    "refused_line",
    "session_idle",
    "usage_record",
]

APPEND_ONLY: Final = (
    "entry",
    "usage_record",
    "ledger_link",
    "adjustment",
    "refund",
    "checkpoint",
    "audit",
    *exchange_tables.APPEND_ONLY,
)

person = Table(
    "person",
    metadata,
    Column("id", Text, primary_key=True),
    text_column("hub_name"),
    text_column("login"),
    int_column("uid"),
    int_column("created_us"),
    int_column("suspended_us", null=True),
    Column("greeted", Boolean, nullable=False, server_default=true()),
    UniqueConstraint("hub_name"),
    UniqueConstraint("login"),
    UniqueConstraint("uid"),
    check("uid", "uid > 20000"),
)
identity = Table(
    "identity",
    metadata,
    text_column("issuer"),
    text_column("subject"),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False, index=True),
    int_column("linked_us"),
    PrimaryKeyConstraint("issuer", "subject"),
)
person_data = Table(
    "person_data",
    metadata,
    Column("person_id", Text, ForeignKey("person.id"), primary_key=True),
    text_column("display_name"),
    text_column("email", null=True),
    text_column("language"),
    int_column("profile_us", null=True),
    comment="Personal data: a row is deleted when a person asks for it; everything else knows the opaque id only.",
)
link_code = Table(
    "link_code",
    metadata,
    Column("code_hash", Text, primary_key=True),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False, index=True),
    int_column("expires_us"),
    comment="Codes that link two sign-ins of one person; a used one is gone.",
)
counter = Table(
    "counter",
    metadata,
    Column("name", Text, primary_key=True),
    int_column("value"),
    comment="Numbers that are given out once and never again, such as uids.",
)
project = Table(
    "project",
    metadata,
    Column("id", Text, primary_key=True),
    text_column("slug"),
    text_column("title"),
    text_column("state"),
    int_column("created_us"),
    int_column("without_pi_us", null=True),
    UniqueConstraint("slug"),
    check("state", "state IN ('active', 'suspended', 'closed')"),
)
member = Table(
    "member",
    metadata,
    Column("project_id", Text, ForeignKey("project.id"), nullable=False),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False, index=True),
    text_column("role"),
    int_column("since_us"),
    PrimaryKeyConstraint("project_id", "person_id"),
    check("role", "role IN ('pi', 'co_pi', 'manager', 'member')"),
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
    text_column("title"),
    text_column("purpose"),
    int_column("gpu_ms"),
    int_column("tokens"),
    text_column("starts_on"),
    text_column("ends_on"),
    text_column("state"),
    int_column("submitted_us"),
    int_column("decided_us", null=True),
    Column("decided_by", Text, ForeignKey("person.id"), nullable=True),
    text_column("message", null=True),
    int_column("awarded_gpu_ms", null=True),
    int_column("awarded_tokens", null=True),
    Column("project_id", Text, ForeignKey("project.id"), nullable=True),
    text_column("body_hash"),
    Index(None, "state", "submitted_us"),
)
charge_rate = Table(
    "charge_rate",
    metadata,
    text_column("hardware"),
    int_column("valid_from_us"),
    int_column("numerator"),
    int_column("denominator"),
    PrimaryKeyConstraint("hardware", "valid_from_us"),
    check("rate", "numerator >= 0 AND denominator > 0"),
)
allocation = Table(
    "allocation",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("project.id"), nullable=False, index=True),
    Column("suspended", Boolean, nullable=False, server_default=false()),
    Column("revoked", Boolean, nullable=False, server_default=false()),
    int_column("target_awarded", null=True),
    comment="What the programme decided; unit, dates and balance are those of the account with the same id.",
)
audit = Table(
    "audit",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=False),
    text_column("prev_hash"),
    text_column("hash"),
    text_column("actor", null=True),
    text_column("on_behalf_of", null=True),
    text_column("action"),
    text_column("subject"),
    text_column("before", null=True),
    text_column("after", null=True),
    text_column("reason", null=True),
    text_column("request_id", null=True),
    int_column("at_us"),
    comment="seq has no gaps: it is given under a lock, one more than the head.",
)
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=False),
    int_column("length"),
    text_column("head_hash"),
    check("one_row", "id = 1"),
)
_SESSION_STATES: Final = (
    "held", "starting", "pending", "running", "unknown", "stopping", "settled", "failed", "refused",
)  # fmt: skip
_SESSION_OVER: Final = "('settled', 'failed', 'refused')"
session = Table(
    "session",
    metadata,
    Column("hold_id", Text, primary_key=True),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False),
    Column("project_id", Text, ForeignKey("project.id"), nullable=False),
    text_column("allocation_id"),
    text_column("terms"),
    text_column("state"),
    int_column("held_us"),
    int_column("started_us", null=True),
    int_column("alive_us", null=True),
    int_column("ends_us", null=True),
    int_column("ended_us", null=True),
    text_column("end_reason", null=True),
    text_column("stop_reason", null=True),
    text_column("target", default="running"),
    int_column("stop_us", null=True),
    int_column("extended_s", default=0),
    int_column("waiting_us", null=True),
    int_column("asked_us", null=True),
    Column("suspended", Boolean, nullable=False, server_default=false()),
    text_column("note", default=""),
    int_column("tries", default=0),
    int_column("next_try_us", null=True),
    Index(None, "person_id", "held_us"),
    check("state", "state IN ({})".format(", ".join(f"'{one}'" for one in _SESSION_STATES))),
    check("target", "target IN ('running', 'stopped')"),
    check("extended", "extended_s >= 0"),
    comment="target and stop_us are what people and policy want; the other columns are what reconciliation saw.",
)
Index(
    "ix_session_open",
    session.c.held_us,
    sqlite_where=text(f"state NOT IN {_SESSION_OVER}"),
    postgresql_where=text(f"state NOT IN {_SESSION_OVER}"),
)
session_extension = Table(
    "session_extension",
    metadata,
    Column("id", Text, primary_key=True),
    text_column("hold_id"),
    text_column("actor"),
    int_column("seconds"),
    int_column("amount"),
    text_column("state"),
    int_column("asked_us"),
    int_column("ends_us"),
    text_column("refusal_code", null=True),
    text_column("refusal_params", null=True),
    Index(None, "hold_id"),
    check("state", "state IN ('asked', 'applied', 'undone', 'refused')"),
    check("seconds", "seconds > 0"),
    comment="Extensions under the caller's id: the further hold first, then the backend's limit; undone where the backend refuses.",
)
Index(
    "ix_session_extension_open",
    session_extension.c.asked_us,
    sqlite_where=text("state = 'asked'"),
    postgresql_where=text("state = 'asked'"),
)
