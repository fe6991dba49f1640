"""A personal key's life on its pages, in a real browser, and at the gateway: made and shown once, limited, revoked, ended."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import Windows, patient_window, shows
from tests.people import Person
from tests.portal import Portal
from tests.waiting import PATIENCE_S
from tests.world import awarded_project

MODEL = "smollm2-135m-instruct"
REVOKED_WITHIN_S = 60


@pytest.fixture(scope="module")
def project(portal: Portal) -> str:
    """A project of `pi`'s with tokens; its id."""

    async def make() -> str:
        async with Person(portal, "pi") as pi, Person(portal, "admin") as admin:
            return await awarded_project(pi, admin, gpu_hours="1", tokens=100_000)

    with ThreadPoolExecutor(1) as thread:  # this one has the browser's event loop
        return thread.submit(asyncio.run, make()).result()


@pytest.fixture
def keys(windows: Windows, portal: Portal, project: str) -> Page:
    """The project's keys, as its PI sees them."""
    page = windows("pi")
    page.goto(f"{portal.url}services/quota/projects/{project}/keys")
    return page


def make_key(page: Page, label: str, **fields: str) -> str:
    """Fill the form and send it by keyboard; the key that is shown."""
    for name, value in fields.items():
        page.get_by_label(name.replace("_", " ")).fill(value)
    page.get_by_label("Label", exact=True).fill(label)
    page.get_by_label("Label", exact=True).press("Enter")
    expect(page.get_by_role("heading", name="Your new key")).to_be_visible()
    return page.get_by_label(label, exact=True).input_value()


def ask(portal: Portal, key: str, *, prompt: str = "Say hello.", cap: int = 8) -> requests.Response:
    """A model request from some other computer."""
    body = {"model": MODEL, "max_tokens": cap, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Authorization": f"Bearer {key}"}
    return requests.post(f"{portal.gateway}/chat/completions", json=body, headers=headers, timeout=PATIENCE_S)


def code_of(answer: requests.Response) -> str:
    return str(answer.json()["error"]["code"])


def row_of(page: Page, label: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=label, exact=True))


def row(page: Page, label: str) -> str:
    return row_of(page, label).inner_text()


def test_a_key_is_shown_once_and_works(keys: Page, portal: Portal, shots: Path) -> None:
    key = make_key(keys, "My laptop")
    assert re.fullmatch(r"cck?[\w-]{30,}", key)
    assert f"OPENAI_API_KEY={key}" in keys.content()
    keys.screenshot(path=shots / "key-made.png", full_page=True)
    assert ask(portal, key).status_code == 200
    keys.goto(keys.url)
    assert key not in keys.content()
    assert "the project's" in row(keys, "My laptop")
    secret = key[-20:].encode()
    for file in portal.data.rglob("*"):
        with suppress(FileNotFoundError):  # gone since it was listed
            assert not file.is_file() or file.is_socket() or secret not in file.read_bytes(), file


def test_a_keys_own_limit_is_kept_and_shown(keys: Page, portal: Portal) -> None:
    key = make_key(keys, "Small", Tokens_in_all="300")
    used = ask(portal, key)
    assert used.status_code == 200, used.text
    refused = ask(portal, key, prompt="word " * 400)
    assert (refused.status_code, code_of(refused)) == (429, "insufficient_quota")
    assert "this key has" in refused.json()["error"]["message"]
    keys.goto(keys.url)
    shows(row_of(keys, "Small"), f"{used.json()['usage']['total_tokens']} of 300 tokens used")


def test_a_keys_pace_is_kept_and_shown(keys: Page, portal: Portal) -> None:
    key = make_key(keys, "Slow", Requests_a_minute="2")
    with ThreadPoolExecutor(6) as threads:  # one after the other, on a busy machine they would take minutes
        answers = list(threads.map(lambda _: ask(portal, key, cap=1), range(6)))
    assert {one.headers["x-ratelimit-limit-requests"] for one in answers} == {"2"}
    fast = [one for one in answers if one.status_code != 200]
    assert 2 <= len(fast) <= 4  # a minute may end between
    assert {(one.status_code, code_of(one)) for one in fast} == {(429, "rate_limit_exceeded")}
    keys.goto(keys.url)
    assert "2 requests a minute" in row(keys, "Slow")


