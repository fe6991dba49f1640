"""The tables of notices, of the mails that are still to be sent, and of what people chose. quota.store.tables has the rest.

Invariant: a mail's row is written in the transaction of its notice; sending it changes its row only.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Table, Text, UniqueConstraint, text

from quota.store.columns import check, int_column, metadata, serial_column, text_column

notice = Table(
    "notice",
    metadata,
    serial_column("seq"),
    text_column("id"),
    Column("person_id", Text, ForeignKey("person.id"), nullable=False),
    text_column("kind"),
    text_column("subject"),
    text_column("occasion"),
    text_column("project_id", null=True),
    text_column("params"),
    int_column("at_us"),
    int_column("until_us", null=True),
    int_column("read_us", null=True),
    UniqueConstraint("id"),
    Index(None, "person_id", "seq"),
    comment="seq grows in the order of commits: Store transactions run one after the other. id follows from what makes it one notice.",
    sqlite_autoincrement=True,
)
Index(
    "ix_notice_unread",
    notice.c.person_id,
    sqlite_where=text("read_us IS NULL"),
    postgresql_where=text("read_us IS NULL"),
)
mail = Table(
    "mail",
    metadata,
    Column("notice_id", Text, ForeignKey("notice.id"), primary_key=True),
    text_column("state"),
    int_column("failures", default=0),
    int_column("due_us"),
    int_column("claimed_until_us", default=0),
    int_column("sent_us", null=True),
    text_column("reply", null=True),
    check("state", "state IN ('queued', 'sent', 'given_up')"),
    comment="The outbox: written in the notice's transaction; address and language are looked up when it is sent.",
)
Index(
    "ix_mail_queued",
    mail.c.due_us,
    sqlite_where=text("state = 'queued'"),
    postgresql_where=text("state = 'queued'"),
)
session_idle = Table(
    "session_idle",
    metadata,
    Column("hold_id", Text, primary_key=True),
    int_column("active_us"),
    int_column("kept_until_us", null=True),
    int_column("told_us", null=True),
    comment="When a session's kernels were last seen to work, until when its owner keeps it, since when its notice stands.",
)
notice_choice = Table(
    "notice_choice",
    metadata,
    Column("person_id", Text, ForeignKey("person.id"), primary_key=True),
    text_column("language", null=True),
    text_column("mails"),
    comment="What a person chose; a sign-in does not change it.",
)
