"""Anchors of headings, as the forges make them."""

from __future__ import annotations

import pytest

from tests.documents import LINK, anchor


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("What runs", "what-runs"),
        ("A local session's folder", "a-local-sessions-folder"),
        ("`[profiles.*]`: what people may start", "profiles-what-people-may-start"),
        ("第一步", "第一步"),
    ],
)
def test_a_headings_anchor(heading: str, expected: str) -> None:
    assert anchor(heading) == expected


def test_links_and_pictures_are_found() -> None:
    text = '[a](b.md#c) ![shot](docs/home.png "Home") [web](https://example.org) [x](<d e.md>)'
    assert LINK.findall(text)[:3] == ["b.md#c", "docs/home.png", "https://example.org"]
