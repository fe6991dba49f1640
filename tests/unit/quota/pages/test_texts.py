"""Both languages are complete."""

from __future__ import annotations

import re
from string import Formatter

import pytest
from babel.messages.catalog import Message

from quota.locales import DEFAULT, LANGUAGES, translations
from quota.locales.extract import catalogue_path, po_text, read_catalogue, texts, updated

OTHERS = [language for language in LANGUAGES if language != DEFAULT]


def placeholders(text: str) -> set[str]:
    """`%(name)s` of pages and `{name}` of messages, whichever the text uses."""
    named = set(re.findall(r"%\(\w+\)[sd]", text))
    return named or {name for _, name, _, _ in Formatter().parse(text) if name}


def forms(message: Message) -> list[tuple[str, str]]:
    """(text, translation) for each form of a message."""
    if isinstance(message.id, str):
        return [(message.id, str(message.string))]
    return [(message.id[-1], one) for one in message.string or ()]


@pytest.mark.parametrize("language", OTHERS)
def test_every_text_is_translated_and_nothing_else_is_kept(language: str) -> None:
    stored = {m.id if isinstance(m.id, str) else m.id[0]: m for m in read_catalogue(language) if m.id}
    wanted = {text if isinstance(text, str) else text[0] for text in texts()}
    assert stored.keys() == wanted, "run: python -m quota.locales.extract"
    untranslated = [key for key, message in stored.items() if not all(done for _, done in forms(message))]
    assert untranslated == []


@pytest.mark.parametrize("language", OTHERS)
def test_placeholders_agree(language: str) -> None:
    for message in read_catalogue(language):
        if message.id:
            assert not message.fuzzy, message.id
            for text, translation in forms(message):
                assert placeholders(text) == placeholders(translation), text
                assert re.findall("</?strong>", text) == re.findall("</?strong>", translation), text


@pytest.mark.parametrize("language", OTHERS)
def test_the_catalogue_is_as_the_extraction_writes_it(language: str) -> None:
    assert catalogue_path(language).read_bytes() == po_text(updated(language))


def test_an_unknown_language_reads_as_english() -> None:
    assert translations("xx").gettext("Home") == "Home"
    assert translations("zh").gettext("Home") == "主页"
