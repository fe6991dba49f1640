"""The catalogues: `<language>/LC_MESSAGES/messages.po` beside this module, read by Babel once, in memory; no compiled files.

English is the language of the templates and needs no catalogue. An unknown language reads as English.
"""

from __future__ import annotations

from functools import cache
from gettext import NullTranslations
from io import BytesIO
from pathlib import Path
from typing import Final

from babel.core import negotiate_locale
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import Translations

LANGUAGES: Final = ("en", "zh")
DEFAULT: Final = "en"
_HERE: Final = Path(__file__).resolve().parent


@cache
def translations(language: str) -> NullTranslations:
    """The translations into `language`; `.gettext` is what quota.domain.messages.render takes."""
    path = _HERE / language / "LC_MESSAGES" / "messages.po"
    if language not in LANGUAGES or not path.is_file():
        return NullTranslations()
    with path.open("rb") as text:
        catalogue = read_po(text, locale=language)
    compiled = BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return Translations(fp=compiled)


def preferred(accept_language: str | None) -> str | None:
    """The language of an Accept-Language header (RFC 9110 §12.5.4) that we have; None where it names none of them."""
    wanted = sorted(_weighted(accept_language or ""), key=lambda entry: -entry[0])
    names = [name.replace("-", "_") for weight, name in wanted if weight > 0]
    found = negotiate_locale(names, LANGUAGES)
    return found if found in LANGUAGES else None


def _weighted(header: str) -> list[tuple[float, str]]:
    entries = []
    for part in header[:500].split(","):
        name, _, weight = part.strip().partition(";")
        try:
            quality = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            quality = 0.0
        if name:
            entries.append((quality, name.strip().lower()))
    return entries
