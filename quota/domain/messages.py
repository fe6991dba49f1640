"""The words: every message code, and how its templates become what a reader reads; the templates stand in quota.domain's `*_texts`.

Stored events, refusals and errors are codes with parameters, so that each reader reads their own language: `render` takes the
reader's gettext. Amounts and durations are formatted here and nowhere else. Invariant: rendering never raises for a known code,
whatever parameters are missing; a missing one shows as "–".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Final

from quota.domain.field_texts import FIELDS
from quota.domain.message import Message
from quota.domain.refusal_texts import ERRORS, REFUSALS
from quota.domain.session_texts import ENDS, MAILS, NOTICES, QUOTES
from quota.domain.statement_texts import KINDS, SUBJECTS
from quota.domain.units import Unit, gpu_hours_text

Translate = Callable[[str], str]
MISSING: Final = "–"


@dataclass(frozen=True, slots=True)
class Rendered:
    message: str
    next: str


MESSAGES: Final[Mapping[str, Message]] = {
    **REFUSALS, **ERRORS, **SUBJECTS, **KINDS, **ENDS, **NOTICES, **MAILS, **FIELDS, **QUOTES,
}  # fmt: skip

# Parameters that are amounts (in params["unit"], GPU-milliseconds where none is given) and durations.
_AMOUNTS: Final = frozenset({"requested", "available", "amount", "leaves", "charged", "held", "awarded"})


def instant_text(at: datetime) -> str:
    """An instant where the reader's zone is not known: '2026-01-31 16:40 UTC'."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


@dataclass(frozen=True, slots=True)
class Style:
    """How a place shows a message: `text` makes its template one that escapes (markupsafe.Markup), `instant` shows instants."""

    text: Callable[[str], str] = str
    instant: Callable[[datetime], str] = instant_text


PLAIN: Final = Style()


def render(code: str, params: Mapping[str, object], translate: Translate, style: Style = PLAIN) -> Rendered:
    """The message of `code` in the reader's language; an unknown code renders as itself."""
    message = MESSAGES.get(_variant(code, params))
    if message is None:
        return Rendered(code, "")
    shown = _Shown(params, translate, style)
    text = style.text(translate(message.text)).format_map(shown)
    return Rendered(text, style.text(translate(message.next)).format_map(shown) if message.next else "")


def field_text(reason: str, translate: Translate) -> str:
    """Why a field cannot be used; an unknown reason renders as itself."""
    return render(f"field.{reason}", {}, translate).message.removeprefix("field.")


def duration_text(seconds: int, translate: Translate = str) -> str:
    """A duration as people read it: '2 h', '1 h 9 min', '45 s'; seconds are dropped from an hour on."""
    hours, rest = divmod(max(seconds, 0), 3600)
    minutes, left = divmod(rest, 60)
    parts = [(hours, "{n} h"), (minutes, "{n} min")]
    if hours == 0:
        parts.append((left, "{n} s"))
    shown = [translate(template).format(n=number) for number, template in parts if number]
    return " ".join(shown) or translate("{n} s").format(n=0)


def unit_amount_text(unit: Unit, amount: int, translate: Translate = str) -> str:
    """An amount with its unit, as people read it: '2.03 GPU-h', '41,000 tokens'."""
    if unit is Unit.GPU_MS:
        return translate("{n} GPU-h").format(n=gpu_hours_text(amount))
    return translate("{n} tokens").format(n=f"{amount:,}")


def rate_text(rate: Fraction) -> str:
    """A rate as the interface writes it: '1', '1/2', '3/2'."""
    return str(rate)


def _variant(code: str, params: Mapping[str, object]) -> str:
    """Some codes have a second wording for a parameter that is missing or given."""
    if code == "insufficient_balance" and params.get("fits_runtime_s") is None:
        return "insufficient_balance.nothing_fits"
    if code == "no_allocation" and params.get("starts_on"):
        return "no_allocation.later"
    if code == "limit_reached" and f"{code}.{params.get('limit_name')}" in MESSAGES:
        named = f"{code}.{params['limit_name']}"
        nothing = params.get("unit") == Unit.GPU_MS.value and params.get("fits_runtime_s") is None
        return f"{named}.nothing_fits" if nothing and f"{named}.nothing_fits" in MESSAGES else named
    if code in ("session", "your_session") and not params.get("server_name"):
        return f"{code}.unnamed"
    if code == "notice.ending" and params.get("why_code"):
        return "notice.ending.why"
    if code == "notice.stopped" and params.get("by"):
        return "notice.stopped.by_why" if params.get("reason") else "notice.stopped.by"
    if code == "notice.suspended" and params.get("reason"):
        return "notice.suspended.why"
    return code


class _Shown(dict[str, str]):
    """Parameters as text, made when a template asks for them."""

    def __init__(self, params: Mapping[str, object], translate: Translate, style: Style) -> None:
        super().__init__()
        self._params = params
        self._translate = translate
        self._style = style
        self._unit = Unit.TOKENS if params.get("unit") == Unit.TOKENS.value else Unit.GPU_MS

    def __missing__(self, name: str) -> str:
        value = self._params.get(name)
        if value is None:
            return self._derived(name)
        if isinstance(value, str) and name.endswith("_at"):
            return self._instant(value)
        if type(value) is int:
            if name in _AMOUNTS:
                return unit_amount_text(self._unit, value, self._translate)
            if name.endswith("_s"):
                return duration_text(value, self._translate)
        return value.date().isoformat() if isinstance(value, datetime) else str(value)

    def _derived(self, name: str) -> str:
        """What follows from other parameters: titles, and messages inside a message, whose code and parameters travel along."""
        if name == "profile_title":  # withdrawn since: its id is what is left of it
            return str(self._params.get("profile") or MISSING)
        if name == "session_title":
            return render("your_session", self._params, self._translate).message
        if name == "why":
            code = f"why.{self._params.get('why_code', '')}"
            return render(code if code in MESSAGES else "why.", {}, self._translate).message
        if name in ("refusal", "refusal_next"):
            params = self._params.get("refusal_params")
            code = str(self._params.get("refusal_code", ""))
            words = render(code, params if isinstance(params, Mapping) else {}, self._translate)
            return words.message if name == "refusal" else words.next
        return MISSING

    def _instant(self, text: str) -> str:
        try:
            return self._style.instant(datetime.fromisoformat(text))
        except ValueError:
            return text
