"""Numbers as the pages show them: amounts, shares, the bar of a balance. Pure.

Rounds for people only: two decimals, or two significant digits below a tenth, so that a short session never reads as zero; a
share is cut, so that 100 % is never shown early. Negative balances stay negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final

from quota.domain.units import GPU_MS_PER_GPU_HOUR, Balance, Unit, gpu_hours_text

BAR_WIDTH: Final = 1000
_LOW_SHARE: Final = 10  # available below a tenth of what was awarded
_TWO_DIGITS_BELOW_GPU_MS: Final = GPU_MS_PER_GPU_HOUR // 10
_SMALLEST_GPU_MS: Final = GPU_MS_PER_GPU_HOUR // 10_000

MINUS: Final = "−"


class Level(StrEnum):
    """How a balance stands; computed, never stored."""

    NOTHING_AWARDED = "nothing_awarded"
    GOOD = "good"
    LOW = "low"
    EXHAUSTED = "exhausted"
    OVERDRAWN = "overdrawn"


@dataclass(frozen=True, slots=True)
class Bar:
    """Widths out of BAR_WIDTH; charged first, held behind it. Anything above zero is at least visible."""

    charged: int
    held: int


def level_of(balance: Balance) -> Level:
    """How `balance` stands."""
    if balance.available < 0:
        return Level.OVERDRAWN
    if balance.awarded == 0:
        return Level.NOTHING_AWARDED
    if balance.available == 0:
        return Level.EXHAUSTED
    return Level.LOW if balance.available * _LOW_SHARE < balance.awarded else Level.GOOD


def used_percent(balance: Balance) -> str:
    """Charged out of awarded, cut to one decimal: '20.3', '<0.1'; '–' where nothing is awarded. What is held may come back."""
    if balance.awarded <= 0:
        return "–"
    used = balance.charged
    permille = used * 1000 // balance.awarded
    if used > 0 and permille == 0:
        return "<0.1"
    return f"{permille // 10}.{permille % 10}".removesuffix(".0")


def bar_of(balance: Balance) -> Bar:
    """The bar that shows `balance`."""
    whole = max(balance.awarded, balance.charged + balance.held)
    if whole <= 0:
        return Bar(0, 0)
    held = _width(balance.held, whole)
    return Bar(min(_width(balance.charged, whole), BAR_WIDTH - held), held)


def number_shown(amount: int, unit: Unit) -> str:
    """An amount without its unit: '7.97', '10', '0.0028', '41,000'. A unit of another name raises ValueError."""
    if Unit(unit) is Unit.TOKENS:  # templates write units as text
        return f"{amount:,}".replace("-", MINUS)
    size = abs(amount)
    sign = MINUS if amount < 0 else ""
    if 0 < size < _SMALLEST_GPU_MS:
        return f"{sign}<0.0001"
    if 0 < size < _TWO_DIGITS_BELOW_GPU_MS:
        hours = Decimal(size) / GPU_MS_PER_GPU_HOUR
        return sign + _trimmed(f"{hours:.{1 - hours.adjusted()}f}")
    return sign + _trimmed(gpu_hours_text(size))


def signed_shown(amount: int, unit: Unit) -> str:
    """A change: '+2.03', '−0.0028'; empty for none."""
    if amount == 0:
        return ""
    return ("+" if amount > 0 else "") + number_shown(amount, unit)


def amount_shown(amount: int, unit: Unit, *, translate: Callable[[str], str]) -> str:
    """An amount with its unit in the reader's language."""
    template = translate("{n} GPU-h") if Unit(unit) is Unit.GPU_MS else translate("{n} tokens")
    return template.format(n=number_shown(amount, unit))


def rate_shown(rate: Fraction) -> str:
    """GPU-hours an hour, at most two decimals: '1', '0.5', '2.67'."""
    return _trimmed(f"{float(rate):.2f}")


def plain_number(amount: int, unit: Unit) -> str:
    """An amount as a form field or a CSV cell has it, exact, in GPU-hours or tokens: '412.5', '1000000'."""
    if unit is Unit.TOKENS:
        return str(amount)
    return _trimmed(f"{Decimal(amount) / GPU_MS_PER_GPU_HOUR:.10f}")


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _width(part: int, whole: int) -> int:
    return max(part * BAR_WIDTH // whole, 4) if part > 0 else 0
