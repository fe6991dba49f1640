"""The pages' session cookie: the hub's access token and the form token, encrypted (Fernet) with the portal's cookie key.

Nothing is kept on the server; a cookie that we did not seal, or sealed too long ago, is no cookie. The form token lives inside
the sealed cookie and nowhere else, so that a form is good for one session only.
"""

from __future__ import annotations

import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

SESSION_COOKIE: Final = "commons-quota-session"
STATE_COOKIE_PREFIX: Final = "commons-quota-state-"
SESSION_S: Final = 14 * 86_400  # the hub's own sign-in lasts as long; its token may end earlier
STATE_S: Final = 600


@dataclass(frozen=True, slots=True)
class BrowserSession:
    hub_token: str = field(repr=False)
    form_token: str = field(repr=False)

    def form_token_is(self, given: str) -> bool:
        """Whether a form's token is this session's, compared in constant time."""
        return hmac.compare_digest(self.form_token.encode(), given.encode())


def new_session(hub_token: str) -> BrowserSession:
    """A session with a form token of its own."""
    return BrowserSession(hub_token, secrets.token_urlsafe(24))


def state_cookie(state: str) -> str:
    """The name of the cookie that keeps `state`: one a sign-in, so that two tabs do not disturb each other."""
    safe = "".join(char for char in state[:16] if char.isascii() and (char.isalnum() or char in "-_"))
    return f"{STATE_COOKIE_PREFIX}{safe}"


class CookieSeal:
    """Seals and opens cookie values under one Fernet key; knows the cookies' names, which `prefix` begins."""

    def __init__(self, key: bytes, prefix: str = "") -> None:
        self._fernet = Fernet(key)
        self._prefix = prefix

    @property
    def session_cookie(self) -> str:
        """The name of the session's cookie."""
        return f"{self._prefix}{SESSION_COOKIE}"

    def state_cookie(self, state: str) -> str:
        """The name of the cookie that keeps the state of one sign-in."""
        return f"{self._prefix}{state_cookie(state)}"

    def seal_session(self, session: BrowserSession) -> str:
        """The cookie's value for `session`."""
        return self._seal({"use": "session", "hub_token": session.hub_token, "form_token": session.form_token})

    def open_session(self, value: str | None) -> BrowserSession | None:
        """The session in a cookie's value; None for anything that is not one of ours."""
        content = self._open(value, "session", SESSION_S)
        if content is None:
            return None
        return BrowserSession(content["hub_token"], content["form_token"])

    def seal_state(self, state: str) -> str:
        """The cookie's value for the state of a sign-in under way."""
        return self._seal({"use": "state", "state": state})

    def open_state(self, value: str | None) -> str | None:
        """The state in a cookie's value; None for anything that is not one of ours or older than ten minutes."""
        content = self._open(value, "state", STATE_S)
        return content["state"] if content is not None else None

    def _seal(self, content: dict[str, str]) -> str:
        return self._fernet.encrypt(json.dumps(content).encode()).decode()

    def _open(self, value: str | None, use: str, ttl_s: int) -> dict[str, str] | None:
        if not value or not value.isascii():
            return None
        try:
            content = json.loads(self._fernet.decrypt(value.encode(), ttl=ttl_s))
        except (InvalidToken, ValueError):
            return None
        return content if content.get("use") == use else None
