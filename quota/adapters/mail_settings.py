"""The `[mail]` table of portal.toml: which server takes the portal's mails, and how the portal shows who it is.

Invariant: a password and a mail never cross a network in the clear: without TLS only a server on this machine is spoken to.
"""

from __future__ import annotations

import ipaddress
from email.utils import parseaddr
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quota.service.letters import mailbox, one_line

TABLES: Final = frozenset({"mail"})


class MailTable(BaseModel):
    """The `[mail]` table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    server: str = Field("", max_length=253, description="Host name of the mail server; empty: no mails are sent.")
    port: int = Field(587, ge=1, le=65535, description="Its port.")
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="`starttls`, `tls` (from the first byte), or `none`, for a server on this machine only."
    )
    user: str = Field("", max_length=200, description="User name for the server; empty: none is given.")
    password_file: str = Field(
        "", pattern=r"^[A-Za-z0-9_-]{0,64}$", description="File in `secrets/` with the password of `user`."
    )
    ca_file: str = Field("", description="Certificates that are trusted for the server instead of the system's.")
    sender: str = Field(
        "", max_length=300, description="Who mails come from, such as `Compute Commons <noreply@example.org>`."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.server:
            return self
        name, address = parseaddr(self.sender)
        if mailbox(address) is None or one_line(name) != name:
            raise ValueError("sender must be an address such as `Compute Commons <noreply@example.org>`")
        if self.security == "none" and not _is_this_machine(self.server):
            raise ValueError("security `none` is for a server on this machine only")
        if bool(self.user) != bool(self.password_file):
            raise ValueError("user and password_file belong together")
        return self

    @property
    def sender_domain(self) -> str:
        """The right side of Message-IDs."""
        return parseaddr(self.sender)[1].rpartition("@")[2]


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
