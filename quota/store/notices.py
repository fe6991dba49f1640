"""Notices, the outbox of their mails, and what people chose.

Invariants: one row a notice id, however often it is added; seq grows in the order of commits, so that a reader who has seen n
misses nothing that comes later; a mail that nobody confirmed is due again once its claim is over.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, update

from quota.domain.ids import PersonId, ProjectId
from quota.domain.notice import Choice, Notice, NoticeKind, Topic
from quota.service.notice_ports import Letter
from quota.store.instants import from_us, from_us_or_none, to_us, to_us_or_none
from quota.store.json_text import dump
from quota.store.notice_tables import mail, notice, notice_choice

_REPLY_MAX = 500  # characters of a mail server's answer that are kept


class SqlNotices:
    """`quota.service.notice_ports.Notices`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, one: Notice, *, mail: bool) -> bool:
        """Write `one` and the row of its mail; False where it is known. Store transactions run one after the other."""
        if self._connection.execute(select(notice.c.seq).where(notice.c.id == one.id)).first() is not None:
            return False
        self._connection.execute(
            notice.insert().values(
                id=one.id,
                person_id=one.person_id,
                kind=one.kind.value,
                subject=one.subject,
                occasion=one.occasion,
                project_id=one.project_id,
                params=dump(one.params),
                at_us=to_us(one.at),
                until_us=to_us_or_none(one.until),
            )
        )
        if mail:
            _queue(self._connection, one)
        return True

    def of_person(self, person_id: PersonId, *, before: int | None, limit: int) -> Sequence[Notice]:
        """Newest first, those with seq < `before`."""
        query = select(notice).where(notice.c.person_id == person_id).order_by(notice.c.seq.desc()).limit(limit)
        return self._all(query if before is None else query.where(notice.c.seq < before))

    def after(self, person_id: PersonId, seq: int, *, limit: int) -> Sequence[Notice]:
        """Oldest first, those with a seq > `seq`."""
        query = select(notice).where(notice.c.person_id == person_id, notice.c.seq > seq)
        return self._all(query.order_by(notice.c.seq).limit(limit))

    def unread(self, person_id: PersonId, *, limit: int) -> Sequence[Notice]:
        """Newest first, those not put away yet."""
        query = select(notice).where(notice.c.person_id == person_id, notice.c.read_us.is_(None))
        return self._all(query.order_by(notice.c.seq.desc()).limit(limit))

    def latest(self, people: Collection[PersonId]) -> Mapping[PersonId, int]:
        """The highest seq of each; people without a notice are left out."""
        query = select(notice.c.person_id, func.max(notice.c.seq).label("seq")).where(notice.c.person_id.in_(people))
        rows = self._connection.execute(query.group_by(notice.c.person_id))
        return {PersonId(row.person_id): row.seq for row in rows}

    def put_away(self, person_id: PersonId, seqs: Collection[int], at: datetime) -> None:
        """Mark as read; the first time stands."""
        mine = (notice.c.person_id == person_id, notice.c.seq.in_(seqs), notice.c.read_us.is_(None))
        self._connection.execute(update(notice).where(*mine).values(read_us=to_us(at)))

    def choice(self, person_id: PersonId) -> Choice:
        """What the person chose, else what is sensible for most."""
        row = self._connection.execute(select(notice_choice).where(notice_choice.c.person_id == person_id)).first()
        if row is None:
            return Choice()
        known = {topic.value for topic in Topic}
        return Choice(row.language, frozenset(Topic(name) for name in json.loads(row.mails) if name in known))

    def choose(self, person_id: PersonId, choice: Choice) -> None:
        """Keep the choice."""
        values = {"language": choice.language, "mails": json.dumps(sorted(topic.value for topic in choice.mails))}
        known = update(notice_choice).where(notice_choice.c.person_id == person_id).values(**values)
        if self._connection.execute(known).rowcount == 0:
            self._connection.execute(notice_choice.insert().values(person_id=person_id, **values))

    def _all(self, query: Select[Any]) -> list[Notice]:
        return [_notice(row) for row in self._connection.execute(query)]


class SqlOutbox:
    """`quota.service.notice_ports.Outbox`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def claim(self, at: datetime, until: datetime, *, limit: int) -> Sequence[Letter]:
        """Take up to `limit` mails that are due and unclaimed, oldest first. Store transactions run one after the other."""
        due = (mail.c.state == "queued", mail.c.due_us <= to_us(at), mail.c.claimed_until_us <= to_us(at))
        query = select(notice, mail.c.failures).join(mail, mail.c.notice_id == notice.c.id).where(*due)
        rows = self._connection.execute(query.order_by(mail.c.due_us, notice.c.seq).limit(limit)).all()
        claimed = update(mail).where(mail.c.notice_id.in_([row.id for row in rows]))
        if rows:
            self._connection.execute(claimed.values(claimed_until_us=to_us(until)))
        return [Letter(_notice(row), row.failures) for row in rows]

    def sent(self, notice_id: str, at: datetime) -> None:
        """The server took it."""
        self._set(notice_id, state="sent", sent_us=to_us(at), claimed_until_us=0, reply=None)

    def failed(self, notice_id: str, reply: str, again_at: datetime | None) -> None:
        """Keep the mail for `again_at`; None gives it up."""
        kept: dict[str, Any] = {"state": "given_up"} if again_at is None else {"due_us": to_us(again_at)}
        self._set(notice_id, reply=reply[:_REPLY_MAX], failures=mail.c.failures + 1, claimed_until_us=0, **kept)

    def give_back(self, notice_ids: Collection[str]) -> None:
        """End the claim on mails that were not tried."""
        mine = (mail.c.notice_id.in_(notice_ids), mail.c.state == "queued")
        self._connection.execute(update(mail).where(*mine).values(claimed_until_us=0))

    def _set(self, notice_id: str, **values: Any) -> None:
        self._connection.execute(
            update(mail).where(mail.c.notice_id == notice_id, mail.c.state != "sent").values(**values)
        )


def _queue(connection: Connection, one: Notice) -> None:
    connection.execute(mail.insert().values(notice_id=one.id, state="queued", due_us=to_us(one.at)))


def _notice(row: Row[Any]) -> Notice:
    return Notice(
        person_id=PersonId(row.person_id),
        kind=NoticeKind(row.kind),
        subject=row.subject,
        occasion=row.occasion,
        at=from_us(row.at_us),
        params=json.loads(row.params),
        project_id=None if row.project_id is None else ProjectId(row.project_id),
        until=from_us_or_none(row.until_us),
        seq=row.seq,
        read_at=from_us_or_none(row.read_us),
    )
