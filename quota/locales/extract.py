"""Finds every text that needs a translation, and brings the catalogues up to date.

`python -m quota.locales.extract` adds new texts to each `.po` and drops those that are gone; what is translated stays. Sources:
the pages' templates (`_`, `ngettext`, `trans`), their Python (`gettext`, `msgid`), and the messages of quota.domain.messages.
Nothing else imports this module; the service reads the `.po` files themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_python
from babel.messages.pofile import read_po, write_po
from jinja2.ext import babel_extract

from quota.domain.messages import MESSAGES
from quota.locales import DEFAULT, LANGUAGES

_HERE: Final = Path(__file__).resolve().parent
_QUOTA: Final = _HERE.parent
_PYTHON: Final = ("pages/*.py", "domain/messages.py", "api/*.py", "gateway/*.py")
_KEYWORDS: Final = {"gettext": None, "msgid": None, "translate": None}
_HEADER: Final = (
    "# Texts of the quota service; made by quota/locales/extract.py, translated by hand. Words as in GLOSSARY.md."
)
_DURATIONS: Final = ("{n} h", "{n} min", "{n} s")  # duration_text chooses among them at run time
_NOISE: Final = ("POT-", "PO-", "Last-", "Language-Team", "Report-", "Generated-")  # headers that only make differences
_TEMPLATE_KEYWORDS: Final = ("_", "gettext", "ngettext")
_TEMPLATE_OPTIONS: Final = {"trim_blocks": "true", "lstrip_blocks": "true", "newstyle_gettext": "true"}

Text = str | tuple[str, str]  # a text, or its singular and plural


def texts() -> dict[Text, str]:
    """Every text → the file that it was first found in."""
    found: dict[Text, str] = {}
    for text, where in (*_of_templates(), *_of_python(), *_of_messages()):
        found.setdefault(text, where)
    return found


def _of_templates() -> Iterator[tuple[Text, str]]:
    for path in sorted((_QUOTA / "pages" / "templates").glob("*.html")):
        with path.open("rb") as source:
            for _, function, message, _ in babel_extract(source, list(_TEMPLATE_KEYWORDS), [], _TEMPLATE_OPTIONS):
                yield from _texts(function, message, path)


def _of_python() -> Iterator[tuple[Text, str]]:
    for pattern in _PYTHON:
        for path in sorted(_QUOTA.glob(pattern)):
            with path.open("rb") as source:
                for _, function, message, _ in extract_python(source, _KEYWORDS, [], {}):
                    yield from _texts(function, message, path)


def _of_messages() -> Iterator[tuple[Text, str]]:
    for text in _DURATIONS:
        yield text, "domain/messages.py"
    for message in MESSAGES.values():
        for text in (message.text, message.next):
            if text:
                yield text, "domain/messages.py"


def _texts(function: object, message: object, path: Path) -> Iterator[tuple[Text, str]]:
    parts = [part for part in message if isinstance(part, str)] if isinstance(message, tuple | list) else [message]
    where = str(path.relative_to(_QUOTA))
    if function == "ngettext":
        yield (str(parts[0]), str(parts[1])), where
    elif parts and isinstance(parts[0], str) and parts[0]:
        yield parts[0], where


def catalogue_path(language: str) -> Path:
    """Where the catalogue of `language` lies."""
    return _HERE / language / "LC_MESSAGES" / "messages.po"


def read_catalogue(language: str) -> Catalog:
    """The catalogue as it lies there; empty where there is none."""
    path = catalogue_path(language)
    if not path.is_file():
        return Catalog(locale=language, project="Compute Commons", fuzzy=False, header_comment=_HEADER)
    with path.open("rb") as source:
        return read_po(source, locale=language)


def updated(language: str) -> Catalog:
    """The catalogue with exactly the texts of now, in their order; known translations kept."""
    old = read_catalogue(language)
    new = Catalog(locale=language, project="Compute Commons", fuzzy=False, header_comment=_HEADER)
    for text, where in texts().items():
        known = old.get(text if isinstance(text, str) else text[0])
        new.add(text, known.string if known is not None else None, locations=[(where, 0)])
    return new


def po_text(catalogue: Catalog) -> bytes:
    """The catalogue as its file has it."""
    out = BytesIO()
    write_po(out, catalogue, width=0, include_lineno=False)
    lines = out.getvalue().decode().splitlines(keepends=True)
    kept = (line for line in lines if not line.startswith(tuple(f'"{name}' for name in _NOISE)))
    return "".join(kept).encode()


def main() -> None:
    """Rewrite every catalogue but that of the templates' own language."""
    for language in LANGUAGES:
        if language != DEFAULT:
            path = catalogue_path(language)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(po_text(updated(language)))


if __name__ == "__main__":
    main()
