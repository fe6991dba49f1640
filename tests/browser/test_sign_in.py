"""Sign-in from elsewhere through real OpenID providers, in a real browser: who gets in, as whom, and who does not any more."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PATIENCE_MS, patient_window
from tests.github_stub import GitHub
from tests.openid_provider import OpenIdProvider
from tests.portal import ROOT, Portal
from tests.ports import free_port

REFRESH_S = 5
WITHIN_MS, POLL_MS = PATIENCE_MS, 200
CAMPUS: dict[str, dict[str, Any]] = {
    "ada": {"preferred_username": "ada", "name": "Ada Lovelace", "email": "ada@example.org", "email_verified": True, "groups": ["astro"]},
    "grace": {"preferred_username": "ada", "name": "Another Ada", "email": "ada@example.org", "email_verified": True, "groups": ["astro"]},
    "mallory": {"preferred_username": "admin", "name": "<script>alert(1)</script>", "groups": ["astro"]},
    "stranger": {"preferred_username": "stranger", "name": "Not let in", "groups": []},
    "emmy": {"preferred_username": "emmy", "name": "Emmy Noether", "groups": ["astro"]},
    "leaver": {"preferred_username": "leaver", "name": "Closed Later", "groups": ["astro"]},
    "chief": {"preferred_username": "chief", "name": "Chief", "groups": ["operators"]},
}  # fmt: skip
ORCID: dict[str, dict[str, Any]] = {
    "0000-0002-1825-0097": {"given_name": "Josiah", "family_name": "Carberry"},
    "0000-0001-5109-3700": {"given_name": "Ada", "family_name": "Elsewhere"},
}
EGI: dict[str, dict[str, Any]] = {
    "9f2c@egi.eu": {
        "name": "Eva Gi",
        "preferred_username": "eva",
        "email": "eva@example.org",
        "email_verified": True,
        "eduperson_entitlement": ["urn:mace:egi.eu:group:vo.example.eu:role=member#aai.egi.eu"],
    },
    "0000@egi.eu": {"name": "Of no group", "eduperson_entitlement": []},
}
GOOGLE: dict[str, dict[str, Any]] = {
    "108123456789012345678": {
        "name": "Gus Oogle",
        "email": "gus@example.org",
        "email_verified": True,
        "hd": "example.org",
    }
}
GLOBUS: dict[str, dict[str, Any]] = {
    "5a1c2d3e-0000-4000-8000-1234567890ab": {"name": "Gloria Bus", "preferred_username": "gloria@globusid.org"}
}
CILOGON: dict[str, dict[str, Any]] = {
    "http://cilogon.org/serverA/users/1": {"idp": "https://idp.example.edu/shibboleth", "eppn": "rosa@example.edu", "name": "Rosa Hansen"},
    "http://cilogon.org/serverA/users/2": {"idp": "https://elsewhere.example/idp", "eppn": "eve@elsewhere.example", "name": "Eve"},
}  # fmt: skip


class Site:
    """A portal that three providers and the demo lead to."""

    def __init__(self, folder: Path) -> None:
        self.portal = Portal(folder / "data", model=False)
        back = f"http://127.0.0.1:{self.portal.port}/hub/sign-in/{{}}/back"
        self.campus = OpenIdProvider(
            {"portal": back.format("campus")}, CAMPUS, access_token_s=REFRESH_S, port=free_port()
        )
        self.orcid = OpenIdProvider({"portal": back.format("orcid")}, ORCID)
        self.cilogon = OpenIdProvider({"portal": back.format("cilogon")}, CILOGON)
        self.egi = OpenIdProvider({"portal": back.format("egi")}, EGI)
        self.google = OpenIdProvider({"portal": back.format("google")}, GOOGLE)
        self.globus = OpenIdProvider({"portal": back.format("globus")}, GLOBUS)
        self.github = GitHub({"portal": back.format("github")})
        self.all = {
            name: getattr(self, name) for name in ("campus", "orcid", "cilogon", "egi", "google", "globus", "github")
        }
        tables = (ROOT / "portal.toml").read_text().replace('refresh = "1 min"', f'refresh = "{REFRESH_S} s"')
        tables += f"""
