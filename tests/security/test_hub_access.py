"""Who may open which of our routes on the hub: each route × each asker, on their own things and on another's.

The live routes decide what must be listed: a route of ours without a row fails. Stock routes of JupyterHub that ours stand in for
are asked through ours. Each row's request is good but for who sends it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from jupyterhub.auth import Authenticator

from hub import courses, pages
from hub.authenticators import PortalAuthenticator
from hub.external_sign_in import ExternalSignIn
from hub.roles import ROLE_GROUPS
from hub.sign_in_settings import ProviderTable
from hub.turns import Turns
from tests.database_hash import table_hash
from tests.integration.hub_process import Browser, HubProcess
from tests.waiting import PATIENCE_S

STOCK = {pattern for pattern, *_ in Authenticator().get_handlers(None)}


class A(StrEnum):
    NOBODY = "nobody"
    PERSON = "pi, on their own"
    OTHER = "researcher, on pi's"
    ADMIN = "admin, on pi's"
    WITHOUT_XSRF = "pi's cookie without the form token"
    FOREIGN_XSRF = "pi's cookie with another's form token"
    BEARER = "pi's API token"
    ADMIN_BEARER = "the admin's API token"
    SERVER = "the token of pi's session"
    SERVICE = "the quota service"
    REVIEWER = "somebody who reviews, on pi's"
    DECIDER = "somebody who decides, on pi's"
    AUDITOR = "somebody who audits, on pi's"


REFUSED = (302, 401, 403, 404)
CUT = 503  # the proxy's word where the hub refuses before it has read the body


@dataclass(frozen=True)
class Row:
    """One request, and the answers: `let` are the askers that are let in, all others get one of `refusals`."""

    pattern: str
    method: str
    path: str
    let: frozenset[A]
    body: Any = None
    refusals: tuple[int, ...] = REFUSED


ALL = frozenset(A)
# Roles of hub.roles without the admin's, which is a person of their own here: for the hub they are people like others.
ROLES = {A.REVIEWER: "reviewer", A.DECIDER: "decider", A.AUDITOR: "auditor"}
COOKIE = frozenset({A.PERSON, A.OTHER, A.ADMIN, *ROLES})
OWN = frozenset({A.PERSON})
OWN_OR_ADMIN = frozenset({A.PERSON, A.ADMIN})
NOBODY_AT_ALL: frozenset[A] = frozenset()
PATCH = {"user_options": {"project": "p1", "profile": "cpu", "application": "lab", "runtime_s": 600}}
ADJUST = {"allocation_id": "alloc-gpu_ms", "delta": 1, "reason": "because"}
READS = COOKIE | {A.WITHOUT_XSRF, A.FOREIGN_XSRF}  # a page needs no form token to be read

ROWS = (
    Row(r"/spawn", "GET", "/spawn", READS),
    Row(r"/spawn/([^/]+)", "GET", "/spawn/pi", frozenset({A.PERSON, A.WITHOUT_XSRF, A.FOREIGN_XSRF, A.ADMIN})),
    Row(r"/spawn/([^/]+)/([^/]+)", "GET", "/spawn/pi/extra", frozenset({A.PERSON, A.WITHOUT_XSRF, A.FOREIGN_XSRF, A.ADMIN})),
    Row(r"/api/users/([^/]+)/server", "POST", "/api/users/pi/server", OWN_OR_ADMIN | {A.BEARER, A.ADMIN_BEARER}, {}),
    Row(r"/api/users/([^/]+)/servers/([^/]*)", "PATCH", "/api/users/pi/servers/kept", OWN_OR_ADMIN | {A.BEARER, A.ADMIN_BEARER}, PATCH),
    Row(r"/api/users/([^/]+)/server/progress", "GET", "/api/users/pi/server/progress", OWN_OR_ADMIN | {A.BEARER, A.ADMIN_BEARER, A.SERVICE}),
    Row(r"/api/users/([^/]+)/servers/([^/]*)/progress", "GET", "/api/users/pi/servers//progress", OWN_OR_ADMIN | {A.BEARER, A.ADMIN_BEARER, A.SERVICE}),
    Row(r"/api/batchspawner", "POST", "/api/batchspawner", NOBODY_AT_ALL, {"port": 4000}),
    Row(r"/api/commons/port", "POST", "/api/commons/port", frozenset({A.SERVER}), {"port": 4000}, (*REFUSED, CUT)),
    Row(r"/api/commons/deadline", "GET", "/api/commons/deadline", frozenset({A.SERVER})),
    Row(r"/commons/start", "GET", "/commons/start", READS),
    Row(r"/commons/quote/([^/]+)", "GET", "/commons/quote/pi?project=p1&profile=gpu1&runtime_s=60", OWN_OR_ADMIN),
    Row(r"/commons/admin/projects", "GET", "/commons/admin/projects", frozenset({A.ADMIN})),
    Row(r"/commons/admin/projects/([^/]+)", "GET", "/commons/admin/projects/p1", frozenset({A.ADMIN})),
    Row(r"/commons/admin/adjustments/([^/]+)", "PUT", "/commons/admin/adjustments/adjustment-9", frozenset({A.ADMIN}), ADJUST),
    Row(r"/api/commons/sessions", "GET", "/api/commons/sessions", frozenset({A.SERVICE})),
    *(
        Row(rf"/api/commons/sessions/([^/]+)/([^/]*)/{verb}", "POST", f"/api/commons/sessions/pi//{verb}", frozenset({A.SERVICE}), body)
        for verb, body in (
            ("stop", {"hold_id": "another-hold", "reason": "matrix", "grace_s": 1}),
            ("deadline", {"hold_id": "another-hold", "deadline_ms": 1}),
            ("adopt", {"hold_id": "another-hold"}),
        )
    ),
    Row(r"/commons/static/(.*)", "GET", "/commons/static/commons.css", ALL),
    Row(r"/sign-in/campus", "GET", "/sign-in/campus", NOBODY_AT_ALL, refusals=(404,)),
    Row(r"/sign-in/campus/back", "GET", "/sign-in/campus/back", NOBODY_AT_ALL, refusals=(404,)),
    Row(r"/services/([a-z][a-z0-9-]{0,39})(/.*)?", "GET", "/services/art/formgrader", NOBODY_AT_ALL),  # teachers: test_hub_courses
    Row(r"/services/([a-z][a-z0-9-]{0,39})(/.*)?", "POST", "/services/art/formgrader", NOBODY_AT_ALL),  # teachers: test_hub_courses
    Row(r"/commons/sign-out-everywhere", "GET", "/commons/sign-out-everywhere", READS),
)  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    running = HubProcess(tmp_path_factory.mktemp("hub-access") / "data")
    users = json.loads(running.secret("demo_users.json"))
    users += [{"user": role, "password": f"{role}-word", "roles": [role]} for role in ROLES.values()]
    (running.data / "secrets" / "demo_users.json").write_text(json.dumps(users))
    running.quota.book.available = {"p1": 100 * 3_600_000}
    running.quota.book.payers = {"pi": ["p1"]}
    try:
        yield running.start()
    finally:
        running.end()


class People:
    """Everybody who asks, signed in once; pi has a session that runs and one that does not."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.pi, self.researcher, self.admin = (Browser(hub, name).sign_in() for name in ("pi", "researcher", "admin"))
        self.roles = {asker: Browser(hub, role).sign_in() for asker, role in ROLES.items()}
        options = {"project": "p1", "profile": "cpu", "application": "lab", "runtime_s": 7200}
        assert self.pi.start(options).status_code in (201, 202)
        self.pi.ready()
        self.pi.start(options, "kept")
        self.pi.ready("kept")
        self.pi.stop("kept")
        self.tokens = {one: self._minted(one) for one in (self.pi, self.admin)}
        self.server_token = self._server_token()

    def _minted(self, who: Browser) -> str:
        answer = who.api("POST", f"/users/{who.user}/tokens", {"note": "matrix"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def _server_token(self) -> str:
        """What the session itself holds, read as its owner could: from its process."""
        marks = f"COMMONS_HOLD_ID={self.hub.live_sessions()[0]}".encode()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = environment.read_bytes().split(b"\0")
            except OSError:
                continue
            if marks in variables:
                found = [one for one in variables if one.startswith(b"JUPYTERHUB_API_TOKEN=")]
                if found:
                    return found[0].partition(b"=")[2].decode()
        raise AssertionError("the session's token is nowhere")

    def send(self, row: Row, asker: A) -> httpx.Response:
        browsers = {A.PERSON: self.pi, A.OTHER: self.researcher, A.ADMIN: self.admin, **self.roles}
        browser = browsers.get(asker, self.pi)
        headers = {"Sec-Fetch-Mode": "navigate" if row.method == "GET" and "api" not in row.path else "cors"}
        url = f"/hub{row.path}"
        if asker in (A.BEARER, A.ADMIN_BEARER, A.SERVER, A.SERVICE, A.NOBODY):
            tokens = {
                A.BEARER: self.tokens[self.pi],
                A.ADMIN_BEARER: self.tokens[self.admin],
                A.SERVER: self.server_token,
                A.SERVICE: self.hub.secret("quota_api_token"),
            }
            given = {} if asker is A.NOBODY else {"Authorization": f"token {tokens[asker]}"}
            return httpx.request(
                row.method,
                self.hub.url.rstrip("/") + url,
                json=row.body,
                headers={**headers, **given},
                timeout=PATIENCE_S,
            )
        token = {A.WITHOUT_XSRF: "", A.FOREIGN_XSRF: self.researcher.xsrf}.get(asker, browser.xsrf)
        sent = {**headers, **({"X-XSRFToken": token} if token else {})}
        return browser.http.request(row.method, url, json=row.body, headers=sent, follow_redirects=False)


@pytest.fixture(scope="module")
def people(hub: HubProcess) -> People:
    return People(hub)


@pytest.mark.parametrize("asker", list(A))
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_a_route_lets_in_those_whom_it_is_for_and_nobody_else(people: People, row: Row, asker: A) -> None:
    calls = len(people.hub.quota.book.adjustments)
    answer = people.send(row, asker)
    assert answer.status_code < 500 or answer.status_code in row.refusals, answer.text
    if asker in row.let:
        refused = answer.status_code in (401, 403, 404) or "/hub/login" in answer.headers.get("location", "")
        assert not refused, (answer.status_code, answer.text[:300])
        return
    assert answer.status_code in row.refusals, (answer.status_code, answer.text[:300])
    if answer.status_code == 302:
        assert "/hub/login" in answer.headers["location"]
    assert len(people.hub.quota.book.adjustments) == calls


def test_no_route_of_ours_is_missing_from_the_matrix(tmp_path: Path) -> None:
    table = ProviderTable(kind="oidc", client_id="x", issuer="https://issuer.example", allow_everyone=True)
    campus = ExternalSignIn("campus", table, "secret", "http://127.0.0.1/back")
    doors: Any = SimpleNamespace(turns=Turns())
    fence: Any = None
    teaching: Any = None
    ours = PortalAuthenticator(
        pages=lambda: [*pages.handlers(doors, fence), *courses.handlers(teaching)], providers={"campus": campus}
    ).get_handlers(None)
    assert {pattern for pattern, *_ in ours} - STOCK == {row.pattern for row in ROWS}


# A look moves when somebody was seen; a refresh seals the same auth_state anew.
SEEN = {"last_activity", "expires_at", "encrypted_auth_state"}
WAYS: dict[str, tuple[dict[str, str], str]] = {
    "JSON as text, from a subdomain": ({"Origin": "http://pi.127.0.0.1.nip", "Sec-Fetch-Site": "same-site"}, "text/plain"),
    "a plain form, from a subdomain": ({"Origin": "http://pi.127.0.0.1.nip", "Sec-Fetch-Site": "same-site"}, "application/x-www-form-urlencoded"),
    "JSON, from another site": ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, "application/json"),
    "a form with a file": ({"Origin": "null"}, "multipart/form-data; boundary=x"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_another_sites_page_changes_nothing_with_the_admins_cookie(people: People, way: str) -> None:
    """Every changing route of ours and the stock ones that hand out tokens; the browser of the admin carries its cookie along."""
    headers, kind = WAYS[way]
    before = table_hash(people.hub.data / "hub" / "jupyterhub.sqlite", columns=SEEN)
    adjustments = len(people.hub.quota.book.adjustments)
    routes = [(row.method, f"/hub{row.path}", row.body) for row in ROWS if row.method != "GET"]
    routes += [
        ("POST", "/hub/api/users/admin/tokens", {"note": "mine"}),
        ("POST", "/hub/api/users/mallory", {}),
        ("PATCH", "/hub/api/users/pi", {"admin": True}),
        ("DELETE", "/hub/api/users/pi/servers/kept", {}),
        ("POST", "/hub/api/groups/quota-admins/users", {"users": ["pi"]}),
        ("POST", "/hub/commons/sign-out-everywhere", {}),
        ("POST", "/hub/spawn/admin", {}),
        ("POST", "/hub/api/shutdown", {}),
    ]
    for method, path, body in routes:
        content = "note=mine&profile=cpu" if "urlencoded" in kind else json.dumps(body)
        answer = people.admin.http.request(
            method, path, content=content, headers={**headers, "Content-Type": kind}, follow_redirects=False
        )
        assert answer.status_code in (400, 401, 403, 404, 405, CUT), (
            method,
            path,
            answer.status_code,
            answer.text[:300],
        )
    assert len(people.hub.quota.book.adjustments) == adjustments
    after = table_hash(people.hub.data / "hub" / "jupyterhub.sqlite", columns=SEEN)
    assert after == before


def test_reading_the_hubs_pages_changes_nothing(people: People) -> None:
    """Every GET route of ours, with addresses that ask for a start: the stock hub starts a server for /hub/spawn?option=value."""
    hub = people.hub
    before = table_hash(hub.data / "hub" / "jupyterhub.sqlite", columns=SEEN)
    for row in ROWS:
        if row.method != "GET" or "sign-out" in row.path or "progress" in row.path:
            continue
        for query in ("", "profile=cpu&project=p1&application=lab&runtime_s=600&_method=POST&action=stop"):
            mark = "&" if "?" in row.path else "?"
            for browser in (people.pi, people.admin):
                headers = {"Sec-Fetch-Mode": "navigate", "X-HTTP-Method-Override": "DELETE"}
                browser.http.get(f"/hub{row.path}{mark}{query}", headers=headers, follow_redirects=False)
    assert table_hash(hub.data / "hub" / "jupyterhub.sqlite", columns=SEEN) == before
    assert len(hub.live_sessions()) == 1


def test_nobody_guesses_on_by_claiming_to_come_from_elsewhere(hub: HubProcess) -> None:
    """Through the real proxy, which adds the true address at the end of what the guesser wrote."""
    guesser, answers = Browser(hub, "nobody-at-all"), []
    for number in range(8):
        guesser.http.headers.update({"X-Forwarded-For": f"198.51.100.{number}", "X-Real-Ip": f"198.51.100.{number}"})
        answers.append(guesser.try_sign_in("a guess").status_code)
    assert answers == [403] * 5 + [429] * 3


def test_no_role_of_the_hub_is_missing_from_the_matrix() -> None:
    named = {f"quota-{role}s" for role in (*ROLES.values(), "admin")}
    assert named == set(ROLE_GROUPS)
