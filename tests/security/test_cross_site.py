"""What another site, or a notebook's page, can make a browser send: every changing route of the API × every way to send it is refused.

The browser carries the PI's good session cookie; what is missing is the form token, or the page is not one of ours. Reading changes
nothing: every GET leaves every row of every table as it was. The hub's routes: test_hub_access.py; the pages' forms: tests/unit/quota/pages/test_safety.py;
in a real browser: tests/browser/test_user_domains.py.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography.fernet import Fernet

from quota.api.app import build_api
from quota.api.front import Front
from quota.pages.desk import PageSettings
from quota.pages.door import TOKEN_HEADER, cookie_door
from quota.pages.session import BrowserSession, CookieSeal, new_session
from quota.service.callers import Power
from tests.database_hash import table_hash
from tests.integration.quota_service import CREDENTIAL, ROOT
from tests.security.test_access import ACCESS, A, Office, Route, office

__all__ = ["office"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

PORTAL = "http://portal"
FORM = "application/x-www-form-urlencoded"
CHANGING = [route for route in ACCESS if route.method != "GET" and not route.path.startswith("/internal")]
READING = [route for route in ACCESS if route.method == "GET"]


@dataclass(frozen=True)
class Way:
    """How a page that is not ours sends; `token` is what it puts into the form token's header."""

    name: str
    headers: Mapping[str, str]
    token: str | None = None  # "own" and "foreign" are filled in
    kind: str = "application/json"


