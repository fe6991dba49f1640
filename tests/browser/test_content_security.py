"""Every page of the portal under a strict policy, in a real browser: nothing is blocked, nothing inline runs, nothing is framed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import Windows, patient_window
from tests.portal import Portal

HUB_PAGES = ("home", "token", "admin", "spawn", "no-such-page", "commons/sign-out-everywhere")
QUOTA_PAGES = ("", "apply", "review", "profile", "notices", "no-such-page")
PATHS = (*(f"hub/{one}" for one in HUB_PAGES), *(f"services/quota/{one}" for one in QUOTA_PAGES))


@pytest.fixture
def stranger(chromium: Browser) -> Iterator[Page]:
    page = patient_window(chromium)
    yield page
    page.context.close()


def policy_of(page: Page, url: str) -> dict[str, str]:
    """Open a page; its policy by directive."""
    answer = page.goto(url)
    assert answer is not None
    parts = [one.strip().partition(" ") for one in answer.headers["content-security-policy"].split(";")]
    return {name: value for name, _, value in parts}


@pytest.mark.parametrize("path", PATHS)
def test_a_page_works_under_its_policy(windows: Windows, portal: Portal, path: str) -> None:
    page = windows("admin")
    blocked: list[str] = []
    page.on("console", lambda message: blocked.append(message.text) if "Content Security" in message.text else None)
    policy = policy_of(page, portal.url + path)
    page.wait_for_load_state("networkidle")
    assert blocked == []
    assert "unsafe" not in str(policy)
    assert policy["frame-ancestors"] == "'none'"
    assert re.search(r"'nonce-[\w-]{16,}'", policy["script-src"])


def test_the_sign_in_page_has_it_too_and_each_answer_its_own_nonce(stranger: Page, portal: Portal) -> None:
    first, second = (policy_of(stranger, portal.url + "hub/login")["script-src"] for _ in range(2))
    assert "'nonce-" in first
    assert first != second


def test_an_injected_inline_script_does_not_run(windows: Windows, portal: Portal) -> None:
    page = windows("admin")
    for path in ("hub/home", "services/quota/"):
        page.goto(portal.url + path)
        page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.ran = true'; "
            "document.body.append(s); const i = document.createElement('img'); i.setAttribute('onerror', 'window.ran = true'); "
            "i.src = 'data:,'; document.body.append(i); }"
        )
        page.wait_for_timeout(200)  # nothing to wait for: it must not happen
        assert page.evaluate("() => window.ran === undefined")


def test_a_token_page_shows_its_new_token(windows: Windows, portal: Portal) -> None:
    """Stock scripts show what stock templates hide by inline style."""
    page = windows("admin")
    page.goto(portal.url + "hub/token")
    page.wait_for_load_state("networkidle")  # its scripts listen
    assert not page.locator("#token-area").is_visible()
    page.get_by_role("button", name="Request new API token").click()
    page.locator("#token-area").wait_for(state="visible")
