"""A browser without a screen: cookies, forms and their tokens, over the pages in memory."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import TracebackType
from typing import cast
from urllib.parse import urlencode

import httpx
from cryptography.fernet import Fernet

from quota.api.front import Front
from quota.pages.app import build_pages
from quota.pages.desk import PageSettings
from quota.pages.session import SESSION_COOKIE, CookieSeal, new_session
from quota.service.exchange_ports import Objects
from quota.service.services import Services
from tests.unit.quota.pages.fakes import FakeSignIn, FixedClock, World, services_of

PREFIX = "/services/quota/"
ORIGIN = "http://portal.test"
KEY = Fernet.generate_key()


class Site:
    """The pages over one world, as the service's front serves them."""

    def __init__(
        self, public_url: str = f"{ORIGIN}/", *, world: World | None = None, objects: object | None = None
    ) -> None:
        self.world = world or World()
        self.sign_in = FakeSignIn()
        self.clock = FixedClock()
        self.settings = PageSettings(public_url, Path(__file__).parent / "no-web-parts", KEY)
        self.app = Front({"/services/quota": build_pages(self._services(objects), self.sign_in, self.settings)})

    def _services(self, objects: object | None) -> Services:
        found = services_of(self.world, self.clock)
        return found if objects is None else replace(found, objects=cast(Objects, objects))

    def browser(self, name: str | None = None, *powers: str, language: str = "en") -> Browser:
        """A browser; signed in where a name is given."""
        browser = Browser(self, language)
        if name is not None:
            self.world.person(name)
            token = self.sign_in.knows(name, *powers)
            browser.client.cookies.set(SESSION_COOKIE, CookieSeal(KEY).seal_session(new_session(token)))
        return browser


class Browser:
    def __init__(self, site: Site, language: str) -> None:
        transport = httpx.ASGITransport(app=site.app, raise_app_exceptions=False)
        headers = {"accept-language": language}
        self.client = httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers)

    async def __aenter__(self) -> Browser:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.aclose()

    async def get(self, path: str = "", **headers: str) -> httpx.Response:
        return await self.client.get(PREFIX + path, headers=headers)

    async def send(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        """Post `fields` as a form of this origin."""
        sent = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin", "origin": ORIGIN}
        return await self.client.post(PREFIX + path, content=urlencode(fields), headers=sent | headers)

    async def token(self) -> str:
        """The session's form token, read where a person's browser reads it."""
        return form_token(await self.get("apply"))

    async def submit(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        """Post `fields` with the session's form token."""
        return await self.send(path, {"form_token": await self.token(), **fields}, **headers)


def form_token(page: httpx.Response) -> str:
    return hidden(page, "form_token")


def hidden(page: httpx.Response, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page.text)
    assert found is not None, (name, page.status_code, page.text[:500])
    return unescape(found[1])


def text_of(page: httpx.Response) -> str:
    """What a reader reads: no tags, single spaces."""
    body = page.text.partition("<body")[2].partition(">")[2]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())
