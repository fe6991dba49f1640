"""Sign-in providers: who a person is, checked again while they are signed in.

Invariants: what was true at sign-in is asked again at each refresh (a person who is not allowed any more is signed out); user
names are normalised in one place; passwords are compared in constant time and guesses are throttled; auth_state carries
(issuer, subject) and nothing that opens a door; sign-in works while the quota service is down.
The demo's sign-in refuses to run where anybody but this machine could reach it.
"""

import hashlib
import hmac
import ipaddress
import re
import time
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from jupyterhub.auth import Authenticator
from jupyterhub.handlers.base import BaseHandler
from tornado import web
from traitlets import Callable as CallableTrait
from traitlets import Integer, List, Unicode

from hub import roles
from hub.language import language_of, translator
from hub.people import person_of
from hub.settings import DemoUser
from quota.client import Person

DEMO_ISSUER: Final = "urn:commons:demo"
WAIT_S: Final = 60

Tell = Callable[[str, Person], Awaitable[bool]]

# JupyterHub 6.1.1 reads this attribute for a failed refresh and sets it for token requests only: without it a person who was
# signed out meanwhile causes an AttributeError in the log of every page. Held by tests/unit/hub/test_hub_bugs.py.
if not hasattr(BaseHandler, "_token_authenticated"):
    BaseHandler._token_authenticated = False


class NotLoopback(ValueError):
    """The demo's sign-in was asked to serve an address that others can reach."""


class Throttle:
    """Counts wrong guesses by name; after `guesses` of them the name waits WAIT_S since the last one."""

    def __init__(self, guesses: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._guesses = guesses
        self._monotonic = monotonic
        self._failed: dict[str, tuple[int, float]] = {}

    def wait_s(self, name: str) -> int:
        """Seconds that this name has to wait; 0 where it may guess."""
        count, last = self._failed.get(name, (0, 0.0))
        left_s = last + WAIT_S - self._monotonic()
        if left_s <= 0:
            self._failed.pop(name, None)
            return 0
        return int(left_s) + 1 if count >= self._guesses else 0

    def failed(self, name: str) -> None:
        """Count one wrong guess; names that waited long enough are forgotten, so that the table stays small."""
        now = self._monotonic()
        self._failed = {one: (count, last) for one, (count, last) in self._failed.items() if now - last < WAIT_S}
        self._failed[name] = (self._failed.get(name, (0, now))[0] + 1, now)

    def succeeded(self, name: str) -> None:
        """Forget the wrong guesses of somebody who knew."""
        self._failed.pop(name, None)


class CommonsAuthenticator(Authenticator):
    """What every provider of this portal has in common; a provider says who is who in `person_of`."""

    tell = CallableTrait(default_value=None, allow_none=True, help="Tells the quota service who a hub user is.").tag(
        config=True
    )
    pages = CallableTrait(help="Gives the handlers of the portal's own pages, which come before the hub's.").tag(
        config=True
    )

    def normalize_username(self, username: str) -> str:
        """One spelling a name: compatibility forms folded, lower case, no space around it."""
        return unicodedata.normalize("NFKC", super().normalize_username(username)).strip().lower()

    def get_handlers(self, app: Any) -> list[Any]:
        """Ours first: the hub takes the first match, so they can stand in for stock routes."""
        return [*self.pages(), *super().get_handlers(app)]

    async def run_post_auth_hook(self, handler: Any, auth_model: dict[str, Any]) -> dict[str, Any]:
        """After a sign-in that succeeded, tell the quota service who it was."""
        model: dict[str, Any] = await super().run_post_auth_hook(handler, auth_model)
        await self._tell(model)
        return model

    async def refresh_user(self, user: Any, handler: Any = None) -> bool | dict[str, Any]:
        """Ask everything again that let the person in; False signs them out."""
        model = await self.still_here(user)
        name = user.name
        if model is None or not self.check_blocked_users(name, model):
            return False
        if not self.allow_all and not self.check_allowed(name, model):
            return False
        await self._tell(model)
        return model

    async def still_here(self, user: Any) -> dict[str, Any] | None:
        """The auth model of somebody who is signed in, as of now; None for somebody who must not be here any more."""
        raise NotImplementedError

    async def _tell(self, model: Mapping[str, Any]) -> None:
        if self.tell is not None:
            await self.tell(model["name"], person_of(model["name"], model["auth_state"]))


class DemoAuthenticator(CommonsAuthenticator):
    """The demo's sign-ins: random passwords from the data folder, on a loopback address only."""

    demo_users = List(help="The sign-ins, as DemoUser.").tag(config=True)
    public_url = Unicode(help="The address that browsers open.").tag(config=True)
    guesses = Integer(5, help="Wrong passwords for a name before it has to wait.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_loopback(self.public_url)
        self._throttle = Throttle(self.guesses)

    async def authenticate(self, handler: Any, data: Mapping[str, str]) -> dict[str, Any] | None:
        """Check name and password; raises 429 where the name has to wait."""
        name = self.normalize_username(data.get("username") or "")
        wait_s = self._throttle.wait_s(name)
        if wait_s:
            _ = translator(language_of(handler))
            text = _("Too many wrong passwords for this name. Wait %(number)s s, then try again.")
            raise web.HTTPError(429, text % {"number": wait_s})
        user = self._find(name)
        # Unknown names are compared too, so that the time does not tell which names exist.
        expected = user.password if user is not None else "no such person"
        right = hmac.compare_digest(_digest(expected), _digest(data.get("password") or ""))
        if user is None or not right:
            self._throttle.failed(name)
            return None
        self._throttle.succeeded(name)
        return _model(user, _foreign_groups(handler.find_user(name)))

    def check_allowed(self, username: str, authentication: Any = None) -> bool:
        """Everybody in the list is allowed."""
        return self._find(username) is not None

    async def still_here(self, user: Any) -> dict[str, Any] | None:
        """The list as it stands; roles may have changed."""
        found = self._find(user.name)
        return None if found is None else _model(found, _foreign_groups(user))

    def _find(self, name: str) -> DemoUser | None:
        return next((one for one in self.demo_users if self.normalize_username(one.name) == name), None)


def _digest(password: str) -> bytes:
    """Make both sides the same length before they are compared."""
    return hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest()


def require_loopback(url: str) -> None:
    """Raises NotLoopback unless `url` can be reached from this machine only."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback):
        return
    raise NotLoopback("the demo's sign-in works on a loopback address only; configure a sign-in provider for others")


def _is_address(host: str) -> bool:
    return re.fullmatch(r"[0-9.]+|[0-9a-f:]+", host) is not None


def _model(user: DemoUser, other_groups: Iterable[str]) -> dict[str, Any]:
    name = user.name.lower()
    return {
        "name": name,
        "admin": "admin" in user.roles,
        "groups": sorted({*roles.demo_groups(user.roles), *other_groups}),
        "auth_state": {"issuer": DEMO_ISSUER, "subject": name, "display_name": user.name},
    }


def _foreign_groups(user: Any) -> set[str]:
    """Groups that somebody else fills, courses among them: the hub replaces all groups by those of the auth model."""
    return set() if user is None else {group.name for group in user.groups} - set(roles.ROLE_GROUPS)
