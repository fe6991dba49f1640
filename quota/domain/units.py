"""Units and amounts.

Amounts are integers in one declared unit, never floats: GPU-milliseconds weighted by the charge rate (one GPU-hour of the
reference GPU = 3,600,000) and model tokens. Floats and decimals exist only where a person types or reads a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal, InvalidOperation
from enum import StrEnum

GPU_MS_PER_GPU_HOUR = 3_600_000
AMOUNT_MAX = 2**62  # a sum of two still fits a signed 64-bit column


class Unit(StrEnum):
    """What an allocation is measured in."""

    GPU_MS = "gpu_ms"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Balance:
    """An account as people see it; every field in `unit`'s smallest step. `available` may be negative and is shown so."""

    unit: Unit
    awarded: int
    charged: int
    held: int

    @property
    def available(self) -> int:
        return self.awarded - self.charged - self.held

    def __add__(self, other: Balance) -> Balance:
        if other.unit is not self.unit:
            raise ValueError(f"cannot add {other.unit} to {self.unit}")
        return Balance(self.unit, self.awarded + other.awarded, self.charged + other.charged, self.held + other.held)


def gpu_hours_to_ms(text: str) -> int:
    """Read GPU-hours as typed ("2", "0.5") into GPU-milliseconds, rounded down. Raises ValueError for anything else."""
    if not text.isascii() or not text.strip() or "_" in text:
        raise ValueError("not a decimal number")
    try:
        hours = Decimal(text.strip())
    except InvalidOperation as error:
        raise ValueError("not a decimal number") from error
    if not hours.is_finite() or abs(hours) > Decimal(AMOUNT_MAX // GPU_MS_PER_GPU_HOUR):
        raise ValueError("out of range")
    return int((hours * GPU_MS_PER_GPU_HOUR).to_integral_value(rounding=ROUND_DOWN))


def gpu_hours_text(gpu_ms: int) -> str:
    """GPU-hours for people, two decimals, banker's rounding, thousands separated: 7_320_000 -> '2.03'."""
    hours = (Decimal(gpu_ms) / GPU_MS_PER_GPU_HOUR).quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN)
    return f"{hours:,}"


def amount_text(unit: Unit, amount: int) -> str:
    """An amount with its unit, as people read it: '2.03 GPU-h', '41,000 tokens'."""
    return f"{gpu_hours_text(amount)} GPU-h" if unit is Unit.GPU_MS else f"{amount:,} tokens"
