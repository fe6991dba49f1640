"""Sends the outbox: at least once, in order of due time, under one Message-ID a notice.

Invariants: a mail leaves the outbox only once the server has answered that it took it, or refused it for good; a connection that
breaks in between leaves it there, so it may arrive twice, with the same Message-ID; a server that is down costs no mail a try; one
mail's trouble keeps no other back. No network call inside a transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from quota.domain.errors import Unavailable
from quota.domain.messages import Translate
from quota.domain.project import Person
from quota.service.letters import Addresses, Mail, compose, mailbox
from quota.service.notice_ports import Letter
from quota.service.notices import titled
from quota.service.ports import Transaction
from quota.service.services import Services

log = logging.getLogger("quota.mail")
_AT_ONCE: Final = 5
_CLAIM: Final = timedelta(seconds=120)  # longer than a batch may take
_FIRST_RETRY_S: Final = 30
_LONGEST_RETRY_S: Final = 3600
_GIVEN_UP_AFTER: Final = timedelta(days=3)
_UNKNOWN_OUTCOME_RETRY: Final = timedelta(seconds=2)


class MailRefused(Exception):
    """The server answered, and does not take this mail; `for_good` says that it never will (5xx)."""

    def __init__(self, reply: str, *, for_good: bool) -> None:
        super().__init__(reply)
        self.reply = reply
        self.for_good = for_good


class MailLine(Protocol):
    """An open connection to the mail server."""

    async def send(self, mail: Mail) -> None:
        """Hand `mail` over. Raises MailRefused, or Unavailable where the connection broke: then nobody knows whether it was taken."""


class MailServer(Protocol):
    def connected(self) -> AbstractAsyncContextManager[MailLine]:
        """A connection for some mails. Raises Unavailable where there is none to be had."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds: between looks at an empty outbox, and between tries while the server is down (doubling up to the longest)."""

    idle_s: float = 2.0
    first_s: float = 2.0
    longest_s: float = 300.0


class Mailer:
    """One sender; several processes may each run one."""

    def __init__(
        self,
        services: Services,
        server: MailServer,
        translate_into: Callable[[str], Translate],
        lead: Addresses,
        pauses: Pauses | None = None,
    ) -> None:
        self._services = services
        self._server = server
        self._translate_into = translate_into
        self._lead = lead
        self._pauses = pauses or Pauses()
        self._down_for = 0  # tries in a row that found no server

    async def run(self) -> int:
        """Send what is due, at most one batch; how many the server took. Raises Unavailable where the database is away."""
        at = self._services.clock.now()
        work = await self._services.store.write(lambda tx: self._claimed(tx, at))
        if not work:
            return 0
        sent = 0
        try:
            async with self._server.connected() as line:
                self._down_for = 0
                while work:
                    letter, mail = work.pop(0)
                    sent += await self._one(line, letter, mail)
        except Unavailable as error:
            self._down_for += 1
            log.warning("mail server: %s; %d mails wait", error, len(work))
        finally:
            if work:
                left = [letter.notice.id for letter, _ in work]
                await self._services.store.write(lambda tx: tx.outbox.give_back(left))
        return sent

    def due_in_s(self, sent: int) -> float:
        """Seconds until the next `run`: at once after a batch, longer and longer while the server is down."""
        if self._down_for:
            return min(self._pauses.first_s * 2.0 ** (self._down_for - 1), self._pauses.longest_s)
        return 0.0 if sent else self._pauses.idle_s

    def _claimed(self, tx: Transaction, at: datetime) -> list[tuple[Letter, Mail]]:
        work = []
        for letter in tx.outbox.claim(at, at + _CLAIM, limit=_AT_ONCE):
            person = tx.people.by_id(letter.notice.person_id)
            to = mailbox(person.email) if person is not None else None
            if person is None or to is None:
                tx.outbox.failed(letter.notice.id, "no usable address is known", None)
                continue
            work.append((letter, self._mail(tx, letter, person, to)))
        return work

    def _mail(self, tx: Transaction, letter: Letter, person: Person, to: str) -> Mail:
        language = tx.notices.choice(person.id).language or person.language
        notice = titled(letter.notice, self._services.catalogue, language)
        return compose(notice, person.display_name, to, language, self._translate_into(language), self._lead)

    async def _one(self, line: MailLine, letter: Letter, mail: Mail) -> int:
        store, now = self._services.store, self._services.clock.now
        try:
            await line.send(mail)
        except MailRefused as refused:
            reply, again = refused.reply, None if refused.for_good else retry_at(letter, now())
            await store.write(lambda tx: tx.outbox.failed(mail.id, reply, again))
            log.warning("mail %s: %s%s", mail.id, reply, "" if again else "; given up")
            return 0
        except Unavailable:
            again_at = now() + _UNKNOWN_OUTCOME_RETRY
            await store.write(lambda tx: tx.outbox.failed(mail.id, "the connection broke", again_at))
            raise
        await store.write(lambda tx: tx.outbox.sent(mail.id, now()))
        return 1


def retry_at(letter: Letter, at: datetime) -> datetime | None:
    """When a mail that was refused for now is tried again; None after three days."""
    if at - letter.notice.at > _GIVEN_UP_AFTER:
        return None
    return at + timedelta(seconds=min(_FIRST_RETRY_S * 2.0 ** min(letter.failures, 20), _LONGEST_RETRY_S))
