"""Personal keys to the gateway: one person's, in one project, made on a page and shown once.

Invariant: what is stored tells nobody the key (a hash of 32 random bytes); a key is worth something only while it is neither revoked
nor expired and its owner is a member of its project.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from quota.domain.ids import PersonId, ProjectId, new_id

PREFIX: Final = "ccp-"
_KEY: Final = re.compile(r"ccp-([0-9a-f]{32})-([A-Za-z0-9_-]{43})\Z")


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A key as it is kept. `models` None: every model of the project; limits None: none of its own."""

    id: str
    project_id: ProjectId
    person_id: PersonId
    name: str
    secret_hash: str
    models: tuple[str, ...] | None
    tokens_max: int | None  # over its whole life; counted by the ledger as a limit
    requests_per_minute: int | None
    tokens_per_minute: int | None
    made_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    charged: int = 0  # of tokens_max, as the ledger counts

    @property
    def limit_id(self) -> str:
        """The ledger's counter of `tokens_max`."""
        return f"key:{self.id}"

    def live(self, at: datetime) -> bool:
        return self.revoked_at is None and at < self.expires_at

    def is_opened_by(self, secret: str) -> bool:
        """Whether `secret` is the key's own; compared in constant time."""
        return hmac.compare_digest(hash_of(secret), self.secret_hash)

    @property
    def shown(self) -> str:
        """How a key is told from others once it is made."""
        return f"{PREFIX}{self.id[:6]}…"


def hash_of(secret: str) -> str:
    """32 random bytes need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def new_key_id() -> str:
    return new_id()


def key_text(key_id: str, secret: str) -> str:
    """What a person copies."""
    return f"{PREFIX}{key_id}-{secret}"


def read_key(text: str) -> tuple[str, str] | None:
    """(id, secret) of a key that has our shape."""
    found = _KEY.match(text)
    return (found[1], found[2]) if found is not None else None
