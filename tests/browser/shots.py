"""Screenshots of every page, desktop and phone, light and dark, English and Chinese, for people to look at.

`python -m tests.browser.shots FOLDER [--data DIR]` starts a portal, makes a project with a session and some use, and photographs.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, Page, ViewportSize, async_playwright

from tests.browser.conftest import ARGUMENTS, PATIENCE_MS
from tests.people import Kernel, Person
from tests.portal import Portal
from tests.waiting import PATIENCE_S, eventually
from tests.world import awarded_project, submitted_application

SIZES: dict[str, ViewportSize] = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 360, "height": 740}}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
LANGUAGES = {"en": "en-GB", "zh": "zh-CN"}
MODEL_CALL = (
    "import openai\n"
    "ask = [{'role': 'user', 'content': 'Say hello.'}]\n"
    "openai.OpenAI().chat.completions.create(model='smollm2-135m-instruct', max_tokens=24, messages=ask)"
)


async def photograph(browser: Browser, portal: Portal, user: str, pages: dict[str, str], folder: Path) -> None:
    """Every page of one person in every size, scheme and language."""
    for language, locale in LANGUAGES.items():
        for scheme in SCHEMES:
            context = await browser.new_context(locale=locale, color_scheme=scheme, viewport=SIZES["desktop"])
            page = await context.new_page()
            await page.goto(portal.url + "hub/login")
            await page.screenshot(path=folder / f"login-desktop-{scheme}-{language}.png")
            await page.locator("input[name=username]").fill(user)
            await page.locator("input[name=password]").fill(portal.password(user))
            await page.locator("button[type=submit]").click()
            await page.wait_for_url("**/services/quota/**")
            for size, viewport in SIZES.items():
                await page.set_viewport_size(viewport)
                for name, path in pages.items():
                    await open_page(page, portal.url + path)
                    await page.screenshot(path=folder / f"{name}-{size}-{scheme}-{language}.png", full_page=True)
            await context.close()


async def open_page(page: Page, url: str) -> None:
    """Go there; a fragment that names a tab is clicked."""
    await page.goto(url)
    await page.wait_for_load_state("networkidle")
    if url.endswith("#quotas"):
        await page.locator("#quotas-tab").click()
        await page.wait_for_load_state("networkidle")


async def runs(person: Person) -> bool:
    """Whether somebody's newest session runs by what their home says, a moment after its notebook answers."""
    status, listed = await person.api("GET", "/sessions")
    assert status == 200, listed
    return bool(listed["sessions"][0]["state"] == "running")


async def walk(portal: Portal, folder: Path) -> None:
    """Make the situation, then photograph it as PI and as admin."""
    async with Person(portal, "pi") as pi, Person(portal, "admin") as admin, async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=ARGUMENTS, timeout=PATIENCE_MS
        )
        await photograph(browser, portal, "researcher", {"welcome": "services/quota/"}, folder)
        project = await awarded_project(pi, admin, gpu_hours="10", tokens=200_000)
        waiting = await submitted_application(pi, title="Weather in valleys")
        status, _ = await pi.api("PUT", f"/projects/{project}/members/researcher", {"role": "member"})
        assert status in (200, 201), status
        await pi.start(project)
        await (await Kernel(pi).open()).run(MODEL_CALL)
        await eventually(lambda: runs(pi), within_s=PATIENCE_S, what="the portal knows that the session runs")
        pages = {
            "home": "services/quota/",
            "apply": "services/quota/apply",
            "project": f"services/quota/projects/{project}",
            "chooser": f"hub/spawn/pi/second?project={project}",
            "hub-home": "hub/home",
        }
        await photograph(browser, portal, "pi", pages, folder)
        pages = {
            "review": "services/quota/review",
            "decide": f"services/quota/review/{waiting}",
            "quotas": "hub/admin#quotas",
            "missing": "services/quota/nowhere",
        }
        await photograph(browser, portal, "admin", pages, folder)
        await pi.stop()
        await browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        portal = Portal(Path(data) / "data").up()
        try:
            asyncio.run(walk(portal, folder))
        finally:
            portal.down()


if __name__ == "__main__":
    main()
