"""Two languages: Chinese is complete, English is what remains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_file
from jinja2 import Environment

from hub import language
from hub.language import Localized, catalogue, negotiate, translator

HUB = Path(language.__file__).parent
PLACEHOLDER = re.compile(r"%\(\w+\)s|\{\w+\}")


def written() -> set[str]:
    """Every text that the code and the templates ask for."""
    found: set[str] = set()
    for path in HUB.rglob("*"):
        method = {".py": "python", ".html": "jinja2.ext:babel_extract"}.get(path.suffix)
        if method is not None:
            found |= {str(text) for _, text, _, _ in extract_from_file(method, path, keywords={"_": None})}
    return found


def test_every_text_has_its_chinese() -> None:
    assert sorted(written() - set(catalogue("zh"))) == []


def test_no_chinese_is_left_over() -> None:
    assert sorted(set(catalogue("zh")) - written()) == []


@pytest.mark.parametrize("text", sorted(written()))
def test_a_translation_keeps_what_is_filled_in(text: str) -> None:
    chinese = translator("zh")(text)
    assert chinese
    assert sorted(PLACEHOLDER.findall(chinese)) == sorted(PLACEHOLDER.findall(text))


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,zh;q=0.5", "en"),
        ("fr,zh-Hant;q=0.3", "zh"),
        ("fr, de", "en"),
        ("zh;q=0, fr", "en"),
        ("zh;q=x", "en"),
        (";;;,,,q=", "en"),
        ("zh" * 1000, "en"),
    ],
)
def test_the_browsers_first_language_that_we_have(header: str, chosen: str) -> None:
    assert negotiate(header) == chosen


class Request:
    def __init__(self, accept: str, cookie: str | None = None) -> None:
        self.headers = {"Accept-Language": accept}
        self.request = self
        self.cookie = cookie

    def get_cookie(self, name: str) -> str | None:
        return self.cookie if name == "commons-language" else None

    def static_url(self, path: str) -> str:
        return path


def test_a_page_speaks_the_language_of_its_own_request() -> None:
    page = Environment(autoescape=True, extensions=[Localized]).from_string('{{ _("Sign out") }} {{ page_language() }}')
    assert page.render(static_url=Request("zh").static_url) == "退出登录 zh"
    assert page.render(static_url=Request("en").static_url) == "Sign out en"
    assert page.render() == "Sign out en"


def test_the_choice_made_on_any_page_comes_before_the_browsers() -> None:
    assert language.language_of(Request("en", "zh")) == "zh"
    assert language.language_of(Request("zh", "xx")) == "zh"


def test_what_is_filled_into_a_text_is_escaped() -> None:
    page = Environment(autoescape=True, extensions=[Localized]).from_string('{{ _("Code %(number)s", number=x) }}')
    assert page.render(x="<b>") == "Code &lt;b&gt;"
