"""The gateway key that comes with a session: an HMAC over the hold's id (docs/decisions/0004-session-keys.md).

A replay of the hold gives the same key, nothing is stored, and the key is worth nothing once the hold is closed: whoever
accepts a key must also see the hold open.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Final

from quota.domain.ids import HoldId, is_id

PREFIX: Final = "cck-"
_MAC_LENGTH: Final = 43  # 32 bytes in unpadded base64; the MAC itself may contain '-'


def session_key(secret: bytes, hold_id: HoldId) -> str:
    """The key of the session under `hold_id`; at most 112 characters."""
    return f"{PREFIX}{hold_id}-{_mac(secret, hold_id)}"


def verify_session_key(secret: bytes, key: str) -> HoldId | None:
    """The hold that `key` belongs to; None for anything that we did not make. Compares in constant time."""
    if not key.isascii() or not key.startswith(PREFIX) or len(key) > 128:
        return None
    body = key[len(PREFIX) :]
    hold, dash, mac = body[: -_MAC_LENGTH - 1], body[-_MAC_LENGTH - 1 : -_MAC_LENGTH], body[-_MAC_LENGTH:]
    if dash != "-" or not is_id(hold):
        return None
    hold_id = HoldId(hold)
    return hold_id if hmac.compare_digest(mac, _mac(secret, hold_id)) else None


def _mac(secret: bytes, hold_id: HoldId) -> str:
    digest = hmac.new(secret, f"session-key:{hold_id}".encode(), sha256).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
