"""Requests with an Idempotency-Key: done once, whichever process a repetition reaches, and answered again where the answer is kept.

Invariants: the hold's id follows from the caller's key and the Idempotency-Key, so that the ledger itself admits it once. An attempt
that cost nothing (refused, failed, never sent) may be made again under the same key; one that was charged may not. Answers are kept
for an hour, sealed with the client's own secrets (AES-GCM), which are kept nowhere: no table holds a readable one.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quota.domain.hold import HoldState
from quota.domain.ids import HoldId
from quota.gateway import denials
from quota.gateway.callers import Caller
from quota.gateway.denials import Denied
from quota.service.ledger_ports import Ledger
from quota.service.ports import Clock, Store

KEPT_S: Final = 3600
KEPT_BYTES_MAX: Final = 256 * 1024
FINGERPRINT: Final = "fingerprint"  # in the hold's details
_ATTEMPTS: Final = 8
_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A request that may be repeated: under which hold it runs, and how its answer is sealed."""

    hold_ids: tuple[HoldId, ...]  # this attempt's, then those of attempts that may follow it
    fingerprint: str
    seal: bytes = field(repr=False)

    @property
    def hold_id(self) -> HoldId:
        return self.hold_ids[0]

    def later(self) -> Repeatable | None:
        """The next attempt, where this one was refused; None where there were too many."""
        return replace(self, hold_ids=self.hold_ids[1:]) if len(self.hold_ids) > 1 else None


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer that was given before."""

    hold_id: HoldId
    body: bytes = field(repr=False)


class Repeats:
    def __init__(self, ledger: Ledger, store: Store, clock: Clock, secret: bytes) -> None:
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._secret = secret

    async def begin(
        self, caller: Caller, api_key: str, named: bytes, path: str, body: bytes
    ) -> Repeatable | Kept | Denied:
        """What to do with a request under the Idempotency-Key `named`. Raises Unavailable."""
        if not 1 <= len(named) <= 255 or not named.isascii() or not named.decode().isprintable():
            return denials.bad_idempotency_key()
        fingerprint = self._mac(b"body", path.encode(), body)
        seal = sha256(b"\0".join([b"answer", api_key.encode(), named])).digest()
        names = (caller.key_id.encode(), named)
        hold_ids = tuple(HoldId(self._mac(b"hold", *names, b"%d" % attempt)[:32]) for attempt in range(_ATTEMPTS))
        for attempt, hold_id in enumerate(hold_ids):
            hold = await self._ledger.hold(hold_id)
            if hold is None:
                return Repeatable(hold_ids[attempt:], fingerprint, seal)
            if hold.details.get(FINGERPRINT) != fingerprint:
                return denials.other_body()
            if hold.state is HoldState.HELD:
                return denials.under_way()
            if hold.state is HoldState.SETTLED:
                return await self._kept(hold_id, seal) or denials.answered_before()
        return denials.answered_before()

    async def keep(self, repeatable: Repeatable, body: bytes) -> None:
        """Keep an answer for those who ask again. Raises Unavailable."""
        if len(body) > KEPT_BYTES_MAX:
            return
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(repeatable.seal).encrypt(nonce, body, repeatable.hold_id.encode())
        at = self._clock.now()
        until = at + timedelta(seconds=KEPT_S)
        await self._store.write(lambda tx: tx.kept_answers.put(repeatable.hold_id, sealed, at=at, until=until))

    async def _kept(self, hold_id: HoldId, seal: bytes) -> Kept | None:
        at = self._clock.now()
        sealed = await self._store.read(lambda tx: tx.kept_answers.get(hold_id, at=at))
        if sealed is None:
            return None
        try:
            body = AESGCM(seal).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], hold_id.encode())
        except InvalidTag:  # the same caller under another key: a new session, or a key that was made anew
            return None
        return Kept(hold_id, body)

    def _mac(self, *parts: bytes) -> str:
        """A fingerprint that tells nobody what it was made of; lengths stand before the parts."""
        said = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        return hmac.new(self._secret, b"repeat" + said, sha256).hexdigest()