[sign_in.providers.campus]
kind = "oidc"
title = "Campus"
client_id = "portal"
issuer = "{self.campus.issuer}"
allowed_groups = ["astro", "operators"]
roles.admin = ["group:operators"]
[sign_in.providers.orcid]
kind = "orcid"
client_id = "portal"
issuer = "{self.orcid.issuer}"
allow_everyone = true
[sign_in.providers.cilogon]
kind = "cilogon"
client_id = "portal"
issuer = "{self.cilogon.issuer}"
allowed_idps = ["https://idp.example.edu/shibboleth"]
[sign_in.providers.egi]
kind = "egi"
client_id = "portal"
issuer = "{self.egi.issuer}"
groups_claim = "eduperson_entitlement"
allowed_groups = ["urn:mace:egi.eu:group:vo.example.eu:role=member#aai.egi.eu"]
[sign_in.providers.google]
kind = "google"
client_id = "portal"
issuer = "{self.google.issuer}"
allow_everyone = true
[sign_in.providers.globus]
kind = "globus"
client_id = "portal"
issuer = "{self.globus.issuer}"
allow_everyone = true
[sign_in.providers.github]
kind = "github"
client_id = "portal"
issuer = "{self.github.issuer}"
allowed_groups = ["example-lab"]
"""
        self.portal.portal_file = folder / "portal.toml"
        self.portal.portal_file.write_text(tables)
        secrets = folder / "data" / "secrets"
        secrets.mkdir(parents=True)
        for name, provider in self.all.items():
            (secrets / f"sign_in_{name}").write_text(provider.secret)

    def up(self) -> Site:
        for provider in self.all.values():
            provider.up()
        self.portal.up()
        return self

    def down(self) -> None:
        for provider in self.all.values():
            provider.down()
        assert self.portal.down() == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("sign_in"))
    try:
        yield running.up()
    finally:
        running.down()


@pytest.fixture
def fresh(chromium: Browser) -> Iterator[Any]:
    """Windows with nothing in them, closed afterwards."""
    opened: list[Page] = []

    def window() -> Page:
        opened.append(patient_window(chromium, locale="en-GB", viewport={"width": 1280, "height": 900}))
        return opened[-1]

    yield window
    for page in opened:
        page.context.close()


def come_in(page: Page, site: Site, provider: str, account: str) -> None:
    page.goto(site.portal.url)
    page.get_by_role("link", name=f"Sign in with {provider}").click()
    page.get_by_label("Account").fill(account)
    page.get_by_role("button", name="Continue").click()


def greet(page: Page, name: str) -> None:
    """The first page of somebody new: profile, language, then home."""
    expect(page.get_by_role("heading", name="Welcome", level=1)).to_be_visible()
    expect(page.get_by_label("Name", exact=True)).to_have_value(name)
    page.get_by_role("button", name="Save and go on").click()
    page.wait_for_url("**/services/quota/")


def enter(page: Page, site: Site, provider: str, account: str) -> None:
    """As `come_in`, and on to home, also for somebody whom another test has not signed in before."""
    come_in(page, site, provider, account)
    page.wait_for_url("**/services/quota/**")
    if (go_on := page.get_by_role("button", name="Save and go on")).count():
        go_on.click()
    page.wait_for_url("**/services/quota/")


def user_name(page: Page, site: Site) -> str:
    page.goto(site.portal.url + "services/quota/profile")
    return page.locator("dd code").inner_text()


def test_a_newcomer_sees_their_profile_first_and_then_home(site: Site, fresh: Any) -> None:
    page = fresh()
    come_in(page, site, "Campus", "emmy")
    greet(page, "Emmy Noether")
    assert re.fullmatch(r"emmy-[0-9a-z]{4}", user_name(page, site))
    again = fresh()
    come_in(again, site, "Campus", "emmy")
    again.wait_for_url("**/services/quota/")  # known: no greeting any more
    assert user_name(again, site) == user_name(page, site)


def test_one_mail_address_and_one_chosen_name_are_still_two_people(site: Site, fresh: Any) -> None:
    ada, grace = fresh(), fresh()
    come_in(ada, site, "Campus", "ada")
    ada.wait_for_url("**/services/quota/**")
    come_in(grace, site, "Campus", "grace")
    greet(grace, "Another Ada")
    names = user_name(ada, site), user_name(grace, site)
    assert names[0] != names[1]
    assert all(name.startswith("ada-") for name in names)


def test_nobody_becomes_admin_by_calling_themselves_so(site: Site, fresh: Any) -> None:
    page = fresh()
    come_in(page, site, "Campus", "mallory")
    greet(page, "<script>alert(1)</script>")
    assert user_name(page, site).startswith("researcher-")
    assert page.request.get(site.portal.url + "hub/admin").status == 403
    assert page.request.get(site.portal.url + "services/quota/review").status == 403


def test_a_group_of_the_issuer_gives_the_role_that_the_site_says(site: Site, fresh: Any) -> None:
    page = fresh()
    enter(page, site, "Campus", "chief")
    page.goto(site.portal.url + "hub/admin")
    expect(page.get_by_role("tab", name="Quotas")).to_be_visible()


def test_an_account_that_no_rule_lets_in_stays_out_and_is_told(site: Site, fresh: Any) -> None:
    page = fresh()
    come_in(page, site, "Campus", "stranger")
    expect(page.get_by_text("does not let you in with that account")).to_be_visible()


def test_an_issuers_own_words_are_not_shown(site: Site, fresh: Any) -> None:
    page = fresh()
    come_in(page, site, "Campus", "nobody-there")
    expect(page.get_by_text("Campus did not sign you in")).to_be_visible()
    assert "no such account" not in page.content()


def test_orcid_claims_make_a_person_without_mail_or_chosen_name(site: Site, fresh: Any) -> None:
    page = fresh()
    come_in(page, site, "ORCID", "0000-0002-1825-0097")
    greet(page, "Josiah Carberry")
    assert re.fullmatch(r"josiah-[0-9a-z]{4}", user_name(page, site))


def test_cilogon_lets_in_the_institutions_that_the_site_names(site: Site, fresh: Any) -> None:
    rosa, eve = fresh(), fresh()
    come_in(rosa, site, "CILogon (eduGAIN)", "http://cilogon.org/serverA/users/1")
    greet(rosa, "Rosa Hansen")
    assert user_name(rosa, site).startswith("rosa-")
    come_in(eve, site, "CILogon (eduGAIN)", "http://cilogon.org/serverA/users/2")
    expect(eve.get_by_text("does not let you in with that account")).to_be_visible()


@pytest.mark.parametrize(
    ("provider", "account", "name", "begins"),
    [
        ("EGI Check-in", "9f2c@egi.eu", "Eva Gi", "eva-"),
        ("Google", "108123456789012345678", "Gus Oogle", "gus-"),
        ("Globus", "5a1c2d3e-0000-4000-8000-1234567890ab", "Gloria Bus", "gloria"),
        ("GitHub", "octavia", "Octavia Hub", "octavia-"),
    ],
)
def test_each_preset_lets_in_whom_the_site_names(
    site: Site, fresh: Any, provider: str, account: str, name: str, begins: str
) -> None:
    page = fresh()
    come_in(page, site, provider, account)
    greet(page, name)
    assert user_name(page, site).startswith(begins)


@pytest.mark.parametrize(("provider", "account"), [("EGI Check-in", "0000@egi.eu"), ("GitHub", "mallory")])
def test_a_presets_account_of_no_group_stays_out(site: Site, fresh: Any, provider: str, account: str) -> None:
    page = fresh()
    come_in(page, site, provider, account)
    expect(page.get_by_text("does not let you in with that account")).to_be_visible()


LIES = (
    "audience", "authorised party", "issuer", "expired", "not yet", "nonce", "no nonce", "another person", "no algorithm",
    "the public key as a secret", "a key that is not published", "no ID token",
)  # fmt: skip


def test_an_id_token_that_lies_signs_nobody_in(site: Site, fresh: Any) -> None:
    """A real provider that says something else in its ID tokens; everything else of its answers is good."""
    page = fresh()
    come_in(page, site, "Campus", "ada")
    page.wait_for_url("**/services/quota/**")
    page.context.clear_cookies(domain="127.0.0.1", path=re.compile("^/(hub|services)"))
    said: dict[str, str] = {}
    try:
        for lie in LIES:
            site.campus.control(forge=lie)
            answer = page.goto(site.portal.url + "hub/sign-in/campus")
            assert answer is not None
            said[lie] = f"{answer.status} {page.get_by_text('did not prove who you are').count()}"
            assert not [
                one for one in page.context.cookies(site.portal.url + "hub/") if one["name"].endswith("hub-login")
            ]
    finally:
        site.campus.control(forge="")
    assert said == dict.fromkeys(LIES, "403 1")
    page.goto(site.portal.url + "hub/sign-in/campus")  # and with the truth it is as before
    page.wait_for_url("**/services/quota/**")


def test_two_sign_ins_become_one_person_from_inside_both_sessions(site: Site, fresh: Any) -> None:
    ada, orcid = fresh(), fresh()
    come_in(ada, site, "Campus", "ada")
    come_in(orcid, site, "ORCID", "0000-0001-5109-3700")
    for page in (ada, orcid):
        page.wait_for_url("**/services/quota/**")
    main = user_name(ada, site)
    orcid.goto(site.portal.url + "services/quota/profile")
    orcid.get_by_text("Use another sign-in as well").click()
    orcid.get_by_role("button", name="Make a code").click()
    code = orcid.locator("strong.cc-code").inner_text()
    for typed, said in (("wrong", "No such code"), (code.upper(), "lead to this account now")):
        ada.goto(site.portal.url + "services/quota/profile")
        ada.get_by_text("Use another sign-in as well").click()
        ada.get_by_label("Code from the other session").fill(typed)
        ada.get_by_role("button", name="Link").click()
        expect(ada.get_by_text(said)).to_be_visible()
    later = fresh()
    enter(later, site, "ORCID", "0000-0001-5109-3700")
    assert user_name(later, site) == main


def test_what_a_provider_said_is_kept_encrypted(site: Site, fresh: Any) -> None:
    page = fresh()
    come_in(page, site, "Campus", "ada")
    page.wait_for_url("**/services/quota/**")
    with sqlite3.connect(site.portal.data / "hub" / "jupyterhub.sqlite") as connection:
        states = [row[0] for row in connection.execute("SELECT encrypted_auth_state FROM users") if row[0]]
    assert len(states) >= 1
    for state in states:
        assert b"refresh_token" not in state
        assert b"Ada Lovelace" not in state
        assert state.startswith(b"gAAAA")  # Fernet's first byte, a version and the time


def test_a_replayed_answer_signs_nobody_in(site: Site, fresh: Any) -> None:
    page, thief = fresh(), fresh()
    answers: list[str] = []
    page.on("request", lambda request: answers.append(request.url) if "/sign-in/campus/back?" in request.url else None)
    enter(page, site, "Campus", "ada")
    for again in (page, thief):
        answer = again.request.get(answers[0])
        assert answer.status == 400
        assert "begun in another browser" in answer.text()


def test_keys_may_be_rotated_at_the_issuer(site: Site, fresh: Any) -> None:
    site.campus.control(rotate=True)
    page = fresh()
    enter(page, site, "Campus", "ada")


def test_a_silent_issuer_keeps_people_in_and_says_so_at_sign_in(site: Site, fresh: Any) -> None:
    page, late = fresh(), fresh()
    enter(page, site, "Campus", "ada")
    site.campus.down()
    try:
        page.wait_for_timeout(REFRESH_S * 1000 + 500)  # the hub has to ask again, and hears nothing
        page.goto(site.portal.url + "hub/home")
        expect(page.get_by_role("heading", name="Notebooks")).to_be_visible()
        late.goto(site.portal.url + "hub/login")
        late.get_by_role("link", name="Sign in with Campus").click()
        expect(late.get_by_text("Campus cannot be reached")).to_be_visible()
    finally:
        site.campus.up()


def gone_for_the_quota_service(site: Site) -> set[str]:
    """The hub's names of those whom the quota service holds suspended since their provider does not vouch for them."""
    said = "SELECT hub_name FROM person JOIN audit ON subject = person.id WHERE action = 'person_gone' AND suspended_us IS NOT NULL"
    with closing(sqlite3.connect(site.portal.data / "quota" / "quota.sqlite", timeout=60)) as books:
        return {row[0] for row in books.execute(said)}


