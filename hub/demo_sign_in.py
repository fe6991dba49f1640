"""The demo's sign-ins: random passwords from the data folder, on a loopback address only.

Invariants: passwords are compared in constant time, unknown names too; guesses are throttled by name and by where they come from,
so that nobody's guesses keep the name's owner out elsewhere; it refuses to run where anybody but this machine could reach it.
"""

import hashlib
import hmac
import ipaddress
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from tornado import web

from hub.addresses import client_address
from hub.language import language_of, translator
from hub.settings import DemoUser

DEMO_ISSUER: Final = "urn:commons:demo"
WAIT_S: Final = 60
NAMES: Final = 20
_ANY_NAME: Final = ""


class NotLoopback(ValueError):
    """The demo's sign-in was asked to serve an address that others can reach."""


class Throttle:
    """Counts wrong guesses by name and address; after `guesses` of them the pair waits WAIT_S since the last one.

    An address that guesses at many names waits, too, after NAMES times as many.
    """

    def __init__(self, guesses: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._guesses = guesses
        self._monotonic = monotonic
        self._failed: dict[tuple[str, str], tuple[int, float]] = {}

    def wait_s(self, name: str, address: str) -> int:
        """Seconds that guesses at this name from there have to wait; 0 where one may guess."""
        return max(
            self._left_s((name, address), self._guesses), self._left_s((_ANY_NAME, address), self._guesses * NAMES)
        )

    def failed(self, name: str, address: str) -> None:
        """Count one wrong guess; what waited long enough is forgotten, so that the table stays small."""
        now = self._monotonic()
        self._failed = {one: (count, last) for one, (count, last) in self._failed.items() if now - last < WAIT_S}
        for key in ((name, address), (_ANY_NAME, address)):
            self._failed[key] = (self._failed.get(key, (0, now))[0] + 1, now)

    def succeeded(self, name: str, address: str) -> None:
        """Forget the wrong guesses of somebody who knew."""
        self._failed.pop((name, address), None)

    def _left_s(self, key: tuple[str, str], most: int) -> int:
        count, last = self._failed.get(key, (0, 0.0))
        left_s = last + WAIT_S - self._monotonic()
        if left_s <= 0:
            self._failed.pop(key, None)
            return 0
        return int(left_s) + 1 if count >= most else 0


class DemoSignIn:
    """Name and password against the list."""

    def __init__(
        self, users: Iterable[DemoUser], public_url: str, guesses: int, normalize: Callable[[str], str]
    ) -> None:
        """Raises NotLoopback."""
        require_loopback(public_url)
        self._users = {normalize(one.name): one for one in users}
        self._normalize = normalize
        self._throttle = Throttle(guesses)

    def identify(self, handler: Any, data: Mapping[str, Any]) -> DemoUser | None:
        """The user whose name and password these are; raises 429 where the name has to wait."""
        name, password = (_text(data.get(one)) for one in ("username", "password"))
        name = self._normalize(name)
        address = client_address(handler.request)
        wait_s = self._throttle.wait_s(name, address)
        if wait_s:
            _ = translator(language_of(handler))
            text = _("Too many wrong passwords for this name. Wait %(number)s s, then try again.")
            raise web.HTTPError(429, text % {"number": wait_s})
        user = self._users.get(name)
        # Unknown names are compared too, so that the time does not tell which names exist.
        expected = user.password if user is not None else "no such person"
        right = hmac.compare_digest(_digest(expected), _digest(password))
        if user is None or not right:
            self._throttle.failed(name, address)
            return None
        self._throttle.succeeded(name, address)
        return user

    def user(self, name: str) -> DemoUser | None:
        """The user of this name, as the list stands."""
        return self._users.get(name)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _digest(password: str) -> bytes:
    """Make both sides the same length before they are compared."""
    return hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest()


def require_loopback(url: str) -> None:
    """Raises NotLoopback unless `url` can be reached from this machine only."""
    host = urlsplit(url).hostname or ""
    if (
        host == "localhost"
        or host.endswith(".localhost")
        or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
    ):
        return
    raise NotLoopback("the demo's sign-in works on a loopback address only; configure a sign-in provider for others")


def _is_address(host: str) -> bool:
    return re.fullmatch(r"[0-9.]+|[0-9a-f:]+", host) is not None
