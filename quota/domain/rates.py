"""Charge rates: how GPU time is weighted.

A rate is a Fraction of the reference GPU's hour, dated, and pinned to a hold when it is made. Rounding happens once, in
`charge_due`, downwards, on the total, so that slices cannot drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from quota.domain.errors import InvariantBroken


@dataclass(frozen=True, slots=True)
class ChargeRate:
    """GPU-milliseconds charged per millisecond of one GPU of `hardware`, from `valid_from` on."""

    hardware: str
    rate: Fraction
    valid_from: datetime


def hold_amount(rate: Fraction, gpus: int, runtime_s: int, margin_s: int) -> int:
    """GPU-milliseconds to set aside for the whole chosen runtime plus the stop margin; rounds up, so that it always suffices."""
    exact = rate * gpus * (runtime_s + margin_s) * 1000
    return -((-exact.numerator) // exact.denominator)


def charge_due(rate: Fraction, gpus: int, elapsed_ms: int, charged_gpu_ms: int) -> int:
    """GPU-milliseconds still to charge: meter the total and charge the difference.

    Rounds down. Raises InvariantBroken where more was charged than used.
    """
    total = (
        rate.numerator * gpus * elapsed_ms // rate.denominator
    )  # exact, and without making Fractions for 10,000 sessions
    if total < charged_gpu_ms:
        raise InvariantBroken(f"charged {charged_gpu_ms} of {total} used")
    return total - charged_gpu_ms


def longest_runtime_s(rate: Fraction, gpus: int, available: int, margin_s: int) -> int | None:
    """The longest whole-second runtime whose hold fits into `available`; None where not even a second does. Free is unbounded."""
    per_s = rate * gpus * 1000
    if per_s == 0:
        return None if available < 0 else 2**31
    fits = int(Fraction(available) // per_s) - margin_s
    return fits if fits > 0 else None
