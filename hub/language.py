"""The hub's pages in the reader's language: catalogues from hub/locales, loaded once into memory; English is the source.

Invariant: a missing translation shows English, never nothing; the language is the request's (`Accept-Language`), so two people
never see each other's. tests/unit/hub/test_language.py holds the Chinese catalogue complete.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from babel import negotiate_locale
from babel.messages.pofile import read_po
from jinja2 import Environment, pass_context
from jinja2.ext import InternationalizationExtension
from jinja2.runtime import Context

ENGLISH: Final = "en"
LANGUAGES: Final = (ENGLISH, "zh")
COOKIE: Final = "commons-language"  # set by the quota pages for the whole portal
FOLDER: Final = Path(__file__).resolve().parent / "locales"


def negotiate(accept_language: str) -> str:
    """The best of LANGUAGES for an Accept-Language header; English where nothing fits."""
    wanted: list[tuple[float, str]] = []
    for part in accept_language[:500].split(","):
        tag, _, weight = part.strip().partition(";q=")
        try:
            wanted.append((float(weight or 1), tag))
        except ValueError:
            continue
    tags = [tag for weight, tag in sorted(wanted, key=lambda one: -one[0]) if weight > 0 and tag]
    primary = [tag.split("-")[0] for tag in tags]
    return negotiate_locale(primary, LANGUAGES) or ENGLISH


def language_of(handler: Any) -> str:
    """The language of the request that a hub handler serves: the reader's choice on any page of the portal, else the browser's."""
    if handler is None:
        return ENGLISH
    chosen = handler.get_cookie(COOKIE)
    return chosen if chosen in LANGUAGES else negotiate(handler.request.headers.get("Accept-Language", ""))


def translator(language: str) -> Callable[[str], str]:
    """The function that turns English text into `language`."""
    words = catalogue(language)
    return lambda text: words.get(text) or text


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """Every translated text of a language, by its English."""
    path = FOLDER / language / "LC_MESSAGES" / "hub.po"
    if language == ENGLISH or language not in LANGUAGES:
        return {}
    with path.open("rb") as file:
        messages = read_po(file, locale=language)
    return {str(message.id): str(message.string) for message in messages if message.id and not message.fuzzy}


class Localized(InternationalizationExtension):
    """Jinja's `_()` and `{% trans %}` in the language of the request that is being rendered."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.install_gettext_callables(_gettext, _ngettext, newstyle=True)  # type: ignore[attr-defined]
        environment.globals["page_language"] = _page_language
        environment.globals["page_path"] = _page_path


@pass_context
def _page_language(context: Context) -> str:
    # The hub hands templates no handler, only its bound method `static_url`.
    return language_of(getattr(context.get("static_url"), "__self__", None))


@pass_context
def _page_path(context: Context) -> str:
    """Where the reader is, without what a form posted: the choice of a language leads back there."""
    handler = getattr(context.get("static_url"), "__self__", None)
    return "" if handler is None or handler.request.method != "GET" else str(handler.request.uri)


@pass_context
def _gettext(context: Context, text: str) -> str:
    return translator(_page_language(context))(text)


@pass_context
def _ngettext(context: Context, singular: str, plural: str, number: int) -> str:
    return translator(_page_language(context))(singular if number == 1 else plural)
