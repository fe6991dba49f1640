"""With a domain for each person a hostile notebook page is another origin: it reads nothing of the portal and changes nothing.

As in production: nginx with a certificate for `commons.localhost` and the names below it (deploy/tls/nginx.conf.example), a browser that
checks it, the portal behind it at `https://commons.localhost:PORT/` with `hub.user_domains`, sessions at
`https://NAME.commons.localhost:PORT/`: one site and two origins. The hostile page is served by a real session, from a real notebook; the
admin opens it. (Below `localhost`, because the demo's sign-in works on this machine's names only.)
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser, Error, Page, expect

from tests.browser.conftest import PATIENCE_MS, patient_window
from tests.browser.test_hostile_notebook import ATTACK
from tests.browser.tls_front import TlsFront, tls_front, trusting_chromium
from tests.database_hash import database_hash
from tests.portal import ROOT, Portal
from tests.ports import free_port
from tests.waiting import until

TITLE = "Hostile pages"
READ = """
async (base) => {
  const seen = {};
  for (const path of ['hub/home', 'hub/admin', 'hub/token', 'hub/api/user', 'services/quota/', 'services/quota/api/me']) {
    try { const answer = await fetch(base + path, {credentials: 'include'}); seen[path] = [answer.status, await answer.text()]; }
    catch (error) { seen[path] = String(error); }
  }
  return seen;
}
"""
# Sent without asking first (no preflight): the browser hides the answer, the server gets the request.
BLIND = """
async (base) => {
  const send = (path, type, body) => fetch(base + path, {method: 'POST', mode: 'no-cors', credentials: 'include', headers: {'Content-Type': type}, body});
  const form = 'application/x-www-form-urlencoded';
  await send('hub/api/users/admin/tokens', 'text/plain', JSON.stringify({note: 'mine'}));
  await send('hub/token', form, 'note=mine');
  await send('hub/commons/sign-out-everywhere', form, '_xsrf=x');
  await send('hub/spawn/admin', form, 'profile=cpu');
  await send('services/quota/apply', form, 'form_token=&title=mine');
  await send('services/quota/sign-out', form, 'form_token=');
  await send('services/quota/profile/link-code', form, 'form_token=');
  await send('services/quota/api/applications/hostile-0001', 'text/plain', '{}');
}
"""
# A cookie of each name for the whole domain, as a page below it may set them; which of them the browser kept.
PLANT = """
([names, domain]) => {
  for (const name of names) {
    document.cookie = name + '=planted; Domain=' + domain + '; Path=/';
    document.cookie = name + '=planted; Domain=' + domain + '; Path=/; Secure';
    document.cookie = name + '=planted; Domain=' + domain + '; Path=/hub/; Secure';
    document.cookie = name + '=planted; Domain=' + domain + '; Path=/services/quota/; Secure';
  }
  return document.cookie.split('; ').filter((one) => one.endsWith('=planted')).map((one) => one.split('=')[0]);
}
"""
# The language of pages, and what JupyterHub ends a sign-out's other tabs by: neither signs anybody in.
OF_NO_WORTH = {"commons-language", "jupyterhub-session-id"}
# What JupyterLab does to start a kernel.
KERNEL = """
async (base) => {
  const token = document.cookie.split('; ').find((one) => one.startsWith('_xsrf=')).slice(6);
  const headers = {'X-XSRFToken': token, 'Content-Type': 'application/json'};
  return (await fetch(base + 'api/kernels', {method: 'POST', headers, body: '{"name": "python3"}'})).status;
}
"""
FRAME = """
(address) => new Promise((done) => {
  const frame = document.createElement('iframe');
  frame.onload = () => { try { done(frame.contentDocument ? frame.contentDocument.body.innerText : 'another origin'); } catch (e) { done('another origin'); } };
  frame.src = address;
  document.body.append(frame);
})
"""


NAME = "commons.localhost"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsFront]:
    with tls_front(tmp_path_factory.mktemp("tls") / "front", NAME, free_port()) as made:
        yield made


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory, front: TlsFront) -> Iterator[Browser]:
    with trusting_chromium(tmp_path_factory.mktemp("home"), front.authority, NAME) as browser:
        yield browser


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory, front: TlsFront) -> Iterator[Portal]:
    folder = tmp_path_factory.mktemp("domains")
    text = (ROOT / "portal.toml").read_text()
    address = f'[hub]\naddress = "{front.url}"\nuser_domains = true\nidle_look = "2 s"'
    (folder / "portal.toml").write_text(text.replace("[hub]", address))
    running = Portal(folder / "data", port=front.inner_port, model=False, portal_file=folder / "portal.toml").up()
    yield running
    assert running.down() == 0


def _signed_in(chromium: Browser, portal: Portal, user: str) -> Page:
    page = patient_window(chromium, locale="en-GB")
    page.goto(portal.url)
    page.get_by_label("User name").fill(user)
    page.get_by_label("Password").fill(portal.password(user))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/services/quota/**")
    return page


@pytest.fixture(scope="module")
def attacker(chromium: Browser, portal: Portal) -> Page:
    """A person with a running CPU session, started by the chooser, with a page of their own making in their files."""
    page, admin = _signed_in(chromium, portal, "pi"), _signed_in(chromium, portal, "admin")
    page.goto(portal.url + "services/quota/apply")
    page.get_by_label("Title").fill(TITLE)
    page.get_by_label("Purpose").fill("To see what a stranger's page can do.")
    page.get_by_label("GPU-hours", exact=True).fill("10")
    page.get_by_role("button", name="Submit application").click()
    expect(page.get_by_text("Your application is submitted.").first).to_be_visible()
    admin.goto(portal.url + "services/quota/review")
    admin.get_by_role("link", name=TITLE).click()
    admin.get_by_role("button", name="Approve and award").click()
    expect(admin.get_by_text("Approved.").first).to_be_visible()
    admin.context.close()
    page.goto(portal.url + "services/quota/")
    page.get_by_role("link", name=re.compile("^Start")).first.click()
    page.get_by_role("radio", name=re.compile("^CPU only")).check()
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("https://pi.commons.localhost:*/user/pi/**", timeout=PATIENCE_MS)
    # What a round of the portal's own writes of its beginning is no change by a hostile page.
    until(lambda: _counted(portal, "session WHERE state = 'running'") > 0, what="the meter has seen the session run")
    (home,) = (portal.data / "homes").iterdir()
    (home / "hostile.html").write_text("<title>hostile</title><p>Look here")
    return page


def _counted(portal: Portal, rows: str) -> int:
    """How many such rows the quota service has."""
    with closing(sqlite3.connect(portal.data / "quota" / "quota.sqlite", timeout=60)) as books:
        return int(books.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])


@pytest.fixture
def victim(chromium: Browser, portal: Portal, attacker: Page) -> Iterator[Page]:
    """The admin, signed in everywhere, on the hostile page: an admin may open anybody's session."""
    page = _signed_in(chromium, portal, "admin")
    page.goto(portal.url + "hub/admin")
    page.goto(f"{_session(portal)}files/hostile.html")
    if page.get_by_role("button", name="Authorize").count():
        page.get_by_role("button", name="Authorize").click()
    expect(page).to_have_title("hostile")
    # Files are shown in a sandbox, of no origin; what somebody's own server sends is not. The worse of the two is the one to bear.
    page.goto(f"{_session(portal)}no-such-page")
    assert page.evaluate("window.origin") == _session(portal).removesuffix("/user/pi/")
    yield page
    page.context.close()


