"""One message: its English templates, which are the catalogues' keys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """What happened, and what to do next."""

    text: str
    next: str = ""
