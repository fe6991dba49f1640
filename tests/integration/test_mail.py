"""Mails against a real SMTP server: nothing missing whatever dies when, and nothing that a person wrote becomes a header."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import parseaddr
from pathlib import Path
from typing import TypeVar

import pytest

from quota.adapters.mail import SmtpServer
from quota.adapters.mail_settings import MailTable
from quota.domain.ids import PersonId, ProjectId
from quota.domain.messages import Translate
from quota.domain.notice import Choice, Notice, NoticeKind
from quota.domain.project import Person
from quota.locales import translations
from quota.service import notices
from quota.service.letters import Addresses
from quota.service.mailer import Mailer, Pauses
from quota.service.ports import Transaction
from quota.service.services import Services
from quota.store.database import Database
from quota.store.unit_of_work import SqlStore
from tests import ledgers
from tests.fakes import FakeClock, world
from tests.integration.smtp_server import PASSWORD, USER, SmtpProcess

T = TypeVar("T")
SENDER = "Compute Commons <noreply@portal.example>"
LEAD = Addresses("https://portal.example/services/quota/", "https://portal.example/choices", "The Programme")
FULL = bool(os.environ.get("COMMONS_FULL"))


class Post:
    """A store, a clock, and a mailer that speaks to the process."""

    def __init__(self, folder: Path, smtp: SmtpProcess, **table: object) -> None:
        self.smtp = smtp
        self.database = ledgers.sqlite_database(folder)
        self.clock = FakeClock()
        self.services: Services = replace(
            world().services, clock=self.clock, store=SqlStore(self.database), sends_mail=True
        )
        fields = {"server": "127.0.0.1", "port": smtp.port, "security": "none", "sender": SENDER, **table}
        self.table = MailTable.model_validate(fields)

    def mailer(self, password: str = "", *, deadline_s: float = 60) -> Mailer:
        """A mailer as a process has one after its start: it remembers nothing."""
        server = SmtpServer(self.table, password, deadline_s=deadline_s)
        return Mailer(self.services, server, translator, LEAD, Pauses(idle_s=0.05, first_s=0.05, longest_s=0.2))

    async def person(self, name: str, email: str | None, language: str = "en", display: str = "") -> Person:
        return await self.services.store.write(
            lambda tx: tx.people.register(
                issuer="urn:test", subject=name, hub_name=name, display_name=display or name.title(), email=email,
                language=language, at=self.clock.now(),
            )
        )  # fmt: skip

    async def tell(self, person: Person, number: int, project: str = "Folding") -> Notice:
        params = {"project": project, "percent": "80", "awarded": 3_600_000, "available": 720_000, "unit": "gpu_ms"}
        at = self.clock.tick(0.001)
        notice = Notice(PersonId(person.id), NoticeKind.LOW, f"a{number}", "80@1", at, params, ProjectId("p"))
        await self.services.store.write(lambda tx: notices.tell(self.services, tx, notice))
        return notice

    async def send_all(self, *, tries: int = 50) -> int:
        """Run a mailer until the outbox has nothing due, at most `tries` times."""
        mailer, sent = self.mailer(), 0
        for _ in range(tries):
            done = await mailer.run()
            sent += done
            self.clock.tick(3)  # a mail whose outcome is unknown is due again
            if not done and not mailer.due_in_s(0) > 0.05 and not await self._queued():
                return sent
        return sent

    async def _queued(self) -> int:
        with self.database.reading() as connection:
            found = connection.exec_driver_sql("SELECT count(*) FROM mail WHERE state = 'queued'").scalar_one()
        return int(found)

    def states(self) -> dict[str, tuple[str, str | None]]:
        with self.database.reading() as connection:
            rows = connection.exec_driver_sql("SELECT notice_id, state, reply FROM mail").all()
        return {row[0]: (row[1], row[2]) for row in rows}


def translator(language: str) -> Translate:
    return translations(language).gettext


@pytest.fixture
def smtp(tmp_path: Path) -> Iterator[SmtpProcess]:
    process = SmtpProcess(tmp_path)
    yield process
    process.kill()


def ids_of(post: Post) -> list[str]:
    return [str(mail["Message-ID"]) for mail in post.smtp.mails()]


async def test_each_reader_gets_plain_text_in_their_own_language_under_the_notices_own_id(
    tmp_path: Path, smtp: SmtpProcess
) -> None:
    post = Post(tmp_path, smtp.start())
    ada = await post.person("ada", "ada@example.org")
    wei = await post.person("wei", "wei@example.org", display="王伟")
    await post.services.store.write(lambda tx: tx.notices.choose(wei.id, Choice("zh")))
    told = [await post.tell(ada, 1), await post.tell(wei, 2)]
    assert await post.send_all() == 2
    english, chinese = smtp.mails()
    assert [mail["Message-ID"] for mail in (english, chinese)] == [f"<{one.id}@portal.example>" for one in told]
    assert english["Subject"].strip() == "80 % of what Folding was awarded is used: 0.20 GPU-h of 1.00 GPU-h is left."
    assert (english["To"], parseaddr(english["From"])[1]) == ("ada@example.org", "noreply@portal.example")
    assert english["Auto-Submitted"] == "auto-generated"
    assert (english.get_content_type(), english.is_multipart()) == ("text/plain", False)
    body = english.get_content()
    assert body.startswith("Dear Ada,")
    assert "https://portal.example/choices" in body
    assert "Folding 的获批额度已用 80 %" in chinese["Subject"]
    assert chinese.get_content().startswith("王伟，您好！")


@pytest.mark.parametrize("cut_every", [0, 3])
async def test_a_mail_server_killed_mid_queue_loses_no_notice_and_duplicates_share_a_message_id(
    tmp_path: Path, cut_every: int
) -> None:
    smtp = SmtpProcess(tmp_path, cut_every=cut_every).start()
    post = Post(tmp_path, smtp)
    ada = await post.person("ada", "ada@example.org")
    count, kills, chance = (600, 20, random.Random(4)) if FULL else (60, 4, random.Random(4))
    told = {(await post.tell(ada, number)).id for number in range(count)}
    sending = asyncio.create_task(send_until(post, len(told)))
    try:
        for _ in range(kills):
            await grown(smtp, by=chance.randint(1, count // (kills + 1)))
            smtp.kill()
            smtp.start()
        await asyncio.wait_for(sending, 240)
    finally:
        sending.cancel()
        smtp.kill()
    arrived = ids_of(post)
    assert set(arrived) == {f"<{one}@portal.example>" for one in told}
    assert len(arrived) >= len(told)
    if cut_every:
        assert len(arrived) > len(told)  # cut after DATA: taken, not known to be, sent again
    assert {state for state, _ in post.states().values()} == {"sent"}


async def send_until(post: Post, count: int) -> None:
    """The mailer's loop, on a clock that runs fast."""
    mailer, sent = post.mailer(), 0
    while sent < count:
        done = await mailer.run()
        sent += done
        post.clock.tick(5)
        await asyncio.sleep(mailer.due_in_s(done))


