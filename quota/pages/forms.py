"""Reads what people type: amounts, days, texts. Each field gets a value or a reason (a message code); nothing is guessed.

Full-width digits are read as digits (a Chinese keyboard writes them); "1,000" and "1 000" are read as a thousand.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final, TypeVar

from quota.domain.application import Ask
from quota.domain.units import AMOUNT_MAX, gpu_hours_to_ms

T = TypeVar("T")
_DEFAULT_SPAN: Final = timedelta(days=182)
_GROUPED: Final = re.compile(r"\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?\Z")
_CONTROL_ALLOWED: Final = "\n\t"


@dataclass(slots=True)
class Read:
    """The form as it came, and what is wrong with it: field → reason. The first reason of a field stands."""

    values: Mapping[str, str]
    errors: dict[str, str] = field(default_factory=dict)

    def blame(self, name: str, reason: str) -> None:
        self.errors.setdefault(name, reason)

    def take(self, name: str, convert: Callable[[str], T], otherwise: T, reason: str) -> T:
        """The field converted; `otherwise`, with `reason` noted, where that raises ValueError."""
        try:
            return convert(self.values.get(name, ""))
        except ValueError:
            self.blame(name, reason)
            return otherwise

    def text(self, name: str) -> str:
        """A text without control characters, which the database could not keep."""
        value = self.values.get(name, "").strip()
        if any(unicodedata.category(char) == "Cc" and char not in _CONTROL_ALLOWED for char in value):
            self.blame(name, "not_utf8")
        return value


def gpu_ms(text: str) -> int:
    """GPU-hours as typed, in GPU-milliseconds; empty is none. Raises ValueError."""
    typed = _digits(text)
    return gpu_hours_to_ms(typed) if typed else 0


def tokens(text: str) -> int:
    """Tokens as typed; empty is none. Raises ValueError."""
    typed = _digits(text)
    if not typed:
        return 0
    if not re.fullmatch(r"-?\d{1,19}", typed, re.ASCII):
        raise ValueError("not a whole number")
    count = int(typed)
    if count > AMOUNT_MAX:
        raise ValueError("out of range")
    return count


def day(text: str) -> date:
    """A day as a date field sends it. Raises ValueError."""
    typed = text.strip()
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", typed, re.ASCII):
        raise ValueError("not a date")
    return date.fromisoformat(typed)


def new_ask_values(today: date) -> dict[str, str]:
    """An empty application: from today for half a year."""
    return {
        "title": "",
        "purpose": "",
        "gpu_hours": "",
        "tokens": "",
        "starts_on": today.isoformat(),
        "ends_on": (today + _DEFAULT_SPAN).isoformat(),
    }


def read_ask(read: Read, today: date) -> Ask:
    """What the application form asks for; only good where `read.errors` stayed empty."""
    return Ask(
        title=" ".join(read.text("title").split()),
        purpose=read.text("purpose"),
        gpu_ms=read.take("gpu_hours", gpu_ms, 0, "not_a_number"),
        tokens=read.take("tokens", tokens, 0, "not_a_number"),
        starts_on=read.take("starts_on", day, today, "not_a_date"),
        ends_on=read.take("ends_on", day, today + _DEFAULT_SPAN, "not_a_date"),
    )


def _digits(text: str) -> str:
    typed = unicodedata.normalize("NFKC", text).strip()
    return re.sub(r"[, ]", "", typed) if _GROUPED.match(typed) else typed
