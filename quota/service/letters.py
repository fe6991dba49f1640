"""A notice as a mail: plain text in the reader's language. Pure.

Invariant: no text of a person can begin a header or a line of its own in the envelope: control characters and line ends become
spaces in whatever goes into a header, and an address that is not one plain mailbox is none.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from quota.domain.messages import Translate, render
from quota.domain.notice import Notice

_SUBJECT_MAX: Final = 180
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\Z"
)  # HTML's
_LINE_ENDS: Final = frozenset({"Zl", "Zp", "Cc", "Cf", "Cs"})  # Unicode categories that break or hide


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where mails lead: pages of the portal, and who they come from."""

    home: str
    choices: str
    programme: str


@dataclass(frozen=True, slots=True)
class Mail:
    """What is handed to the mail server. `id` is the notice's: the same notice has the same Message-ID, however often it is sent."""

    id: str
    to: str
    subject: str
    body: str
    language: str
    at: datetime


def compose(notice: Notice, name: str, to: str, language: str, translate: Translate, lead: Addresses) -> Mail:
    """The mail of `notice` to the mailbox `to`."""
    words = render(notice.code, notice.params, translate)

    def line(code: str, **params: str) -> str:
        return render(code, params, translate).message

    body = [
        line("mail.greeting", name=one_line(name)),
        "",
        words.message,
        *([words.next] if words.next else []),
        "",
        line("mail.more", url=lead.home),
        line("mail.choose", url=lead.choices),
        "-- ",
        line("mail.sent_by", programme=lead.programme),
        "",
    ]
    subject = one_line(words.message)[:_SUBJECT_MAX]
    return Mail(notice.id, to, subject, "\n".join(body), language, notice.at)


def one_line(text: str) -> str:
    """`text` without line ends, control and invisible characters, and what mail programs would decode into such; single spaces."""
    kept = "".join(" " if unicodedata.category(char) in _LINE_ENDS else char for char in text)
    # Python's own header parser decodes RFC 2047 words in what it is given, line ends in them included.
    return " ".join(kept.replace("=?", "= ?").split())


def mailbox(address: str | None) -> str | None:
    """`address` where it is one plain mailbox that any server takes, else None."""
    if address is None or len(address) > 254 or _ADDRESS.match(address) is None:
        return None
    return address
