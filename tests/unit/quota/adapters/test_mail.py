"""The mail's text and its settings: whatever people wrote, the headers are ours."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import SMTP

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from quota.adapters.mail import as_message
from quota.adapters.mail_settings import MailTable
from quota.domain.ids import PersonId
from quota.domain.notice import Notice, NoticeKind
from quota.service.letters import Addresses, compose, mailbox
from tests.fakes import START

TABLE = MailTable(server="localhost", security="none", sender="Portal <noreply@portal.example>")
LEAD = Addresses("https://portal.example/", "https://portal.example/choices", "Programme")
HEADERS = [
    "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding",
    "MIME-Version", "Content-Language",
]  # fmt: skip


@given(project=st.text(max_size=300), name=st.text(max_size=100), reason=st.text(max_size=300))
@example("x\r\nBcc: all@example.org", "y\nTo: z", "")
@example("=?utf-8?q?=0ABcc:_x?=", "=?utf-8?b?Cg==?=", "= ?utf-8?q?=0A?=")  # Python decodes these when a header is set
def test_no_text_of_a_person_becomes_a_header(project: str, name: str, reason: str) -> None:
    notice = Notice(
        PersonId("p"), NoticeKind.SUSPENDED, "s", "1", START,
        {"project": project.replace("\ud800", ""), "reason": reason},
    )  # fmt: skip
    message = as_message(compose(notice, name, "ada@example.org", "en", str, LEAD), TABLE)
    sent = message_from_bytes(message.as_bytes(), policy=SMTP)
    assert sent.keys() == HEADERS
    assert sent["To"] == "ada@example.org"
    assert "\n" not in sent["Subject"]


@pytest.mark.parametrize(
    "address",
    [None, "", "ada", "ada@", "@x.org", "a b@x.org", "ada@x.org\n", "ada@x.org, eve@x.org", "<ada@x.org>", "ä@x.org", "a" * 250 + "@x.org"],
)  # fmt: skip
def test_what_is_not_one_plain_mailbox_gets_no_mail(address: str | None) -> None:
    assert mailbox(address) is None


def test_a_plain_mailbox_is_taken_as_it_is() -> None:
    assert mailbox("Ada.Lovelace+portal@sub.example.org") == "Ada.Lovelace+portal@sub.example.org"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sender": ""}, "sender"),
        ({"sender": "Portal <noreply>"}, "sender"),
        ({"server": "mail.example.org"}, "this machine only"),
        ({"user": "portal"}, "belong together"),
        ({"password_file": "mail_password"}, "belong together"),
        ({"password_file": "../../etc/passwd", "user": "portal"}, "password_file"),
        ({"security": "maybe"}, "security"),
    ],
)
def test_settings_that_would_send_nothing_or_send_in_the_clear_are_refused(
    changes: dict[str, str], reason: str
) -> None:
    good = {"server": "127.0.0.1", "security": "none", "sender": "Portal <noreply@portal.example>"}
    with pytest.raises(ValidationError, match=reason):
        MailTable.model_validate({**good, **changes})
