"""What one look at a session leads to: the verdict on its hold, what is due, and its new row. Pure.

Invariants: amounts follow from evidence, never from ticks; what is wanted of the session is no business of a look; one session's
contradictions are its own (`trouble`) and keep no other from being looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quota.domain.errors import QuotaError
from quota.domain.hold import Hold, Usage
from quota.domain.session import EndReason, Evidence, Seen, Session, SessionState, Unreachable, observed, state_seen
from quota.service.services import Policy
from quota.service.settle import Sighting, Verdict, judge, usages_due

_CLOSES: Final = frozenset({Verdict.SETTLE, Verdict.RELEASE, Verdict.LOST})


@dataclass(slots=True)
class Look:
    """One session in one pass. `verdict` is None where its backend is silent or its evidence contradicts the ledger."""

    hold: Hold
    row: Session
    seen: Seen
    listed: bool | None
    verdict: Verdict | None
    due: Sequence[Usage]
    trouble: str = ""

    @property
    def closes(self) -> bool:
        return self.verdict in _CLOSES

    @property
    def evidence(self) -> Evidence | None:
        return None if isinstance(self.seen, Unreachable) else self.seen

    @property
    def reason(self) -> EndReason | None:
        """Why the session ended, where this look ends it."""
        if self.verdict is Verdict.LOST:
            return EndReason.LOST
        if not self.closes:
            return None
        told = self.evidence.reason if self.evidence is not None else None
        return told or (EndReason.NEVER_STARTED if self.verdict is Verdict.RELEASE else EndReason.EXITED)

    def row_after(self) -> Session:
        """The session's row once the ledger took what the look led to."""
        if isinstance(self.seen, Unreachable):
            return observed(self.row, SessionState.UNKNOWN, None)
        if self.verdict is None:
            return self.row
        return observed(self.row, self._state(self.seen), self.seen, self.reason)

    def _state(self, seen: Evidence | None) -> SessionState:
        if self.verdict in (Verdict.SETTLE, Verdict.LOST):
            return SessionState.SETTLED
        if self.verdict is Verdict.RELEASE:
            state = state_seen(seen, listed=self.listed)
            return state if state in (SessionState.FAILED, SessionState.REFUSED) else SessionState.FAILED
        return state_seen(seen, listed=self.listed)


def look(hold: Hold, row: Session, seen: Seen, at: Sighting, policy: Policy) -> Look:
    """Judge one open hold by what was seen of its session."""
    if isinstance(seen, Unreachable):
        return Look(hold, row, seen, at.listed, None, (), trouble=seen.why)
    try:
        verdict = judge(hold, seen, at, policy)
        charges = verdict in (Verdict.CHARGE, Verdict.SETTLE) and seen is not None
        due = usages_due(hold, row.terms, seen) if charges and seen is not None else ()
    except (QuotaError, ValueError) as error:  # ValueError: runs that make no sense
        return Look(hold, row, seen, at.listed, None, (), trouble=f"{type(error).__name__}: {error}")
    return Look(hold, row, seen, at.listed, verdict, due)
