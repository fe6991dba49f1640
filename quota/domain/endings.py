"""Why a session ended, as a message code with parameters. Pure.

What the backend saw says how it ended; who or what asked for it, kept in `stop_reason` before anything was stopped, says why:
`owner`, `by:<user name>` with their words after a space, or a code of `why.…` (`idle`, `portal`, `suspended`, …).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from quota.domain.messages import MESSAGES
from quota.domain.session import EndReason, Session

_BY: Final = "by:"
# Ends that somebody's wish explains; a lost host or a session that never started are what they are.
_WISHED: Final = frozenset({EndReason.STOPPED, EndReason.EXITED, EndReason.CANCELLED, None})


def by_reason(hub_name: str, words: str = "") -> str:
    """The `stop_reason` of a stop by somebody else; user names hold no space."""
    return f"{_BY}{hub_name} {words}".strip()


def ending(session: Session) -> tuple[str, Mapping[str, object]]:
    """The code and parameters of why `session` ended, or is being stopped."""
    reason = session.stop_reason or ""
    if session.end_reason in _WISHED:
        if reason.startswith(_BY):
            by, _, words = reason.removeprefix(_BY).partition(" ")
            return ("end.by_why" if words else "end.by"), {"by": by, "reason": words}
        if f"why.{reason}" in MESSAGES and reason:
            return "end.why", {"why_code": reason}
    return f"end.{(session.end_reason or EndReason.STOPPED).value}", {"note": session.note}
