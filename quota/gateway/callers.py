"""Whose a gateway key is: a session's key stands for the person and the project of the session's hold.

Invariant: a key is worth something only while its hold is open; a look-up is believed for at most ten seconds, so a key dies that
soon after its session, and so does the access of a member who was removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from quota.domain.errors import Unavailable
from quota.domain.hold import HoldKind, HoldState
from quota.domain.ids import HoldId, PersonId, ProjectId
from quota.domain.project import ProjectState
from quota.gateway import denials
from quota.gateway.denials import Denied
from quota.service.keys import verify_session_key
from quota.service.ports import Ledger, Store, Transaction

BELIEVED_S: Final = 10.0
_DENIAL_BELIEVED_S: Final = 3.0
_KEPT_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, for which project, from which session and application."""

    person: PersonId
    project: ProjectId
    session: HoldId
    application: str


class Callers:
    """Looks keys up, and remembers the answers for seconds."""

    def __init__(
        self, ledger: Ledger, store: Store, secret: bytes, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._secret = secret
        self._monotonic_s = monotonic_s
        self._known: dict[str, tuple[Caller | Denied, float]] = {}

    async def caller(self, key: str) -> Caller | Denied:
        """The caller who holds `key`, or why it is not accepted."""
        now_s = self._monotonic_s()
        known = self._known.get(key)
        if known is not None and now_s < known[1]:
            return known[0]
        hold_id = verify_session_key(self._secret, key)
        if hold_id is None:  # not remembered: anybody can make up as many as they like
            return denials.bad_key()
        try:
            found = await self._look_up(hold_id)
        except Unavailable as error:
            return denials.unavailable(error.retry_after_s)
        self._remember(key, found, now_s)
        return found

    async def _look_up(self, hold_id: HoldId) -> Caller | Denied:
        hold = await self._ledger.hold(hold_id)
        if hold is None or hold.kind is not HoldKind.SESSION or hold.state is not HoldState.HELD:
            return denials.bad_key()

        def standing(tx: Transaction) -> Denied | None:
            if tx.projects.role(hold.project_id, hold.actor) is None:
                return denials.not_a_member()
            project = tx.projects.get(hold.project_id)
            active = project is not None and project.state is ProjectState.ACTIVE
            return None if active else denials.project_closed()

        denied = await self._store.read(standing)
        if denied is not None:
            return denied
        return Caller(hold.actor, hold.project_id, hold.id, str(hold.details.get("application", "")))

    def _remember(self, key: str, found: Caller | Denied, now_s: float) -> None:
        if len(self._known) >= _KEPT_MAX:
            self._known = {one: kept for one, kept in self._known.items() if now_s < kept[1]}
            if len(self._known) >= _KEPT_MAX:
                self._known.clear()
        lasts_s = BELIEVED_S if isinstance(found, Caller) else _DENIAL_BELIEVED_S
        self._known[key] = (found, now_s + lasts_s)


def key_of(authorization: bytes | None, api_key: bytes | None = None) -> str | None:
    """The key in an Authorization header, or in Anthropic's `x-api-key`; None where neither carries one."""
    if authorization is None and api_key is not None:
        authorization = b"Bearer " + api_key
    if authorization is None or len(authorization) > 512 or not authorization.isascii():
        return None
    scheme, _, key = authorization.decode().partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None