def _session(portal: Portal) -> str:
    return portal.url.replace("commons.localhost", "pi.commons.localhost") + "user/pi/"


def test_a_session_has_an_origin_of_its_own_and_works_there(attacker: Page, portal: Portal) -> None:
    assert attacker.url.startswith(_session(portal))
    answered = attacker.evaluate(KERNEL, _session(portal))
    assert answered == 201
    # The old address, which links of the pages have, leads there too.
    attacker.goto(portal.url + "user/pi/lab")
    attacker.wait_for_url(f"{_session(portal)}**")


def test_a_hostile_page_reads_nothing_of_the_portal(victim: Page, portal: Portal) -> None:
    seen = victim.evaluate(READ, portal.url)
    assert all(isinstance(answer, str) for answer in seen.values()), json.dumps(seen)[:2000]
    own = victim.evaluate("async () => (await fetch('/hub/home', {credentials: 'include'}).catch(String)) + ''")
    assert "Response" not in own or "Token" not in own


def test_a_hostile_page_changes_nothing_and_mints_nothing(victim: Page, portal: Portal) -> None:
    before = database_hash(portal.data)
    tried = victim.evaluate(ATTACK, [portal.url, "project-0001"])
    assert {name: answer for name, answer in tried.items() if answer[0] != 0} == {}  # not even an answer to read
    victim.evaluate(BLIND, portal.url)
    assert database_hash(portal.data) == before
    page = victim.context.new_page()
    page.goto(portal.url + "services/quota/")  # still signed in
    expect(page.get_by_role("navigation").first).to_be_visible()
    assert "/hub/login" not in page.url


