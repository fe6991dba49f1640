"""A real SMTP server (aiosmtpd) as a process of its own: keeps every mail in a file before it answers, and can misbehave on purpose.

`python -m tests.integration.smtp_server PORT FILE [CUT_EVERY]`: FILE gets one JSON line a mail (fsynced), and with CUT_EVERY = n the
connection is cut after every n-th DATA: taken, and never answered.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.portal import ROOT
from tests.ports import free_port
from tests.waiting import PATIENCE_S

USER, PASSWORD = "portal", "correct horse"


class Keeper:
    """Writes mails down; refuses who is asked to be refused, as real servers do."""

    def __init__(self, file: Path, cut_every: int) -> None:
        self._file = file
        self._cut_every = cut_every
        self._taken = 0

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("gone@"):
            return "550 5.1.1 no such mailbox"
        if address.startswith("later@"):
            return "450 4.2.1 greylisted, come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content if isinstance(envelope.content, bytes) else str(envelope.content).encode()
        line = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None,
            "authenticated": session.authenticated,
            "content": base64.b64encode(content).decode(),
        }
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._taken += 1
        if self._cut_every and self._taken % self._cut_every == 0:
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
            await asyncio.sleep(3600)  # the answer never comes; the connection's end cancels this
        return "250 taken"


def _authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=right)


def main() -> None:
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    cut_every = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    options: dict[str, Any] = {}
    certificate = file.with_suffix(".pem")
    if certificate.exists():
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        options = {
            "tls_context": context,
            "require_starttls": True,
            "authenticator": _authenticate,
            "auth_required": True,
        }
    controller = Controller(Keeper(file, cut_every), hostname="127.0.0.1", port=port, **options)
    controller.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    controller.stop()


@dataclass
class SmtpProcess:
    """The server as tests use it; `kill` is a kill -9, `start` again listens on the same port with the same file."""

    folder: Path
    cut_every: int = 0
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def file(self) -> Path:
        return self.folder / "mails.jsonl"

    def start(self) -> SmtpProcess:
        argv = [
            sys.executable,
            "-m",
            "tests.integration.smtp_server",
            str(self.port),
            str(self.file),
            str(self.cut_every),
        ]
        with (self.folder / "smtp.log").open("ab") as log:
            self.process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._listens():
            assert self.process.poll() is None, (self.folder / "smtp.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the mail server does not listen"
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def lines(self) -> list[dict[str, Any]]:
        """Every mail that was taken, with its envelope; a line cut short by a kill was never answered."""
        if not self.file.exists():
            return []
        whole = self.file.read_text().split("\n")[:-1]
        return [json.loads(line) for line in whole]

    def mails(self) -> list[EmailMessage]:
        """Every mail that was taken, oldest first."""
        parsed = [message_from_bytes(base64.b64decode(line["content"]), policy=SMTP_POLICY) for line in self.lines()]
        return [mail for mail in parsed if isinstance(mail, EmailMessage)]


if __name__ == "__main__":
    main()
