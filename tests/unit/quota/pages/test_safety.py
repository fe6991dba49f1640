"""Sign-in, cookies, headers, and requests that must change nothing."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.requests import Request

from quota.domain.errors import Forbidden
from quota.domain.session import SessionState
from quota.pages.app import routes
from quota.pages.assets import Assets
from quota.pages.door import cookie_door
from quota.pages.session import SESSION_COOKIE, CookieSeal, new_session
from tests.unit.quota.pages.browser import KEY, ORIGIN, PREFIX, Site, text_of
from tests.unit.quota.pages.fakes import HOUR, services_of

POSTS = [
    "apply",
    "review/application-1",
    "projects/project-1/members",
    "projects/project-1/members/rui/remove",
    "sessions/hold-00000001/stop",
    "projects/p/keys",
    "projects/p/keys/k/revoke",
    "sign-out",
    "notices/put-away",
    "notices/choices",
    "projects/project-1/members/rui/limits",
    "sessions/hold-00000001/extend",
    "sessions/hold-00000001/keep-alive",
    "profile",
    "profile/link-code",
    "profile/link",
    "projects/p/course",
    "courses/ml/settings",
    "courses/ml/people",
    "courses/ml/invitations",
    "courses/ml/end",
    "join",
    "holds/hold-00000001/refund",
]
GETS = ["", "now", "apply", "applications/a", "review", "review/a", "projects/p", "projects/p/statement.csv"]
GETS += [
    "projects/p/members/m/remove",
    "sessions/s/stop",
    "notices",
    "notices/choices",
    "projects/p/members/m/limits",
    "profile",
]
GETS += ["projects/p/course", "courses/ml", "courses/ml/settings", "courses/ml/end", "courses/ml/grades.csv", "join"]
GETS += ["holds/hold-00000001/refund"]
GETS += ["courses/ml/feedback/s/ps1", "courses/ml/export.tar"]
GETS += ["projects/p/usage", "projects/p/usage.csv", "projects/p/keys", "projects/p/keys/k/revoke", "tiers"]


def test_every_route_is_known_to_these_tests() -> None:
    assets = Assets(Site().settings.web_parts)
    posts = {route.path for route in routes(assets) if route.methods and "POST" in route.methods}
    gets = {route.path for route in routes(assets) if route.methods and "GET" in route.methods}
    assert len(posts) == len(POSTS) + 1  # and the choice of language, which needs no sign-in
    assert len(gets) == len(GETS) + 2  # and the way back from the hub, and the static files


@pytest.mark.parametrize("path", GETS)
async def test_without_a_session_every_page_leads_to_the_hub(path: str) -> None:
    async with Site().browser() as browser:
        answer = await browser.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/hub/api/oauth2/authorize?state=")


async def test_signing_in_leads_back_to_where_one_wanted_to_go() -> None:
    site = Site()
    site.world.person("ada")
    code = site.sign_in.knows("ada")
    async with site.browser() as browser:
        start = await browser.get("apply")
        state = parse_qs(urlsplit(start.headers["location"]).query)["state"][0]
        back = await browser.get(f"oauth_callback?code={code}&state={state}")
        assert (back.status_code, back.headers["location"]) == (303, "/services/quota/apply")
        cookie = next(c for c in back.headers.get_list("set-cookie") if c.startswith(SESSION_COOKIE))
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert f"Path={PREFIX}" in cookie
        assert code not in cookie
        assert (await browser.get("apply")).status_code == 200
        again = await browser.get(f"oauth_callback?code={code}&state={state}")
        assert again.status_code == 400


@pytest.mark.parametrize(
    "query", ["", "?code=token-ada&state=guessed", "?error=access_denied", "?code=x&state=" + "s" * 600]
)
async def test_a_sign_in_that_was_not_begun_here_does_not_finish(query: str) -> None:
    site = Site()
    site.world.person("ada")
    site.sign_in.knows("ada")
    async with site.browser() as browser:
        answer = await browser.get(f"oauth_callback{query}")
    assert answer.status_code == 400
    assert "Sign-in did not finish" in text_of(answer)
    assert SESSION_COOKIE not in answer.headers.get("set-cookie", "")


async def test_the_cookie_is_secure_where_the_portal_is_https() -> None:
    site = Site("https://portal.test/base/")
    assert site.settings.secure
    assert site.settings.prefix == "/base/services/quota/"
    assert not Site().settings.secure


async def test_a_token_that_the_hub_no_longer_knows_is_no_session() -> None:
    site = Site()
    async with site.browser("ada") as ada:
        assert (await ada.get()).status_code == 200
        site.sign_in.identities.clear()
        assert (await ada.get()).status_code == 303
        part = await ada.get("now", **{"hx-request": "true"})
        assert (part.status_code, part.headers["hx-refresh"]) == (401, "true")


async def test_people_without_access_to_the_service_are_refused() -> None:
    site = Site()
    async with site.browser("ada") as ada:
        site.sign_in.identities = {
            token: type(known)(known.hub_name, frozenset()) for token, known in site.sign_in.identities.items()
        }
        assert (await ada.get()).status_code == 403


async def test_a_person_whom_the_hub_has_not_told_of_yet_waits_on_a_page_that_refreshes() -> None:
    site = Site()
    async with site.browser("ada") as ada:
        site.world.people.clear()
        page = await ada.get()
    assert page.status_code == 503
    assert page.headers["refresh"] == "3"
    assert "still learning who you are" in text_of(page)


async def test_a_silent_hub_is_an_outage_and_no_sign_out() -> None:
    site = Site()
    async with site.browser("ada") as ada:
        site.sign_in.down = True
        page = await ada.get()
    assert page.status_code == 503
    assert "set-cookie" not in page.headers


async def test_signing_out_forgets_the_session_and_ends_it_at_the_hub() -> None:
    site = Site()
    async with site.browser("ada") as ada:
        answer = await ada.submit("sign-out", {})
        assert (answer.status_code, answer.headers["location"]) == (303, "/hub/logout")
        assert "Max-Age=0" in answer.headers["set-cookie"]


def everything(site: Site) -> str:
    world = site.world
    return repr((world.projects, world.members, world.allocations, world.applications, world.sessions, world.stopped))


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("token", "headers"),
    [
        ("wrong", {}),
        (None, {}),
        ("right", {"sec-fetch-site": "cross-site"}),
        ("right", {"sec-fetch-site": "same-site"}),
        ("right", {"sec-fetch-site": "none"}),
        ("right", {"origin": "http://evil.test"}),
        ("right", {"origin": "null"}),
    ],
)
async def test_a_form_without_its_token_or_from_elsewhere_is_refused(
    path: str, token: str | None, headers: dict[str, str]
) -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(HOUR, 0, 0))
    site.world.join(project, "rui")
    async with site.browser("ada", "decide", "admin") as ada:
        before = everything(site)
        fields = {"hub_name": "rui", "role": "manager", "decision": "approve"}
        if token is not None:
            fields["form_token"] = await ada.token() if token == "right" else token
        answer = await ada.send(path, fields, **headers)
    assert answer.status_code == 403
    assert everything(site) == before


async def test_looking_at_pages_changes_nothing() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(HOUR, 0, 0))
    site.world.join(project, "rui")
    session = site.world.session(project, "ada", SessionState.RUNNING)
    async with site.browser("ada", "decide", "admin") as ada:
        before = everything(site)
        for path in GETS:
            real = path.replace("projects/p", f"projects/{project}").replace("members/m", "members/rui")
            await ada.get(f"{real.replace('sessions/s/', f'sessions/{session.hold_id}/')}?decision=approve&language=zh")
        for path in ("sign-out", "language", f"projects/{project}/members"):
            assert (await ada.get(path)).status_code == 405
    assert everything(site) == before


async def test_a_form_token_of_another_session_is_refused() -> None:
    site = Site()
    async with site.browser("ada") as ada, site.browser("eve") as eve:
        answer = await ada.send("sign-out", {"form_token": await eve.token()})
    assert answer.status_code == 403


async def test_a_request_that_says_nothing_of_its_origin_is_refused() -> None:
    site = Site()
    async with site.browser("ada") as ada:
        token = await ada.token()
        answer = await ada.client.post(f"{PREFIX}sign-out", data={"form_token": token})
    assert answer.status_code == 403


async def test_changes_ask_the_hub_anew() -> None:
    site = Site()
    async with site.browser("ada") as ada:
        await ada.get()
        assert site.sign_in.asked_fresh == [False]
        await ada.submit("sign-out", {})
        assert site.sign_in.asked_fresh[-1] is True


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"\xff=1", "application/x-www-form-urlencoded", 400),
        (b"a=%ff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a=1" for _ in range(60)), "application/x-www-form-urlencoded", 400),
        (b"{}", "application/json", 400),
        (b"a=" + b"x" * 100_001, "application/x-www-form-urlencoded", 413),
        (b"", "application/x-www-form-urlencoded", 403),
    ],
)
async def test_a_body_that_is_no_form_is_a_clear_refusal(body: bytes, content_type: str, status: int) -> None:
    site = Site()
    async with site.browser("ada") as ada:
        headers = {"content-type": content_type, "sec-fetch-site": "same-origin"}
        answer = await ada.client.post(f"{PREFIX}apply", content=body, headers=headers)
    assert answer.status_code == status
    assert "<h1>" in answer.text


async def test_every_answer_carries_the_headers_and_no_inline_code() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(HOUR, 0, 0))
    async with site.browser("ada", "decide") as ada:
        pages = [
            "",
            "apply",
            "review",
            f"projects/{project}",
            f"projects/{project}/statement.csv",
            "nothing",
            "static/no.js",
        ]
        for path in pages:
            answer = await ada.get(path)
            policy = answer.headers["content-security-policy"]
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "same-origin"
            nonces = set(re.findall(r'<script nonce="([^"]+)" src=', answer.text))
            assert answer.text.count("<script") == answer.text.count("<script nonce=")
            assert all(f"'nonce-{nonce}'" in policy for nonce in nonces)
            assert not re.search(r"<[^>]*\s(style|on\w+)=", answer.text)
            assert "<style" not in answer.text


async def test_an_accident_is_a_page_with_an_id_and_the_headers() -> None:
    site = Site()
    async with site.browser("ada") as ada:
        site.world.members = None  # type: ignore[assignment]
        page = await ada.get()
    assert page.status_code == 500
    assert re.search(r"report the id [0-9a-f]{8}", text_of(page))
    assert "Traceback" not in page.text
    assert "content-security-policy" in page.headers


async def test_unknown_addresses_and_methods_are_pages() -> None:
    async with Site().browser("ada") as ada:
        missing = await ada.get("nothing/here")
        assert missing.status_code == 404
        assert 'href="/services/quota/apply"' in missing.text
        assert "Signed in as ada" in text_of(missing)
        answer = await ada.client.put(f"{PREFIX}apply")
        assert answer.status_code == 405
        assert "<h1>" in answer.text
    async with Site().browser() as stranger:
        assert 'href="/services/quota/apply"' not in (await stranger.get("nothing/here")).text


async def test_an_outage_keeps_the_navigation_of_whoever_has_a_session() -> None:
    site = Site()
    async with site.browser("ada") as ada, site.browser() as stranger:
        site.world.down = True
        page = await ada.get()
        assert page.status_code == 503
        assert 'href="/services/quota/apply"' in page.text
        assert 'href="/hub/home"' in page.text
        assert "Signed in as" not in page.text
        assert 'href="/services/quota/apply"' not in (await stranger.get("nothing/here")).text


async def test_the_address_without_its_slash_leads_home() -> None:
    async with Site().browser("ada") as ada:
        answer = await ada.client.get("/services/quota")
    assert answer.status_code in (200, 307, 308)
    if answer.status_code != 200:
        assert urlsplit(answer.headers["location"]).path == PREFIX


async def test_only_listed_files_are_served() -> None:
    async with Site().browser() as browser:
        script = await browser.get("static/theme.js")
        assert script.headers["content-type"].startswith("text/javascript")
        for path in ("static/../app.py", "static/%2e%2e/app.py", "static//etc/passwd", "static/vendor/package.json"):
            answer = await browser.get(path)
            assert answer.status_code in (303, 404)
            assert "import" not in answer.text


async def test_language_is_no_way_out() -> None:
    async with Site().browser() as browser:
        answer = await browser.send("language", {"language": "xx", "next": "https://evil.test/"})
        assert answer.headers["location"] == PREFIX
        assert "set-cookie" not in answer.headers
        foreign = await browser.send("language", {"language": "zh"}, origin="http://evil.test")
        assert foreign.status_code == 403


async def test_the_cookie_opens_the_api_for_reading_and_with_the_token_for_writing() -> None:
    site = Site()
    site.world.person("ada")
    session = new_session(site.sign_in.knows("ada"))
    door = cookie_door(services_of(site.world), site.sign_in, site.settings)

    def request(method: str, **headers: str) -> Request:
        cookie = f"{SESSION_COOKIE}={CookieSeal(KEY).seal_session(session)}"
        sent = {
            "cookie": cookie,
            "host": urlsplit(ORIGIN).netloc,
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        raw = [(name.encode(), value.encode()) for name, value in sent.items()]
        return Request({"type": "http", "method": method, "path": "/", "query_string": b"", "headers": raw})

    caller = await door(request("GET"), False)
    assert caller is not None
    assert caller.person.hub_name == "ada"
    for headers in ({}, {"origin": ORIGIN}, {"origin": ORIGIN, "x_commons_token": "wrong"}):
        with pytest.raises(Forbidden):
            await door(request("PUT", **headers), False)
    assert await door(request("PUT", origin=ORIGIN, x_commons_token=session.form_token), False) is not None
    assert await door(request("GET", cookie="other=1"), False) is None
