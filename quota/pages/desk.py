"""What the pages are given: the use cases' services, the door to the hub's sign-in, and a few settings.

The pages import neither store nor adapters; `quota.main` fits `HubSignIn` in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

from quota.pages.session import CookieSeal
from quota.pages.templating import Templates
from quota.service.outlook import Outlooks
from quota.service.services import Services
from quota.service.session_ports import HubIdentity


class LoginStart(Protocol):
    @property
    def redirect_url(self) -> str: ...
    @property
    def state(self) -> str: ...


class LoginEnd(Protocol):
    @property
    def token(self) -> str: ...
    @property
    def identity(self) -> HubIdentity: ...
    @property
    def next_url(self) -> str: ...


class SignIn(Protocol):
    """The hub's OAuth provider. All raise Unavailable where it does not answer."""

    async def introspect(self, token: str, *, fresh: bool = False) -> HubIdentity | None:
        """Who a token belongs to, at most ten seconds old; asked anew with `fresh`."""

    def start_login(self, next_url: str) -> LoginStart:
        """Where to send the browser, and the state to keep in a cookie meanwhile."""

    async def finish_login(self, *, code: str, state: str, cookie_state: str) -> LoginEnd | None:
        """The end of a sign-in, None where state or code are not good."""


@dataclass(frozen=True, slots=True)
class PageSettings:
    """`public_url` is what browsers open (ends in '/'); `web_parts` the folder with bootstrap, bootstrap-icons, htmx.org."""

    public_url: str
    web_parts: Path
    cookie_key: bytes = field(repr=False)
    user_domains: bool = False  # sessions have domains of their own, below this one

    @property
    def host_cookies(self) -> bool:
        """Whether cookies carry `__Host-`, so that no page of a domain below can set them; they need https and the path "/"."""
        return self.user_domains and self.secure

    @property
    def cookie_path(self) -> str:
        """The path of the cookies that only the pages read. A shared origin's sessions must not get them, so never "/" there."""
        return "/" if self.host_cookies else self.prefix

    @property
    def cookie_prefix(self) -> str:
        """What the names of those cookies begin with."""
        return "__Host-" if self.host_cookies else ""

    @property
    def secure(self) -> bool:
        return urlsplit(self.public_url).scheme == "https"

    @property
    def base(self) -> str:
        """The path under which the whole portal lies; begins and ends with '/'."""
        return f"/{urlsplit(self.public_url).path.strip('/')}/".replace("//", "/")

    @property
    def prefix(self) -> str:
        """The path under which these pages lie; ends with '/'."""
        return f"{self.base}services/quota/"

    @property
    def hub(self) -> str:
        """The path of the hub; ends with '/'."""
        return f"{self.base}hub/"

    def user_server(self, hub_name: str, server_name: str) -> str:
        """The path of a person's server; the default one has an empty name."""
        user = f"{self.base}user/{quote(hub_name, safe='@!')}/"
        return f"{user}{quote(server_name, safe='')}/" if server_name else user


@dataclass(frozen=True, slots=True)
class Desk:
    services: Services
    sign_in: SignIn
    settings: PageSettings
    seal: CookieSeal
    templates: Templates
    outlooks: Outlooks
