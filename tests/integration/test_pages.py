"""The pages in a real Chromium over the real ledger: apply, decide, add a member, read balances; both languages, from 320 px.

Sign-in alone is a fake; the hub's own OAuth is walked in tests/browser.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import uvicorn
from cryptography.fernet import Fernet
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from quota.api.front import Front
from quota.domain.hold import Usage
from quota.domain.ids import HoldId
from quota.pages.app import build_pages
from quota.pages.desk import PageSettings
from quota.pages.session import SESSION_COOKIE, CookieSeal, new_session
from tests.integration.quota_service import Service, running_service
from tests.portal import ROOT
from tests.ports import free_port
from tests.unit.quota.pages.fakes import FakeSignIn
from tests.waiting import PATIENCE_S, eventually

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
HOUR = 3_600_000
expect.set_options(timeout=PATIENCE_S * 1000)  # else five seconds


@dataclass
class Site:
    """The pages on a port, and the browser that looks at them."""

    service: Service
    sign_in: FakeSignIn
    seal: CookieSeal
    url: str
    chromium: Browser
    complaints: list[str] = field(default_factory=list)

    async def window(
        self, who: str, *powers: str, language: str = "en-GB", width: int = 1280, dark: bool = False
    ) -> Page:
        """A window in which `who` is signed in; what its console complains of is collected."""
        context = await self.chromium.new_context(
            viewport={"width": width, "height": 800},
            locale=language,
            color_scheme="dark" if dark else "light",
            timezone_id="Asia/Shanghai",
        )
        context.set_default_timeout(PATIENCE_S * 1000)
        await self._sign_in(context, who, *powers)
        page = await context.new_page()
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    async def _sign_in(self, context: BrowserContext, who: str, *powers: str) -> None:
        value = self.seal.seal_session(new_session(self.sign_in.knows(who, *powers)))
        await context.add_cookies([{"name": SESSION_COOKIE, "value": value, "url": self.url}])


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_service(tmp_path) as service, async_playwright() as playwright:
        await service.register("ada", "rui", "grace")
        port, sign_in, key = free_port(), FakeSignIn(), Fernet.generate_key()
        settings = PageSettings(f"http://127.0.0.1:{port}/", ROOT / ".tools" / "node" / "node_modules", key)
        # The pages listen for news; an EventSource that is answered 204 asks no more (HTML, 9.2).
        quiet = Starlette(routes=[Route("/events", lambda request: Response(status_code=204))])
        pages = build_pages(service.services, sign_in, settings)
        app = Front({"/services/quota/api": quiet, "/services/quota": pages})
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE_S * 1000)
        async with _served(app, port):
            url = f"http://127.0.0.1:{port}/services/quota/"
            yield Site(service, sign_in, CookieSeal(key), url, chromium)
        await chromium.close()


@asynccontextmanager
async def _served(app: Front, port: int) -> AsyncIterator[None]:
    config = uvicorn.Config(app, host="127.0.0.1", port=port, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    server.capture_signals = _no_signals  # type: ignore[method-assign, assignment]
    serving = asyncio.create_task(server.serve())

    async def listening() -> bool | None:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0 or None

    await eventually(listening, within_s=PATIENCE_S, what="the pages listen")
    yield
    server.should_exit = True
    await serving


class _no_signals:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


async def test_from_an_empty_home_to_a_project_with_a_member(site: Site) -> None:
    ada, grace, rui = await site.window("ada"), await site.window("grace", "decide"), await site.window("rui")

    # a newcomer knows what to do, and asks in one form
    await ada.goto(site.url)
    await expect(ada.get_by_text("Ask its PI to add your user name:")).to_be_visible()
    await ada.get_by_role("main").get_by_role("link", name="Apply").click()
    await ada.get_by_label("Title").fill("Protein folding at night")
    await ada.get_by_label("Purpose").fill("We fold proteins to understand misfolding diseases.")
    await ada.get_by_label("Runs").fill("20")
    await ada.get_by_label("GPUs each").fill("2")
    await ada.get_by_label("Hours each").fill("12.5")
    await ada.get_by_role("button", name="Use as GPU-hours").click()
    await expect(ada.get_by_label("GPU-hours", exact=True)).to_have_value("500")
    await ada.get_by_label("Tokens", exact=True).fill("1,000,000")
    await ada.get_by_role("button", name="Submit application").click()
    await expect(ada.get_by_role("status").first).to_contain_text("Your application is submitted.")

    # granted on one page, lower than asked
    await grace.goto(f"{site.url}review")
    await grace.get_by_role("link", name="Protein folding at night").click()
    await expect(grace.get_by_label("GPU-hours")).to_have_value("500")
    await grace.get_by_label("GPU-hours").fill("10")
    await grace.get_by_label("Message to the applicant").fill("Ten for a start.")
    await grace.get_by_role("button", name="Approve and award").click()
    await expect(grace.get_by_role("status").first).to_contain_text("Approved.")

    # the PI sees charged, held and available in both units, and adds a member without leaving the page
    await ada.goto(site.url)
    await expect(ada.get_by_text("10 of 10 GPU-h left")).to_be_visible()
    await expect(ada.get_by_text("1,000,000 of 1,000,000 tokens left")).to_be_visible()
    await expect(ada.get_by_text("Ten for a start.")).to_be_visible()
    await ada.get_by_role("link", name="Members Protein folding at night").click()
    await ada.get_by_label("User name").fill("nobody-here")
    await ada.get_by_role("button", name="Add").click()
    await expect(ada.get_by_text("Nobody here has that user name.")).to_be_visible()
    await ada.get_by_label("User name").fill("rui")
    await ada.get_by_role("button", name="Add").click()
    await expect(ada.get_by_text("The member was added")).to_be_visible()
    assert ada.url.endswith("#members")

    # the statement says who gave what; the member sees the project
    await expect(ada.get_by_role("row").filter(has_text="Award: Protein folding at night").first).to_contain_text(
        "Grace"
    )
    await rui.goto(site.url)
    await expect(rui.get_by_role("link", name="Start Protein folding at night")).to_have_attribute(
        "href", f"/hub/commons/start?project={await _project(site)}"
    )
    assert site.service.verified() == []
    assert [said for said in site.complaints if "400" not in said] == []


async def _project(site: Site) -> str:
    person = await site.service.services.store.read(lambda tx: tx.people.by_hub_name("ada"))
    assert person is not None
    held = await site.service.services.store.read(lambda tx: tx.projects.of_person(person.id))
    return str(held[0][0].id)


async def test_without_javascript_the_whole_way_works(site: Site) -> None:
    context = await site.chromium.new_context(java_script_enabled=False)
    context.set_default_timeout(PATIENCE_S * 1000)
    await site._sign_in(context, "ada")
    page = await context.new_page()
    await page.goto(f"{site.url}apply")
    await expect(page.get_by_text("How many GPU-hours?")).to_be_hidden()
    await page.get_by_label("Title").fill("No script")
    await page.get_by_label("Purpose").fill("Works without a script.")
    await page.get_by_label("GPU-hours").fill("many")
    await page.get_by_role("button", name="Submit application").click()
    await expect(page.get_by_text("Write a number such as 500 or 0.5.")).to_be_visible()
    await page.get_by_label("GPU-hours").fill("5")
    await page.get_by_role("button", name="Submit application").click()
    await expect(page.get_by_text("Your application is submitted.")).to_be_visible()
    await expect(page.locator("time").first).to_contain_text("UTC")
    await page.get_by_role("button", name="中文").click()
    await expect(page.get_by_text("已提交", exact=True)).to_be_visible()


async def test_figures_refresh_by_themselves_and_say_when_they_could_not(site: Site) -> None:
    project = await site.service.award("ada", gpu_hours="10", tokens=0)
    page = await site.window("ada")
    await page.clock.install()
    await page.goto(site.url)
    await expect(page.get_by_text("10 of 10 GPU-h left")).to_be_visible()
    order = {"actor": "ada", "project_id": project, "profile": "gpu1", "runtime_s": 7200}
    body = {**order, "kind": "session", "application": "lab", "server_name": ""}
    held = await site.service.hub("PUT", "/internal/holds/hold-00000001", body)
    assert held.status_code == 201, held.text
    await page.clock.run_for(21_000)
    await expect(page.get_by_text("7.97 of 10 GPU-h left")).to_be_visible()
    await expect(page.get_by_text("starting")).to_be_visible()
    await expect(page.get_by_role("status").first).to_have_text("1 session running")
    site.sign_in.down = True
    await page.clock.run_for(21_000)
    await expect(page.get_by_text("could not be refreshed")).to_be_visible()
    await expect(page.get_by_text("7.97 of 10 GPU-h left")).to_be_visible()
    site.sign_in.down = False
    await page.clock.run_for(21_000)
    await expect(page.get_by_text("could not be refreshed")).to_be_hidden()


async def test_two_sessions_in_slices_are_two_rows_that_add_up_to_the_balance(site: Site) -> None:
    project = await site.service.award("ada", gpu_hours="10", tokens=0)
    began, slices = site.service.clock.now(), 90
    for number, profile in ((1, "gpu1"), (2, "gpu2")):
        body = {"actor": "ada", "project_id": project, "profile": profile, "runtime_s": 3600, "kind": "session"}
        order = {**body, "application": "lab", "server_name": "" if number == 1 else "second"}
        held = await site.service.hub("PUT", f"/internal/holds/hold-0000000{number}", order)
        assert held.status_code == 201, held.text
    for at in range(slices):
        from_at = began + timedelta(seconds=20 * at)
        for gpus in (1, 2):
            hold = HoldId(f"hold-0000000{gpus}")
            usage = Usage(
                "session", f"{hold}:{at}", hold, from_at, from_at + timedelta(seconds=20), 20_000, gpus * 20_000
            )
            await site.service.services.ledger.charge(usage)
    await site.service.services.ledger.settle(HoldId("hold-00000001"), began + timedelta(seconds=20 * slices))

    page = await site.window("ada")
    await page.goto(f"{site.url}projects/{project}#statement")
    rows = page.get_by_role("table", name="What changed the balances").get_by_role("row")
    await expect(rows).to_have_count(6)  # the heading, two sessions, their holds, the award
    ended, running = rows.filter(has_text="settled ·"), rows.filter(has_text="charged ·")
    await expect(ended).to_contain_text("90 slices")
    await expect(ended).to_contain_text("30 min × 1 GPU-h/h")
    await expect(ended).to_contain_text("+0.5 GPU-h")
    await expect(running).to_contain_text("(second)")
    await expect(running).to_contain_text("+1 GPU-h")
    await expect(page.get_by_text("charged 1.5", exact=True)).to_be_visible()
    assert site.service.verified() == []


@pytest.mark.parametrize(
    ("language", "width", "dark"), [("en-GB", 320, False), ("zh-CN", 320, True), ("zh-CN", 1280, False)]
)
async def test_pages_fit_are_labelled_and_break_no_policy(site: Site, language: str, width: int, dark: bool) -> None:
    project = await site.service.award("ada", gpu_hours="10", tokens=5000)
    page = await site.window("ada", "decide", language=language, width=width, dark=dark)
    for path in ("", "apply", "review", f"projects/{project}", "applications/application-0001"):
        await page.goto(site.url + path)
        await page.wait_for_load_state("networkidle")
        found = await page.evaluate(
            """() => ({
                wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
                headings: document.querySelectorAll('h1').length,
                theme: document.documentElement.dataset.bsTheme,
                small: [...document.querySelectorAll('a.btn, button, input:not([type=hidden]), select')]
                    .filter((e) => e.checkVisibility() && (e.offsetHeight < 24 || e.offsetWidth < 24)).map((e) => e.outerHTML),
                unnamed: [...document.querySelectorAll('input:not([type=hidden]), select, textarea')]
                    .filter((e) => !e.labels.length).map((e) => e.outerHTML),
                twice: [...document.querySelectorAll('[id]')].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i),
            })"""
        )
        theme = "dark" if dark else "light"
        assert found == {"wider": 0, "headings": 1, "theme": theme, "small": [], "unnamed": [], "twice": []}, path
    assert site.complaints == []


async def test_the_theme_is_kept_and_the_keyboard_reaches_the_content(site: Site) -> None:
    page = await site.window("ada")
    await page.goto(site.url)
    await page.get_by_role("button", name="Dark theme").click()
    await page.goto(f"{site.url}apply")
    await expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**#main")
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Title")).to_be_focused()
    await page.evaluate("window.seen = performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)")
    assert set(await page.evaluate("window.seen")) == {site.url.removesuffix("/services/quota/")}
