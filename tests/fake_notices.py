"""The fakes of notices and of the outbox, in memory, behind the ports of quota.service.ports."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from quota.domain.idle import IdleState
from quota.domain.ids import HoldId, PersonId
from quota.domain.notice import Choice, Notice
from quota.service.notice_ports import Letter


@dataclass
class FakeMail:
    """A row of the fake outbox."""

    notice: Notice
    due_at: datetime
    state: str = "queued"
    failures: int = 0
    claimed_until: datetime | None = None
    reply: str | None = None


@dataclass
class NoticeBooks:
    """What is stored of notices."""

    notices: list[Notice] = field(default_factory=list)
    mails: dict[str, FakeMail] = field(default_factory=dict)
    choices: dict[PersonId, Choice] = field(default_factory=dict)
    idle: dict[HoldId, IdleState] = field(default_factory=dict)


@dataclass
class FakeNotices:
    books: NoticeBooks

    def add(self, notice: Notice, *, mail: bool) -> bool:
        if any(one.id == notice.id for one in self.books.notices):
            return False
        self.books.notices.append(replace(notice, seq=len(self.books.notices) + 1))
        if mail:
            self.books.mails[notice.id] = FakeMail(notice, notice.at)
        return True

    def of_person(self, person_id: PersonId, *, before: int | None, limit: int) -> Sequence[Notice]:
        own = [one for one in reversed(self.books.notices) if one.person_id == person_id]
        return [one for one in own if before is None or one.seq < before][:limit]

    def after(self, person_id: PersonId, seq: int, *, limit: int) -> Sequence[Notice]:
        return [one for one in self.books.notices if one.person_id == person_id and one.seq > seq][:limit]

    def unread(self, person_id: PersonId, *, limit: int) -> Sequence[Notice]:
        return [one for one in self.of_person(person_id, before=None, limit=10_000) if one.read_at is None][:limit]

    def latest(self, people: Collection[PersonId]) -> Mapping[PersonId, int]:
        return {one.person_id: one.seq for one in self.books.notices if one.person_id in people}

    def put_away(self, person_id: PersonId, seqs: Collection[int], at: datetime) -> None:
        self.books.notices = [
            replace(one, read_at=one.read_at or at) if one.person_id == person_id and one.seq in seqs else one
            for one in self.books.notices
        ]

    def choice(self, person_id: PersonId) -> Choice:
        return self.books.choices.get(person_id, Choice())

    def choose(self, person_id: PersonId, choice: Choice) -> None:
        self.books.choices[person_id] = choice


@dataclass
class FakeOutbox:
    books: NoticeBooks

    def claim(self, at: datetime, until: datetime, *, limit: int) -> Sequence[Letter]:
        due = [
            mail
            for mail in self.books.mails.values()
            if mail.state == "queued" and mail.due_at <= at and (mail.claimed_until is None or mail.claimed_until <= at)
        ]
        for mail in due[:limit]:
            mail.claimed_until = until
        return [Letter(mail.notice, mail.failures) for mail in due[:limit]]

    def sent(self, notice_id: str, at: datetime) -> None:
        self.books.mails[notice_id].state = "sent"

    def failed(self, notice_id: str, reply: str, again_at: datetime | None) -> None:
        mail = self.books.mails[notice_id]
        mail.failures, mail.reply, mail.claimed_until = mail.failures + 1, reply, None
        mail.state, mail.due_at = ("given_up", mail.due_at) if again_at is None else ("queued", again_at)

    def give_back(self, notice_ids: Collection[str]) -> None:
        for notice_id in notice_ids:
            self.books.mails[notice_id].claimed_until = None


@dataclass
class FakeIdleStates:
    books: NoticeBooks

    def get(self, hold_id: HoldId) -> IdleState | None:
        return self.books.idle.get(hold_id)

    def put(self, hold_id: HoldId, state: IdleState) -> None:
        self.books.idle[hold_id] = state
