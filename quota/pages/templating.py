"""Renders the pages: Jinja2 with autoescape and StrictUndefined, one environment a language.

English is the language of the templates; `quota.locales` has the others. Instants are rendered in UTC and carry their machine-
readable form, so that the page's script can show them in the reader's own zone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import partial
from gettext import NullTranslations
from pathlib import Path
from typing import Final

from babel.dates import format_date, format_datetime, format_interval, format_time
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from quota import locales
from quota.domain.messages import duration_text, field_text, render
from quota.pages import figures

HTML_LANG: Final[Mapping[str, str]] = {"en": "en", "zh": "zh-Hans"}
LANGUAGE_NAMES: Final[Mapping[str, str]] = {"en": "English", "zh": "中文"}
_HERE: Final = Path(__file__).resolve().parent


class Templates:
    """The environments, made once."""

    def __init__(self, constants: Mapping[str, object]) -> None:
        self._environments = {language: _environment(language, constants) for language in locales.LANGUAGES}

    def render(self, language: str, name: str, context: Mapping[str, object]) -> str:
        """The template `name` in `language`. Raises UndefinedError where the context lacks what it names."""
        return self._environments[language].get_template(name).render(context)


def _environment(language: str, constants: Mapping[str, object]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts: NullTranslations = locales.translations(language)
    # The i18n extension adds this method to the environment; its stubs do not say so.
    environment.install_gettext_callables(texts.gettext, texts.ngettext, newstyle=True)  # type: ignore[attr-defined]
    environment.globals.update(constants)
    environment.globals.update(
        language=language,
        html_lang=HTML_LANG[language],
        language_names=LANGUAGE_NAMES,
        message=lambda code, params=None: render(code, params or {}, texts.gettext),
        field_text=lambda reason: field_text(reason, texts.gettext),
    )
    environment.filters.update(
        amount=partial(figures.amount_shown, translate=texts.gettext),
        bare=figures.number_shown,
        signed=figures.signed_shown,
        duration=lambda seconds: duration_text(int(seconds), texts.gettext),
        instant=partial(instant_markup, language=language),
        days=partial(_days, language=language),
        day=lambda day: Markup('<span class="cc-nowrap">{}</span>').format(_day(day, language=language)),
    )
    return environment


def instant_markup(at: datetime, show: str = "datetime", *, language: str) -> Markup:
    """A <time> element; `show` is 'datetime', 'date', 'time' or 'second'. The title keeps UTC for the hover."""
    utc = at.astimezone(UTC)
    clock = format_time(utc, "HH:mm:ss" if show == "second" else "HH:mm", locale=language)
    full = f"{_day(utc.date(), language=language)} {clock} UTC"
    text = {"date": _day(utc.date(), language=language), "time": f"{clock} UTC", "second": f"{clock} UTC"}.get(
        show, full
    )
    machine = utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    return Markup('<time datetime="{}" data-show="{}" title="{}">{}</time>').format(machine, show, full, text)


def _days(first: datetime, last: datetime | None = None, *, language: str) -> Markup:
    """A day, or a range of days, short and without a year in the next months: '3 Feb', '3–9 Feb'; with UTC instants to hover over."""
    locale = "en_GB" if language == "en" else language
    last = last or first
    far = (last - first).days > 300 or first.date().year != last.date().year
    text = format_interval(first.date(), last.date(), "yMMMd" if far else "MMMd", locale=locale)
    same_month = (first.year, first.month) == (last.year, last.month)
    text = text.replace("\u2009", "" if same_month else " ")  # 3–9 Feb, but 28 Jan – 9 Feb
    return Markup('<span class="cc-nowrap">{}</span>').format(text)


def _day(day: date, *, language: str) -> str:
    if isinstance(day, datetime):
        return str(format_datetime(day, "d MMM y", locale=language))
    return str(format_date(day, "d MMM y" if language == "en" else "long", locale=language))
