"""The hub's header stays one line where there is room for one, an admin's with every link, too."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Windows
from tests.portal import Portal

ONE_LINE_PX = 64


@pytest.mark.parametrize("width", [1100, 1280, 1440])
def test_an_admins_header_is_one_line_in_both_languages(windows: Windows, portal: Portal, width: int) -> None:
    page = windows("admin")
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(portal.url + "hub/admin")
    for language, other in (("en", "中文"), ("zh", "English")):
        expect(page.locator("html")).to_have_attribute("lang", re.compile(f"^{language}"))
        header = page.get_by_role("navigation").first.bounding_box()
        assert header is not None
        assert header["height"] <= ONE_LINE_PX, header
        page.get_by_role("button", name=other).click()
    expect(page.locator("html")).to_have_attribute("lang", re.compile("^en"))
    page.set_viewport_size({"width": 1280, "height": 900})