async def grown(smtp: SmtpProcess, *, by: int) -> None:
    """Wait until so many more mails were taken, or no more come."""
    before = len(smtp.lines())
    for _ in range(400):
        if len(smtp.lines()) >= before + by:
            return
        await asyncio.sleep(0.02)


class DiesAtTheNote(SqlStore):
    """Its process is gone before it has noted that the server took the mail."""

    def __init__(self, database: Database, smtp: SmtpProcess) -> None:
        super().__init__(database)
        self._smtp = smtp

    async def write(self, work: Callable[[Transaction], T]) -> T:
        if self._smtp.lines():
            raise KeyboardInterrupt
        return await super().write(work)


async def test_a_sender_that_dies_between_the_servers_answer_and_its_own_note_sends_again_under_the_same_id(
    tmp_path: Path, smtp: SmtpProcess
) -> None:
    post = Post(tmp_path, smtp.start())
    told = await post.tell(await post.person("ada", "ada@example.org"), 1)
    dying = replace(post.services, store=DiesAtTheNote(post.database, smtp))
    with pytest.raises(KeyboardInterrupt):
        await Mailer(dying, SmtpServer(post.table, ""), translator, LEAD).run()
    assert await post.mailer().run() == 0  # claimed still
    post.clock.tick(180)
    assert await post.send_all() == 1
    assert ids_of(post) == [f"<{told.id}@portal.example>"] * 2


async def test_a_server_that_is_down_costs_no_mail_a_try_and_is_asked_less_and_less_often(
    tmp_path: Path, smtp: SmtpProcess
) -> None:
    post = Post(tmp_path, smtp)
    told = await post.tell(await post.person("ada", "ada@example.org"), 1)
    mailer = post.mailer()
    waits = []
    for _ in range(5):
        assert await mailer.run() == 0
        waits.append(mailer.due_in_s(0))
    assert waits == [0.05, 0.1, 0.2, 0.2, 0.2]
    assert post.states()[told.id] == ("queued", None)
    smtp.start()
    assert await mailer.run() == 1
    assert mailer.due_in_s(1) == 0


