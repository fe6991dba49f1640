"""What the start chooser says of who could pay: the project's balance, or what of it is the reader's own share. Pure.

Invariant: somebody with a share is never shown more than they could use: the smaller of their share and the project's balance.
"""

from dataclasses import dataclass
from typing import Final

from hub.durations import gpu_hours_text
from hub.language import translator
from quota.client import Payer

GPU_MS: Final = "gpu_ms"
TOKENS: Final = "tokens"


@dataclass(frozen=True, slots=True)
class Left:
    """One unit's line: `text` is what is left in words, `used_up` whether that is nothing."""

    text: str
    used_up: bool


@dataclass(frozen=True, slots=True)
class PayerWords:
    """One payer of the chooser: the option's text, and what stands below it."""

    project_id: str
    option: str
    course: str  # the course that pays, "" for a project that is none
    heading: str
    lines: tuple[Left, ...]  # GPU-hours, then tokens


def payer_words(payer: Payer, language: str) -> PayerWords:
    """Say in the reader's language who pays and what is left."""
    _ = translator(language)
    amount = _("%(amount)s GPU-h") % {"amount": gpu_hours_text(left_of(payer, GPU_MS))}
    return PayerWords(
        project_id=payer.project_id,
        option=f"{payer.course or payer.title} · {amount}",  # short: a phone's list has one line
        course=payer.course,
        heading=_("Left of your share") if payer.shares else _("Available"),
        lines=tuple(_line(payer, unit, language) for unit in (GPU_MS, TOKENS)),
    )


def left_of(payer: Payer, unit: str) -> int:
    """What the person could use of the project now, in the unit's own amounts; negative where more was used."""
    available = (payer.gpu_ms if unit == GPU_MS else payer.tokens)["available"]
    share = payer.shares.get(unit)
    return available if share is None else min(share.available, available)


def _line(payer: Payer, unit: str, language: str) -> Left:
    _ = translator(language)
    left, share = left_of(payer, unit), payer.shares.get(unit)
    figures = gpu_hours_text if unit == GPU_MS else "{:,}".format
    if share is None:
        text = _("%(amount)s GPU-h") if unit == GPU_MS else _("%(amount)s tokens")
    else:
        text = _("%(amount)s of %(cap)s GPU-h") if unit == GPU_MS else _("%(amount)s of %(cap)s tokens")
    shown = {"amount": figures(left), "cap": "" if share is None else figures(share.cap)}
    return Left(text % shown, left <= 0)
