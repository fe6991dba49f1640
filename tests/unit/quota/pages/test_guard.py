"""Redirect targets, forms and the session cookie."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from quota.pages.desk import PageSettings
from quota.pages.guard import own_path
from quota.pages.session import CookieSeal, new_session, state_cookie

PREFIX = "/services/quota/"


@pytest.mark.parametrize("path", ["/services/quota/", "/services/quota/projects/p1?before=3", "/services/quota/apply"])
def test_next_may_name_our_own_paths(path: str) -> None:
    assert own_path(path, PREFIX) == path


@pytest.mark.parametrize(
    "path",
    [
        None,
        "",
        "https://evil.test/services/quota/",
        "//evil.test/services/quota/",
        "/\\evil.test",
        "/services/quota/../../hub/logout",
        "/services/quota/%2e%2e/%2e%2e/hub/",
        "/services/quota//evil",
        "/services/quota/a\nb",
        "/services/quota/..",
        "/hub/home",
        "javascript:alert(1)",
        "/services/quota/" + "a" * 1000,
    ],
)
def test_next_leads_nowhere_else(path: str | None) -> None:
    assert own_path(path, PREFIX) == PREFIX


def test_a_sealed_session_opens_with_the_same_key_only() -> None:
    seal, other = CookieSeal(Fernet.generate_key()), CookieSeal(Fernet.generate_key())
    session = new_session("a-token")
    sealed = seal.seal_session(session)
    assert seal.open_session(sealed) == session
    assert "a-token" not in sealed
    assert "a-token" not in repr(session)
    assert other.open_session(sealed) is None


def test_a_cookie_serves_one_use_only() -> None:
    seal = CookieSeal(Fernet.generate_key())
    assert seal.open_session(seal.seal_state("state")) is None
    assert seal.open_state(seal.seal_session(new_session("a-token"))) is None
    assert seal.open_state(seal.seal_state("state")) == "state"


@pytest.mark.parametrize("value", [None, "", "x", "é", "gAAAA" * 20])
def test_nonsense_is_no_session(value: str | None) -> None:
    assert CookieSeal(Fernet.generate_key()).open_session(value) is None


def test_the_name_of_a_state_cookie_is_a_cookie_name() -> None:
    assert state_cookie("ab;=\r\n é/c") == "commons-quota-state-abc"


@pytest.mark.parametrize(
    ("url", "user_domains", "prefix", "path"),
    [
        ("https://portal.example.org/", True, "__Host-", "/"),
        ("https://portal.example.org/", False, "", "/services/quota/"),  # "/" would hand it to every session
        ("http://commons.localhost:8000/", True, "", "/services/quota/"),  # browsers take the prefix with https only
    ],
)
def test_no_page_of_a_domain_below_can_put_a_cookie_in_the_place_of_ours(
    url: str, user_domains: bool, prefix: str, path: str
) -> None:
    settings = PageSettings(url, Path("/nowhere"), Fernet.generate_key(), user_domains)
    seal = CookieSeal(settings.cookie_key, settings.cookie_prefix)
    assert (settings.cookie_prefix, settings.cookie_path) == (prefix, path)
    assert seal.session_cookie == f"{prefix}commons-quota-session"
    assert seal.state_cookie("abc") == f"{prefix}commons-quota-state-abc"