def test_no_page_of_the_portal_can_be_framed_from_a_session(victim: Page, portal: Portal) -> None:
    for path in ("hub/home", "hub/token", "services/quota/"):
        with victim.expect_console_message(lambda message: "frame-ancestors 'none'" in message.text):
            assert victim.evaluate(FRAME, portal.url + path) == "another origin"


def test_the_cookies_of_the_portal_do_not_reach_a_session(attacker: Page, portal: Portal) -> None:
    sent = attacker.context.cookies(_session(portal))
    names = {one["name"] for one in sent}
    assert not {name for name in names if name.startswith("commons-quota") or name == "jupyterhub-hub-login"}, names


def test_every_cookie_of_the_portal_is_bound_to_its_host(victim: Page, portal: Portal) -> None:
    """`__Host-`: Secure, of no domain, for "/": no page of a person's domain can put one in its place. No script reads those that sign in."""
    kept = [one for one in victim.context.cookies(portal.url) if one["name"] not in OF_NO_WORTH]
    assert {one["name"] for one in kept} >= {"__Host-commons-quota-session", "__Host-jupyterhub-hub-login"}, kept
    for one in kept:
        assert (one["secure"], one["name"].startswith("__Host-"), one["domain"]) == (True, True, NAME), one
        assert one["httpOnly"] or not one["name"].endswith(("login", "session")), one


def test_a_hostile_page_plants_no_cookie_that_the_portal_takes(victim: Page, portal: Portal) -> None:
    """Whatever a page of the same site writes for the portal's domain, its visitor stays who they are and can still change things."""
    names = {one["name"] for one in victim.context.cookies(portal.url)}
    planted = victim.evaluate(PLANT, [sorted({*names, *(one.removeprefix("__Host-") for one in names)}), NAME])
    assert not [one for one in planted if one.startswith("__Host-")]  # the browser takes none
    page = victim.context.new_page()
    page.goto(portal.url + "hub/home")
    expect(page.get_by_role("heading", name="Notebooks")).to_be_visible()
    page.goto(portal.url + "services/quota/profile")
    expect(page.locator("dd code")).to_have_text("admin")
    page.get_by_role("button", name="Save").first.click()
    expect(page.get_by_text("Form token")).to_have_count(0)
    assert "/hub/login" not in page.url


def test_the_browser_is_told_to_come_by_https_alone_and_a_name_beyond_the_certificate_is_refused(
    attacker: Page, portal: Portal
) -> None:
    answer = attacker.goto(portal.url + "hub/login")
    assert answer is not None
    assert answer.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    security = answer.security_details()
    assert security is not None
    assert security["issuer"] == "authority of a test"
    with pytest.raises(Error, match="ERR_CERT_COMMON_NAME_INVALID"):
        attacker.goto(portal.url.replace(NAME, f"a.b.{NAME}"))


def test_the_idle_judge_finds_a_session_at_its_own_domain(attacker: Page, portal: Portal) -> None:
    """What it heard there is written down; of one that it does not find, its log has the status that it got instead."""
    until(lambda: _counted(portal, "session_idle") > 0, what="the judge has heard of the session")
    assert not re.findall("is left alone: .*status.*", (portal.data / "logs" / "hub.log").read_text())
