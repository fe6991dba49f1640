"""The portal's header stays one line where there is room for one, an admin's with every link, too, and has the same links everywhere."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Windows
from tests.portal import Portal

ONE_LINE_PX = 64


@pytest.mark.parametrize("path", ["hub/admin", "services/quota/review"])
@pytest.mark.parametrize("width", [1100, 1280, 1440])
def test_an_admins_header_is_one_line_in_both_languages(
    windows: Windows, portal: Portal, width: int, path: str
) -> None:
    page = windows("admin")
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(portal.url + path)
    for language, other in (("en", "中文"), ("zh", "English")):
        expect(page.locator("html")).to_have_attribute("lang", re.compile(f"^{language}"))
        header = page.get_by_role("banner").or_(page.get_by_role("navigation")).first.bounding_box()
        assert header is not None
        assert header["height"] <= ONE_LINE_PX, header
        page.get_by_role("button", name=other).click()
    expect(page.locator("html")).to_have_attribute("lang", re.compile("^en"))
    page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.parametrize("person", ["admin", "researcher"])
def test_pages_of_the_hub_and_of_the_quota_service_lead_to_the_same_places(
    windows: Windows, portal: Portal, person: str
) -> None:
    page, found = windows(person), []
    for path in ("hub/home", "services/quota/"):
        page.goto(portal.url + path)
        links = page.get_by_role("banner").or_(page.get_by_role("navigation")).first.get_by_role("link")
        found.append({name.strip() for name in links.all_inner_texts()} - {"Sign out"})  # a button on the quota pages
    assert found[0] == found[1]
    assert {"Notebooks", "API access"} < found[0]


def test_the_page_of_tokens_does_not_scroll_sideways_on_a_phone(windows: Windows, portal: Portal) -> None:
    page = windows("pi")
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(portal.url + "hub/token")
    expect(page.get_by_role("button", name="Request new API token")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1280, "height": 900})
