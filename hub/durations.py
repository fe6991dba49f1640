"""Durations and GPU-hours as people read and write them. No floats."""

import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from hub.language import ENGLISH, translator

GPU_MS_PER_GPU_HOUR: Final = 3_600_000

_SECONDS: Final = re.compile(r"[0-9]{1,7}")
_WORDS: Final = re.compile(r"(?:([0-9]{1,4})\s*(?:h|小时))?\s*(?:([0-9]{1,5})\s*(?:min|m|分钟))?", re.IGNORECASE)


def duration_text(seconds: int, language: str = ENGLISH) -> str:
    """4 800 → "1 h 20 min"; below a minute in seconds."""
    _ = translator(language)
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    parts = []
    if hours:
        parts.append(_("%(number)s h") % {"number": hours})
    if minutes:
        parts.append(_("%(number)s min") % {"number": minutes})
    return " ".join(parts) or _("%(number)s s") % {"number": seconds}


def read_runtime_s(text: str) -> int | None:
    """Read "5400", "90 min", "1 h 30 min" or "1:30" as seconds; None where it is none of these."""
    text = text.strip()
    if _SECONDS.fullmatch(text) and text.isascii():
        return int(text)
    clock = re.fullmatch(r"([0-9]{1,3}):([0-5][0-9])", text)
    if clock is not None and text.isascii():
        return int(clock[1]) * 3600 + int(clock[2]) * 60
    words = _WORDS.fullmatch(text)
    if words is None or not any(words.groups()):
        return None
    return int(words[1] or 0) * 3600 + int(words[2] or 0) * 60


def gpu_hours_text(gpu_ms: int) -> str:
    """7 320 000 → "2.03", rounded half to even as everywhere in the portal, so that two pages never differ by a digit."""
    hours = (Decimal(gpu_ms) / GPU_MS_PER_GPU_HOUR).quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN)
    return f"{hours:,}"
