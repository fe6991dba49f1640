"""Minting Slurm's tokens: HS256 over `{iat, exp, sun}` (Slurm's JWT page; verified on 22.05 and 24.11).

Invariants: a token lives at most two minutes; a person's token is for a login cc-N whose uid N lies in the reserved range, so it can
name neither root nor SlurmUser nor an administrator; the key shows in no repr.
"""

from __future__ import annotations

import pwd
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import jwt

from spawners.signer.settings import LOGIN_PREFIX, LONGEST_TOKEN_LIFE_S, SignerSettings
from spawners.slurmrestd.wire import Credential

_LOGIN: Final = re.compile(rf"{LOGIN_PREFIX}([1-9][0-9]{{3,9}})")
OPERATOR_LIFE_S: Final = 60
SHORTEST_KEY_BYTES: Final = 32


class NotOurs(ValueError):
    """Nobody of the portal has this login."""


@dataclass(frozen=True, slots=True)
class Mint:
    """Holds the key."""

    settings: SignerSettings
    key: bytes = field(repr=False)

    @classmethod
    def open(cls, settings: SignerSettings) -> Self:
        """Read the key once. Raises OSError, ValueError for one that is too short to be a key."""
        key = Path(settings.key_file).read_bytes()
        if len(key) < SHORTEST_KEY_BYTES:
            raise ValueError(f"{settings.key_file} is too short to be a key")
        return cls(settings, key)

    def uid_of(self, login: str) -> int:
        """The uid of one of the portal's people. Raises NotOurs for everybody else."""
        found = _LOGIN.fullmatch(login)
        uid = int(found[1]) if found else 0
        if not self.settings.first_uid <= uid <= self.settings.last_uid:
            raise NotOurs("this login is none of the portal's people")
        if self.settings.check_accounts:
            try:
                known = pwd.getpwnam(login).pw_uid
            except KeyError:
                raise NotOurs("this login has no account on this host") from None
            if known != uid:
                raise NotOurs("this login's account has another uid")
        return uid

    def person(self, login: str) -> Credential:
        """A token of one of the portal's people. Raises NotOurs."""
        self.uid_of(login)
        return self._token(login, self.settings.token_life)

    def operator(self) -> Credential:
        """A token of the operator, which stays in this process."""
        return self._token(self.settings.operator, OPERATOR_LIFE_S)

    def _token(self, login: str, life_s: int) -> Credential:
        assert 0 < life_s <= LONGEST_TOKEN_LIFE_S
        now = int(time.time())
        return Credential(login, jwt.encode({"iat": now, "exp": now + life_s, "sun": login}, self.key, "HS256"))