SAME = {"Sec-Fetch-Site": "same-origin", "Origin": PORTAL}
WAYS = (
    Way("our own page without the token", SAME),
    Way("our own page with an empty token", SAME, ""),
    Way("our own page with another session's token", SAME, "foreign"),
    Way("a subdomain, by Origin", {"Origin": "http://pi.portal"}, "own"),
    Way("a subdomain, as browsers say", {"Sec-Fetch-Site": "same-site", "Origin": "http://pi.portal"}, "own"),
    Way("a subdomain that hides its Origin", {"Sec-Fetch-Site": "same-site"}, "own"),
    Way("another site", {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, "own"),
    Way("a sandboxed page", {"Origin": "null"}, "own"),
    Way("an origin that begins like ours", {"Origin": "http://portal.evil.example"}, "own"),
    Way("an origin with our name as user", {"Origin": "http://portal@evil.example"}, "own"),
    Way("our name at another port", {"Origin": "http://portal:8081"}, "own"),
    Way("nothing said of where it comes from", {}, "own"),
    Way("an address that was typed", {"Sec-Fetch-Site": "none"}, "own"),
    Way("JSON as text/plain, which needs no preflight", {"Sec-Fetch-Site": "same-site", "Origin": "http://pi.portal"}, None, "text/plain"),
    Way("a plain form", {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, None, FORM),
    Way("a form with a file", {"Origin": "https://evil.example"}, None, "multipart/form-data; boundary=x"),
)  # fmt: skip


@dataclass
class Site:
    office: Office
    client: httpx.AsyncClient
    cookie: str
    session: BrowserSession

    async def send(self, route: Route, way: Way, cookie: str | None = None) -> httpx.Response:
        body = {key: self.office.filled(value, A.PI) for key, value in (route.body or {}).items()}
        headers = {"Cookie": f"commons-quota-session={cookie or self.cookie}", "Content-Type": way.kind, **way.headers}
        if way.token is not None:
            tokens = {"own": self.session.form_token, "foreign": new_session("x").form_token}
            headers[TOKEN_HEADER] = tokens.get(way.token, way.token)
        content = "decision=approve&form_token=" if way.kind == FORM else json.dumps(body)
        path = ROOT + self.office.filled(route.path, A.PI)
        return await self.client.request(route.method, path, content=content, headers=headers)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def site(office: Office) -> AsyncIterator[Site]:
    key = Fernet.generate_key()
    settings = PageSettings(f"{PORTAL}/", Path("/nowhere"), key)
    introspection: Any = office.service.introspection
    door = cookie_door(office.service.services, introspection, settings)
    app = Front({ROOT: build_api(replace(office.service.parts, cookie_door=door))})
    session = new_session(introspection.token("pi", *Power))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=PORTAL) as client:
        yield Site(office, client, CookieSeal(key).seal_session(session), session)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
async def test_nothing_changes_for_a_page_that_is_not_ours_or_has_no_token(site: Site, way: Way) -> None:
    before = _rows(site.office)
    for route in CHANGING:
        answer = await site.send(route, way)
        assert answer.status_code in (400, 403), (route.path, answer.status_code, answer.text)
        assert answer.status_code == 403 or answer.json()["error"]["code"] == "invalid_json"
    assert _rows(site.office) == before


async def test_our_own_page_with_its_token_is_let_in(site: Site) -> None:
    """Else the test above would show nothing."""
    route = next(route for route in CHANGING if route.path.startswith("/applications/asked-by"))
    assert (await site.send(route, Way("ours", SAME, "own"))).is_success


async def test_a_cookie_opens_no_route_of_the_hub(site: Site) -> None:
    before = _rows(site.office)
    for route in (route for route in ACCESS if route.path.startswith("/internal")):
        answer = await site.send(route, Way("ours", SAME, "own"))
        assert answer.status_code == 401, (route.path, answer.text)
    assert _rows(site.office) == before


@pytest.mark.parametrize("asker", [A.PI, A.ADMIN, A.HUB, A.OUTSIDER], ids=lambda one: one.name)
async def test_reading_changes_nothing(office: Office, asker: A) -> None:
    before = _rows(office)
    for route in READING:
        await office.send(route, asker)
        extra = "&" if route.query else "?"
        tricked = replace(route, query=f"{route.query}{extra}_method=DELETE&action=approve")
        await office.send(tricked, asker)
    assert _rows(office) == before, asker


async def test_no_header_turns_a_read_into_a_change(office: Office) -> None:
    before = _rows(office)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        for method in ("PUT", "POST", "DELETE"):
            headers = {"Authorization": f"Bearer {office.token(A.PI)}", name: method}
            path = f"{ROOT}/projects/{office.project}/members/outsider"
            answer = await office.service.client.get(path, headers=headers)
            assert answer.status_code == 405, answer.text
    assert _rows(office) == before


FORGED = {
    "Remote-User": "admin", "X-Remote-User": "admin", "X-Forwarded-User": "admin", "X-WEBAUTH-USER": "admin", "X-User": "admin",
    "X-SLURM-USER-NAME": "root", "X-SLURM-USER-TOKEN": "x", "X-Commons-Actor": "admin", "X-Commons-Epoch": "999999",
    "X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "127.0.0.1", "X-Original-URL": "/services/quota/api/internal/reconcile",
    "X-Rewrite-URL": "/services/quota/api/internal/reconcile", "X-Forwarded-Host": "evil.example", "Forwarded": "for=127.0.0.1;host=portal",
    "X-JupyterHub-User": "admin", "Proxy-Authorization": f"Bearer {CREDENTIAL}", "X-Api-Key": CREDENTIAL, "X-Accel-Redirect": "/etc/passwd",
}  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [tuple(FORGED), ("Remote-User",), ("X-SLURM-USER-NAME",), ("X-Commons-Actor",)],
    ids=lambda names: names[-1],
)
async def test_a_header_makes_nobody_somebody_else(office: Office, names: tuple[str, ...]) -> None:
    """All at once, and those that could name a person alone."""
    before = _rows(office)
    for token in ("", office.token(A.OUTSIDER)):
        headers = {**{name: FORGED[name] for name in names}, **({"Authorization": f"Bearer {token}"} if token else {})}
        for route in ACCESS:
            if route.access.get(A.NOBODY, route.access["else"]) == 200:
                continue
            path, body = ROOT + office.filled(route.path, A.OUTSIDER), route.body
            right = route.expects(A.OUTSIDER if token else A.NOBODY)
            if right == 200:
                continue
            filled = None if body is None else {key: office.filled(value, A.PI) for key, value in body.items()}
            answer = await office.service.client.request(route.method, path, json=filled, headers=headers)
            assert answer.status_code == right or 400 <= answer.status_code < 500, (names, path, answer.text)
    assert _rows(office) == before


def _rows(office: Office) -> str:
    return table_hash(office.service.sessions.parent / "quota" / "quota.sqlite")
