"""A real Chromium (Debian's) in front of a real portal; each person has a window of their own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.engine.fixtures import engine, images
from tests.portal import Portal
from tests.waiting import PATIENCE_S

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
__all__ = ["engine", "images"]
PATIENCE_MS = PATIENCE_S * 1000
expect.set_options(timeout=PATIENCE_MS)  # else five seconds
Windows = Callable[[str], Page]


@pytest.fixture(scope="module")  # its event loop must not outlive the module: other tests have their own
def chromium() -> Iterator[Browser]:
    """Fails where Chromium is missing: `./commons test browser` installs it."""
    yield from a_chromium()


def a_chromium() -> Iterator[Browser]:
    """One browser, in the caller's network namespace."""
    path = shutil.which("chromium")
    assert path, "chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, timeout=PATIENCE_MS)
        yield browser
        browser.close()


def patient_window(chromium: Browser, **of_context: Any) -> Page:
    """A window in a context of its own, whose pages, requests and further windows wait as long as we do; half a minute by default."""
    context = chromium.new_context(**of_context)
    context.set_default_timeout(PATIENCE_MS)
    return context.new_page()


@pytest.fixture(scope="session")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """One for all modules that need no settings of their own; others' keys and projects may be in it."""
    running = Portal(tmp_path_factory.mktemp("browser") / "data").up()
    yield running
    assert running.down() == 0


@pytest.fixture(scope="module")
def windows(chromium: Browser, portal: Portal) -> Iterator[Windows]:
    """A window of a person, signed in through the form on first use and kept."""
    open_windows: dict[str, Page] = {}

    def window(user: str) -> Page:
        if user not in open_windows:
            page = patient_window(chromium, locale="en-GB", viewport={"width": 1280, "height": 900})
            page.goto(portal.url)
            page.get_by_label("User name").fill(user)
            page.get_by_label("Password").fill(portal.password(user))
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/services/quota/**")
            open_windows[user] = page
        return open_windows[user]

    yield window
    for page in open_windows.values():
        page.context.close()


def shows(part: Locator, words: str) -> None:
    """Load the page anew until this part of it has the words: what other programs write is there a moment later."""
    give_up = time.monotonic() + PATIENCE_S
    while words not in part.inner_text():
        assert time.monotonic() < give_up, part.inner_text()
        part.page.wait_for_timeout(200)
        part.page.reload()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go for a look at a failure."""
    return tmp_path_factory.mktemp("shots")
