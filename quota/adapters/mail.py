"""Mails over SMTP (RFC 5321) with aiosmtplib: one connection for some mails, every step with a deadline.

Invariant: what the server answered is MailRefused with its answer; whatever else goes wrong is Unavailable, and whether the mail was
taken is then unknown.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, parseaddr
from typing import Final

import aiosmtplib

from quota.adapters.mail_settings import MailTable
from quota.domain.errors import Unavailable
from quota.service.letters import Mail
from quota.service.mailer import MailLine, MailRefused

_STEP_DEADLINE_S: Final = 10.0
_FOR_GOOD: Final = 500  # RFC 5321 §4.2.1


class SmtpServer:
    """`quota.service.mailer.MailServer` for the server of portal.toml; `password` is '' where it wants none."""

    def __init__(self, table: MailTable, password: str, *, deadline_s: float = _STEP_DEADLINE_S) -> None:
        self._table = table
        self._password = password
        self._deadline_s = deadline_s

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[MailLine]:
        """A connection, signed in where the site says so. Raises Unavailable."""
        table = self._table
        client = aiosmtplib.SMTP(
            hostname=table.server,
            port=table.port,
            use_tls=table.security == "tls",
            start_tls=table.security == "starttls",
            username=table.user or None,
            password=self._password or None,
            tls_context=None if table.security == "none" else ssl.create_default_context(cafile=table.ca_file or None),
            timeout=self._deadline_s,
        )
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError) as error:
            client.close()
            raise Unavailable(f"no connection: {type(error).__name__}") from error
        try:
            yield _Line(client, table)
            await _goodbye(client)
        finally:
            client.close()


class _Line:
    def __init__(self, client: aiosmtplib.SMTP, table: MailTable) -> None:
        self._client = client
        self._table = table

    async def send(self, mail: Mail) -> None:
        """Hand `mail` over. Raises MailRefused, Unavailable."""
        message = as_message(mail, self._table)
        try:
            await self._client.send_message(message, sender=parseaddr(self._table.sender)[1], recipients=[mail.to])
        except aiosmtplib.SMTPRecipientsRefused as error:
            first = error.recipients[0]
            raise _refused(first.code, first.message) from error
        except aiosmtplib.SMTPResponseException as error:
            if error.code in (-1, 421):  # no answer that makes sense, or the server hangs up
                raise Unavailable("the mail server hung up") from error
            raise _refused(error.code, error.message) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Unavailable(f"the connection broke: {type(error).__name__}") from error


def as_message(mail: Mail, table: MailTable) -> EmailMessage:
    """The message with its headers; a header that would hold a line end is an error of the library's, never sent."""
    name, sender = parseaddr(table.sender)
    message = EmailMessage(policy=SMTP_POLICY)
    message["From"] = Address(name, addr_spec=sender)
    message["To"] = Address(addr_spec=mail.to)
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(mail.at)
    message["Message-ID"] = f"<{mail.id}@{table.sender_domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday replies, please
    message.set_content(mail.body, cte="base64" if not mail.body.isascii() else "quoted-printable")
    message["Content-Language"] = mail.language  # set_content drops what begins with "Content-"
    return message


def _refused(code: int, text: str) -> MailRefused:
    return MailRefused(f"{code} {text}", for_good=code >= _FOR_GOOD)


async def _goodbye(client: aiosmtplib.SMTP) -> None:
    """Say QUIT; what was taken is taken, whatever comes of it."""
    try:
        await client.quit()
    except (aiosmtplib.SMTPException, OSError):
        return