def test_a_form_with_nonsense_says_what_is_wrong_and_keeps_what_was_typed(keys: Page) -> None:
    keys.get_by_label("Tokens in all").fill("many")
    keys.get_by_label("Label", exact=True).fill("Wrong")
    keys.get_by_role("button", name="Make the key").click()
    expect(keys.get_by_label("Tokens in all")).to_have_value("many")
    expect(keys.get_by_label("Tokens in all")).to_have_attribute("aria-invalid", "true")
    expect(keys.get_by_role("heading", name="Your new key")).to_have_count(0)


def test_a_revoked_key_dies_within_a_minute(keys: Page, portal: Portal, shots: Path) -> None:
    key = make_key(keys, "Lost one")
    assert ask(portal, key).status_code == 200
    keys.get_by_role("link", name="Revoke Lost one").click()
    expect(keys.get_by_role("heading", name="Revoke the key Lost one?")).to_be_visible()
    keys.screenshot(path=shots / "key-revoke.png", full_page=True)
    keys.get_by_role("link", name="Cancel").click()
    assert "revoked" not in row(keys, "Lost one")
    keys.get_by_role("link", name="Revoke Lost one").click()
    keys.get_by_role("button", name="Revoke").click()
    revoked_s = time.monotonic()
    expect(keys.get_by_role("link", name="Revoke Lost one")).to_have_count(0)
    assert "revoked" in row(keys, "Lost one")
    asked_s = time.monotonic()
    while (answer := ask(portal, key)).status_code == 200:
        assert asked_s - revoked_s < REVOKED_WITHIN_S  # when it was asked: the model takes its time
        asked_s = time.monotonic()
    assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key")


def test_a_key_ends_with_its_last_day(keys: Page, portal: Portal) -> None:
    keys.get_by_label("Valid for").select_option("7 days")
    key = make_key(keys, "For a week")
    with closing(sqlite3.connect(portal.data / "quota" / "quota.sqlite", timeout=60)) as books, books:
        done = books.execute(
            "UPDATE gateway_key SET expires_us = ? WHERE name = 'For a week'", [time.time_ns() // 1000]
        )
        assert done.rowcount == 1
    answer = ask(portal, key)
    assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key")
    keys.goto(keys.url)
    assert "ended" in row(keys, "For a week")


def test_a_stranger_sees_no_keys(windows: Windows, portal: Portal, project: str) -> None:
    page = windows("researcher")
    answer = page.goto(f"{portal.url}services/quota/projects/{project}/keys")
    assert answer is not None
    assert answer.status in (403, 404)
    assert page.get_by_role("button", name="Make the key").count() == 0


WORDS = {"en-GB": ("en", "Keys for language models"), "zh-CN": ("zh", "语言模型")}


@pytest.fixture
def phone(request: pytest.FixtureRequest, chromium: Browser, keys: Page) -> Iterator[Page]:
    """The PI's phone, in one language; there is a key to show."""
    address = keys.url
    make_key(keys, f"Phone in {request.param}")
    page = patient_window(
        chromium,
        locale=request.param,
        viewport={"width": 360, "height": 740},
        storage_state=keys.context.storage_state(),
    )
    page.goto(address)
    yield page
    page.context.close()


@pytest.mark.parametrize(("phone", "language"), [(one, one) for one in WORDS], indirect=["phone"])
def test_the_page_fits_a_phone_in_both_languages(phone: Page, language: str, shots: Path) -> None:
    code, words = WORDS[language]
    assert str(phone.locator("html").get_attribute("lang")).startswith(code)
    assert words in phone.get_by_role("heading", level=1).inner_text()
    assert phone.evaluate("() => document.documentElement.scrollWidth") <= 360
    phone.screenshot(path=shots / f"keys-phone-{code}.png", full_page=True)
    missing = [one for one in ("Make the key", "Tokens in all", "Valid for", "Revoke") if one in phone.content()]
    assert missing == ([] if code == "zh" else ["Make the key", "Tokens in all", "Valid for", "Revoke"])