def test_an_account_closed_at_the_issuer_is_out_without_opening_a_page(site: Site, fresh: Any) -> None:
    page = fresh()
    come_in(page, site, "Campus", "leaver")
    page.wait_for_url("**/services/quota/**")
    cookies, name = page.context.cookies(), user_name(page, site)
    minted = page.request.post(
        f"{site.portal.url}hub/api/users/{name}/tokens",
        params={"_xsrf": next(one["value"] for one in cookies if one["name"] == "_xsrf")},
        data={"note": "mine"},
        headers={"Referer": site.portal.url + "hub/token"},
    )
    assert minted.status == 201, minted.text()
    token = minted.json()["token"]
    asks = {"url": site.portal.api.rstrip("/") + "/me", "headers": {"Authorization": f"Bearer {token}"}}
    assert page.request.get(**asks).status == 200
    site.campus.control(account="leaver", claims={"closed": True})
    fresh_page = fresh()
    for _ in range(WITHIN_MS // POLL_MS):
        if fresh_page.request.get(**asks).status in (401, 403):
            break
        fresh_page.wait_for_timeout(POLL_MS)
    assert fresh_page.request.get(**asks).status in (401, 403)
    for _ in range(WITHIN_MS // POLL_MS):
        if name in gone_for_the_quota_service(site):
            break
        fresh_page.wait_for_timeout(POLL_MS)
    assert name in gone_for_the_quota_service(site)  # suspended, whose keys the gateway refuses: test_gateway_access
    page.goto(site.portal.url + "hub/home")
    page.wait_for_url("**/hub/login**")
    come_in(fresh_page, site, "Campus", "leaver")
    expect(fresh_page.get_by_text("did not sign you in")).to_be_visible()


def test_signing_out_everywhere_ends_every_browser(site: Site, fresh: Any) -> None:
    one, other = fresh(), fresh()
    for page in (one, other):
        enter(page, site, "Campus", "ada")
    one.goto(site.portal.url + "services/quota/profile")
    one.get_by_role("link", name="Sign out everywhere").click()
    one.get_by_role("button", name="Sign out everywhere").click()
    one.wait_for_url("**/hub/login**")
    other.goto(site.portal.url + "hub/home")
    other.wait_for_url("**/hub/login**")


@pytest.mark.full
def test_a_providers_secret_can_be_changed_and_sign_ins_stay(site: Site, fresh: Any) -> None:
    """docs/howto/secrets.md: a new one at the provider, then in the file, then a restart."""
    page, late = fresh(), fresh()
    come_in(page, site, "Campus", "ada")
    page.wait_for_url("**/services/quota/**")
    site.campus.control(secret=(new := "a-new-secret-of-the-client-in-tests"))
    come_in(late, site, "Campus", "chief")
    expect(late.get_by_text("did not prove who you are")).to_be_visible()
    assert site.portal.down() == 0
    (site.portal.data / "secrets" / "sign_in_campus").write_text(new)
    site.portal.up()
    page.goto(site.portal.url + "hub/home")
    expect(page.get_by_role("heading", name="Notebooks")).to_be_visible()
    again = fresh()
    come_in(again, site, "Campus", "chief")
    again.wait_for_url("**/services/quota/**")
