"""The ports of notices and their mails, inside a Store transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from quota.domain.ids import PersonId
from quota.domain.notice import Choice, Notice


class Notices(Protocol):
    """Notices, the mails that are still to be sent, and what people chose."""

    def add(self, notice: Notice, *, mail: bool) -> bool:
        """Write `notice`, with `mail` its mail into the outbox too; False, with nothing written, where it is known."""

    def of_person(self, person_id: PersonId, *, before: int | None, limit: int) -> Sequence[Notice]:
        """Newest first, those with seq < `before`."""

    def after(self, person_id: PersonId, seq: int, *, limit: int) -> Sequence[Notice]:
        """Oldest first, those with a seq > `seq`: what a stream sends next."""

    def unread(self, person_id: PersonId, *, limit: int) -> Sequence[Notice]:
        """Newest first, those not put away yet."""

    def latest(self, people: Collection[PersonId]) -> Mapping[PersonId, int]:
        """The highest seq of each; people without a notice are left out."""

    def put_away(self, person_id: PersonId, seqs: Collection[int], at: datetime) -> None: ...
    def choice(self, person_id: PersonId) -> Choice: ...
    def choose(self, person_id: PersonId, choice: Choice) -> None: ...


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail of the outbox, claimed for sending: its notice, and how often sending it failed before."""

    notice: Notice
    failures: int


class Outbox(Protocol):
    """The mails that are still to be sent. A claim ends by itself, so that a sender that dies delays its mails and loses none."""

    def claim(self, at: datetime, until: datetime, *, limit: int) -> Sequence[Letter]:
        """Take up to `limit` mails that are due and that nobody else has claimed, oldest first."""

    def sent(self, notice_id: str, at: datetime) -> None: ...
    def failed(self, notice_id: str, reply: str, again_at: datetime | None) -> None:
        """Keep the mail for `again_at`; None gives it up."""

    def give_back(self, notice_ids: Collection[str]) -> None:
        """End the claim on mails that were not tried."""