async def test_a_mailbox_that_is_gone_is_given_up_one_that_asks_to_wait_is_tried_later_and_neither_keeps_others_back(
    tmp_path: Path, smtp: SmtpProcess
) -> None:
    post = Post(tmp_path, smtp.start())
    names = (
        "gone@example.org",
        "later@example.org",
        "ada@example.org",
        None,
        "eve@x.org\r\nBcc: all@x.org",
        "a b@x.org",
    )
    told = [await post.tell(await post.person(f"p{n}", address), n) for n, address in enumerate(names)]
    mailer = post.mailer()
    post.clock.tick(1)
    for _ in range(3):
        await mailer.run()
    states = post.states()
    assert states[told[0].id][0] == "given_up"
    assert str(states[told[0].id][1]).startswith("550")
    assert states[told[1].id][0] == "queued"
    assert states[told[2].id][0] == "sent"
    assert {states[one.id] for one in told[3:]} == {("given_up", "no usable address is known")}
    assert [line["to"] for line in smtp.lines()] == [["ada@example.org"]]
    for _ in range(400):
        post.clock.tick(3600)
        await mailer.run()
    assert post.states()[told[1].id][0] == "given_up"  # after three days


async def test_nothing_that_a_person_wrote_becomes_a_header_or_ends_the_mail(tmp_path: Path, smtp: SmtpProcess) -> None:
    post = Post(tmp_path, smtp.start())
    nasty = (
        "Fold\r\nBcc: all@example.org",
        "x\n.\nMAIL FROM:<eve@x>",
        "\u2028Subject: y",
        "a\x00b\x85c",
        "=?utf-8?q?=0ABcc:_x?=",
    )
    for number, text in enumerate(nasty):
        ada = await post.person(f"ada{number}", "ada@example.org", display=text)
        await post.tell(ada, number, project=text)
    assert await post.send_all() == len(nasty)
    for mail, line in zip(smtp.mails(), smtp.lines(), strict=True):
        assert mail.keys() == [
            "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding",
            "MIME-Version", "Content-Language",
        ]  # fmt: skip
        assert line["to"] == ["ada@example.org"]
        assert "\n" not in mail["Subject"]
        assert "https://portal.example/choices" in mail.get_content()  # the end of the mail arrived, too


async def test_with_starttls_the_certificate_is_checked_and_the_password_given(
    tmp_path: Path, smtp: SmtpProcess
) -> None:
    certificate = smtp.file.with_suffix(".pem")
    certificate.write_bytes(await asyncio.to_thread(self_signed, tmp_path))
    smtp.start()
    safe = {"security": "starttls", "user": USER, "password_file": "mail_password"}
    distrusting, trusting = (
        Post(tmp_path, smtp, **safe),
        Post(tmp_path, smtp, **safe, ca_file=str(tmp_path / "cert.pem")),
    )
    for post in (distrusting, trusting):
        await post.tell(await post.person("ada", "ada@example.org"), 1)
    assert await distrusting.mailer(PASSWORD, deadline_s=2).run() == 0  # the library waits for it
    assert await trusting.mailer("wrong").run() == 0
    assert smtp.lines() == []
    assert await trusting.mailer(PASSWORD).run() == 1
    (line,) = smtp.lines()
    assert (line["tls"], line["authenticated"]) == (True, True)


async def test_a_changed_mail_password_keeps_the_mail_until_the_file_has_it(tmp_path: Path, smtp: SmtpProcess) -> None:
    """docs/howto/secrets.md: the server's owners change it; a refused sign-in is no refused mail, and the restart after the file sends it."""
    certificate = smtp.file.with_suffix(".pem")
    certificate.write_bytes(await asyncio.to_thread(self_signed, tmp_path))
    smtp.start()
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "mail_password").write_text("the-old-one")
    post = Post(
        tmp_path,
        smtp,
        security="starttls",
        user=USER,
        password_file="mail_password",
        ca_file=str(tmp_path / "cert.pem"),
    )
    notice = await post.tell(await post.person("ada", "ada@example.org"), 1)
    assert await post.mailer((secrets / "mail_password").read_text()).run() == 0
    assert post.states()[str(notice.id)][0] == "queued"
    (secrets / "mail_password").write_text(PASSWORD)
    post.clock.tick(3)
    assert await post.mailer((secrets / "mail_password").read_text()).run() == 1
    assert [line["authenticated"] for line in smtp.lines()] == [True]


def self_signed(folder: Path) -> bytes:
    """A certificate for this machine, left in cert.pem, with its key behind it."""
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*made, *files], check=True, capture_output=True, timeout=60)
    return (folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes()
