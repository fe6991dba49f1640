"""What a person sees while a session in a container starts: how far the image's layers are, and the last lines of a start that failed.

The hub and the engine are real, in the engine's network namespace, browser included; the image comes from a registry that stops
half-way until it is told to go on, and has no program to start.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker.errors
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PATIENCE_MS, a_chromium, patient_window
from tests.engine.engine import Engine
from tests.engine.registry import Registry
from tests.engine.site import ContainerSite
from tests.integration.hub_process import HubProcess

SLOW_MS = PATIENCE_MS
HOUR_MS = 3_600_000
LANGUAGES = {"pi": "en-GB", "researcher": "zh-CN"}
START = {"pi": "Start", "researcher": "启动"}
LAYERS = {
    "pi": re.compile(r"Fetching the image: \d of 3 layers, [1-9]\d? %"),
    "researcher": re.compile(r"正在获取镜像：3 层中的 \d 层，[1-9]\d?%"),
}
FAILED = {"pi": "The session ended while it started (status 127)", "researcher": "会话在启动时结束（状态 127）"}
UNCHARGED = {"pi": "nothing is charged", "researcher": "不会计费"}


@pytest.fixture(scope="module")
def inside(engine: Engine) -> Iterator[Engine]:
    with engine.namespace.inside():
        yield engine


@pytest.fixture(scope="module")
def chromium(inside: Engine) -> Iterator[Browser]:
    yield from a_chromium()


class RegistryThread:
    """A registry on an event loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)

    async def _start(self) -> None:
        self.registry = Registry()
        self._runner = await self.registry.start()

    def go_on(self) -> None:
        """Have the second halves sent."""
        self._loop.call_soon_threadsafe(self.registry.go_on.set)

    def stop(self) -> None:
        self.go_on()
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)


@pytest.fixture(scope="module")
def registry(inside: Engine) -> Iterator[RegistryThread]:
    one = RegistryThread()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def hub(inside: Engine, registry: RegistryThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    site = ContainerSite(inside, registry.registry.image)
    one = HubProcess(tmp_path_factory.mktemp("fetch") / "data", portal_file=site.portal_file)
    one.quota.book.available = {"p1": 100 * HOUR_MS}
    one.quota.book.payers = {name: ["p1"] for name in LANGUAGES}
    try:
        site.load_rules(one.hub_port, one.quota_port)
        site.start()
        yield one.start()
    finally:
        one.end()
        site.stop()
        client = inside.client()
        with suppress(docker.errors.ImageNotFound):
            client.images.remove(registry.registry.image, force=True)
        client.close()


@pytest.fixture(scope="module")
def pages(chromium: Browser, hub: HubProcess) -> Iterator[dict[str, Page]]:
    """A window for each of the two, in their own language, signed in."""
    opened = {}
    for name, locale in LANGUAGES.items():
        page = opened[name] = patient_window(chromium, locale=locale)
        page.goto(hub.url + "hub/login")
        page.get_by_role("textbox").nth(0).fill(name)
        page.get_by_role("textbox").nth(1).fill(hub.password(name))
        page.keyboard.press("Enter")
        page.wait_for_url("**/services/quota/**", timeout=SLOW_MS)  # where no quota service answers in this test
        page.goto(hub.url + "hub/spawn")
    yield opened
    for page in opened.values():
        page.context.close()


def test_layers_are_told_in_plain_words_and_a_failed_start_shows_its_last_lines_in_both_languages(
    pages: dict[str, Page], registry: RegistryThread, shots: Path
) -> None:
    for name, page in pages.items():
        page.get_by_role("radio", name=re.compile("CPU")).first.check()
        page.get_by_role("button", name=START[name], exact=True).click()
    for name, page in pages.items():
        expect(page.get_by_text(LAYERS[name]).first).to_be_visible(timeout=SLOW_MS)
        page.screenshot(path=shots / f"layers-{name}.png")
    registry.go_on()
    for name, page in pages.items():
        said = page.get_by_role("main").get_by_text(FAILED[name]).first
        expect(said).to_be_visible(timeout=SLOW_MS)
        expect(said).to_contain_text(UNCHARGED[name])
        expect(page.locator("pre").filter(has_text="jupyterhub-singleuser").first).to_be_visible()
        page.screenshot(path=shots / f"failed-{name}.png")
