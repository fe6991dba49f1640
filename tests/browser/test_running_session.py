"""What people do with a running session, by keyboard and roles: extend it, read why it was stopped, find limits before they bite.

With processes of this machine, and in full with containers of a real engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PATIENCE_MS, Windows, a_chromium
from tests.engine.container_portal import ContainerPortal
from tests.engine.engine import Engine
from tests.portal import Portal

TITLE = "Weather in valleys"
READY_MS = METERED_MS = PATIENCE_MS  # the demo's meter looks every 20 s


@pytest.fixture(scope="module", params=["processes", pytest.param("containers", marks=pytest.mark.full)])
def place(request: pytest.FixtureRequest) -> Iterator[ContainerPortal | None]:
    """Where sessions run; None: as processes of this machine."""
    if request.param == "processes":
        yield None
        return
    engine: Engine = request.getfixturevalue("engine")
    with engine.namespace.inside():
        one = ContainerPortal(engine, request.getfixturevalue("images").base(), model=False)
        try:
            yield one
        finally:
            one.stop()


@pytest.fixture(scope="module")
def chromium(place: ContainerPortal | None) -> Iterator[Browser]:
    """In the place's network namespace."""
    yield from a_chromium()


@pytest.fixture(scope="module")
def portal(place: ContainerPortal | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """Without the language model, which nothing here needs."""
    data = tmp_path_factory.mktemp("running") / "data"
    running = Portal(data, model=False).up() if place is None else place.up(data)
    yield running
    assert running.down() == 0


def home(page: Page, portal: Portal) -> Page:
    page.goto(portal.url + "services/quota/")
    return page


def test_1_a_project_a_member_and_their_share(windows: Windows, portal: Portal) -> None:
    pi, admin = home(windows("pi"), portal), home(windows("admin"), portal)
    home(windows("researcher"), portal)
    pi.goto(portal.url + "services/quota/apply")
    pi.get_by_label("Title").fill(TITLE)
    pi.get_by_label("Purpose").fill("We forecast winds between mountains.")
    pi.get_by_label("GPU-hours", exact=True).fill("10")
    pi.get_by_role("button", name="Submit application").click()
    expect(pi.get_by_text("Your application is submitted.").first).to_be_visible()
    home(admin, portal).get_by_role("link", name="1 application waits for a decision").click()
    admin.get_by_role("link", name=TITLE).click()
    admin.get_by_role("button", name="Approve and award").click()
    expect(admin.get_by_text("Approved.").first).to_be_visible()
    home(pi, portal).get_by_role("article", name=TITLE).get_by_role("link", name=TITLE, exact=True).click()
    pi.get_by_label("User name").fill("researcher")
    pi.get_by_role("button", name="Add", exact=True).click()
    members = pi.get_by_role("table", name="Members of the project")
    expect(members).to_contain_text("researcher")


def test_2_extend_by_keyboard_keeps_the_focus_and_says_what_came_of_it(windows: Windows, portal: Portal) -> None:
    page = home(windows("researcher"), portal)
    page.get_by_role("link", name=re.compile("^Start")).click()
    page.get_by_role("radio", name=re.compile("^1 simulated GPU")).check()
    page.get_by_label("Runtime").select_option("3600")
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/user/researcher/lab**", timeout=READY_MS)
    home(page, portal)
    extend = page.get_by_role("button", name=re.compile("^Extend 1 h"))
    expect(extend).to_be_visible(timeout=METERED_MS)
    expect(page.get_by_text("holds 1 GPU-h more")).to_be_visible()
    extend.focus()
    page.keyboard.press("Enter")
    expect(page.locator("strong").get_by_text(re.compile("now ends at .*; 1.00 GPU-h more is held"))).to_be_visible()
    expect(extend).to_be_focused()
    expect(page.get_by_role("article", name=TITLE)).to_contain_text(re.compile(r"held (2\.0|1\.9)\d"))
    away = page.get_by_role("button", name=re.compile("^Put away"))
    away.click()
    expect(away).to_have_count(0)


def test_3_a_stop_by_the_pi_gives_a_reason_that_the_owner_reads_everywhere(windows: Windows, portal: Portal) -> None:
    owner, pi = windows("researcher"), windows("pi")
    sessions = owner.context.request.get(f"{portal.api}/sessions").json()["sessions"]
    pi.goto(f"{portal.url}services/quota/sessions/{sessions[0]['hold_id']}/stop")
    pi.get_by_label("Reason").fill("The node is needed.")
    pi.get_by_role("button", name="Stop").click()
    expect(pi.get_by_text(re.compile("is being stopped|has ended"))).to_be_visible()
    told = owner.locator("strong").get_by_text(re.compile("was stopped by pi: The node is needed."))
    expect(told).to_be_visible(timeout=METERED_MS)  # by itself: the page listens
    last = owner.get_by_role("paragraph").filter(has_text="Last session:")
    expect(last).to_contain_text("Stopped by pi: The node is needed.", timeout=METERED_MS)
    owner.goto(portal.url + "user/researcher/lab")
    expect(owner.get_by_text("Stopped by pi: The node is needed.")).to_be_visible()
    owner.get_by_role("link", name="Home").first.click()
    owner.get_by_role("link", name="Notices").click()
    expect(owner.get_by_role("heading", name="Notices", level=1)).to_be_visible()
    expect(told).to_be_visible()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("path", ["", "notices", "notices/choices"])
def test_no_new_page_scrolls_sideways(windows: Windows, portal: Portal, path: str, width: int) -> None:
    page = windows("researcher")
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{portal.url}services/quota/{path}")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.set_viewport_size({"width": 1280, "height": 900})
