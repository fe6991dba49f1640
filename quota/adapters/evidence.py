"""Evidence of every backend behind one port: each session is asked of the backend that its hold pinned.

Invariants: a backend that fails, hangs or is not configured any more is Unreachable for its own sessions and no other's; backends
are asked at the same time, each within the deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from quota.domain.errors import Unavailable
from quota.domain.ids import HoldId
from quota.domain.session import Seen, Unreachable
from quota.service.session_ports import Asked, SessionEvidence

log = logging.getLogger("quota.evidence")
DEADLINE_S: Final = 20.0


class EvidenceByBackend:
    """`quota.service.session_ports.SessionEvidence` over one implementation a backend, by the backend's name in portal.toml."""

    def __init__(self, backends: Mapping[str, SessionEvidence], *, deadline_s: float = DEADLINE_S) -> None:
        self._backends = dict(backends)
        self._deadline_s = deadline_s

    async def read(self, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        """One look at every backend that any of `asked` runs on."""
        by_backend: defaultdict[str, list[Asked]] = defaultdict(list)
        for one in asked:
            by_backend[one.backend].append(one)
        looks = await asyncio.gather(*(self._one(name, some) for name, some in by_backend.items()))
        return {hold_id: seen for look in looks for hold_id, seen in look.items()}

    async def settled(self, hold_ids: Sequence[HoldId]) -> None:
        """Tell every backend: which one ran a session does not matter to those that did not."""
        for name, backend in self._backends.items():
            try:
                async with asyncio.timeout(self._deadline_s):
                    await backend.settled(hold_ids)
            except (Unavailable, TimeoutError) as error:
                log.warning("backend %s was not told what is settled; it will be again: %s", name, error)

    async def _one(self, name: str, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        backend = self._backends.get(name)
        if backend is None:
            return _all(asked, f"the backend {name} is not configured")
        try:
            async with asyncio.timeout(self._deadline_s):
                found = await backend.read(asked)
        except (Unavailable, TimeoutError) as error:
            return _all(asked, f"the backend {name} cannot be asked: {type(error).__name__}: {error}")
        except Exception:  # the edge of another system: its accidents are outages of its own sessions only
            log.exception("backend %s: reading evidence failed", name)
            return _all(asked, f"the backend {name} cannot be read")
        silent = Unreachable(f"the backend {name} says nothing of it")
        return {one.hold_id: found.get(one.hold_id, silent) for one in asked}


def _all(asked: Sequence[Asked], why: str) -> Mapping[HoldId, Seen]:
    outage = Unreachable(why)
    return {one.hold_id: outage for one in asked}
