"""Evidence of sessions in containers: what the engine helper tells (spawners/engine_sessions.py), and their removal once settled.

Invariants: instants are the engine's own StartedAt and FinishedAt; an answer that cannot be had or makes no sense is an outage of all
sessions asked for, never an end; a container is removed only after its hold was settled or released, because its end is read from it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp

from quota.domain.errors import Unavailable
from quota.domain.ids import HoldId
from quota.domain.session import EndReason, Evidence, Run, Seen
from quota.service.session_ports import Asked

log = logging.getLogger("quota.evidence")

DEADLINE_S: Final = 15
_LEFT_OVER_AT_ONCE: Final = 20
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS: Final = 253_402_300_799_999


class EngineEvidence:
    """Asks one helper over its Unix socket; `is_closed` asks the ledger whether a hold is settled or released."""

    def __init__(self, helper: Path, is_closed: Callable[[HoldId], Awaitable[bool]]) -> None:
        self._helper = helper
        self._is_closed = is_closed
        self._to_remove: set[HoldId] = set()
        self._removing: set[HoldId] = set()

    async def read(self, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        """One look at all containers. Raises Unavailable."""
        told = await self._sessions()
        await self._find_left_over(told, {one.hold_id for one in asked})
        await self._remove_some(told)
        found = {one["hold_id"]: one for one in told}
        return {one.hold_id: _evidence(one.hold_id, found.get(one.hold_id)) for one in asked}

    async def settled(self, hold_ids: Sequence[HoldId]) -> None:
        """Remove their containers, with the network and the files that belong to them; what fails is tried at the next look."""
        self._to_remove.update(hold_ids)
        await self._remove_some(None)

    async def _find_left_over(self, told: Sequence[Mapping[str, Any]], asked: Set[HoldId]) -> None:
        """What ended, is settled and was not removed: whoever should have done it died in between."""
        ended = [HoldId(one["hold_id"]) for one in told if one["ended_at_ms"] is not None or one["never_started"]]
        for hold_id in [one for one in ended if one not in asked | self._to_remove][:_LEFT_OVER_AT_ONCE]:
            if await self._is_closed(hold_id):
                self._to_remove.add(hold_id)

    async def _sessions(self) -> list[dict[str, Any]]:
        content = await self._call("GET", "/commons/sessions")
        sessions = content.get("sessions") if isinstance(content, dict) else None
        if not isinstance(sessions, list):
            raise Unavailable("the engine's helper answered something else than sessions")
        return sessions

    async def _remove_some(self, told: Sequence[Mapping[str, Any]] | None) -> None:
        there = None if told is None else {one["hold_id"] for one in told}
        for hold_id in sorted(self._to_remove):
            if there is not None and hold_id not in there:
                self._to_remove.discard(hold_id)
            elif hold_id not in self._removing:  # another look may have begun meanwhile
                await self._remove(hold_id)

    async def _remove(self, hold_id: HoldId) -> None:
        self._removing.add(hold_id)
        try:
            await self._call("DELETE", f"/containers/cc-{hold_id}")
            self._to_remove.discard(hold_id)
        except Unavailable as error:
            log.warning("the container of session %s stays for now: %s", hold_id, error)
        finally:
            self._removing.discard(hold_id)

    async def _call(self, method: str, path: str) -> Any:
        """One call; None for 404. Raises Unavailable for everything else that is no success."""
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        try:
            connector = aiohttp.UnixConnector(path=str(self._helper))
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(method, f"http://helper{path}") as answer,
            ):
                if answer.status == 404:
                    return None
                if answer.status >= 400:
                    raise Unavailable(f"the engine's helper answered {answer.status}: {(await answer.text())[:200]}")
                return await answer.json() if answer.status == 200 else None
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"the engine's helper does not answer: {type(error).__name__}") from error


def _evidence(hold_id: HoldId, told: Mapping[str, Any] | None) -> Evidence | None:
    if told is None:
        return None
    try:
        return _read(hold_id, told)
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"the engine's helper tells session {hold_id} in an unknown form: {error}") from error


def _read(hold_id: HoldId, told: Mapping[str, Any]) -> Evidence:
    error = str(told["error"])
    if told["device_missing"]:
        return Evidence(hold_id, None, None, None, EndReason.DEVICE_MISSING)
    if told["never_started"]:
        return Evidence(hold_id, None, None, None, EndReason.NEVER_STARTED, note=error)
    if told["started_at_ms"] is None or told["starting"]:
        return Evidence(hold_id, None, None, None)
    started_at, ended = _instant(told["started_at_ms"]), told["ended_at_ms"] is not None
    to_at = max(_instant(told["ended_at_ms"] if ended else told["seen_at_ms"]), started_at)
    paused_ms = int(told["paused_ms"])
    whole_ms = (to_at - started_at) // timedelta(milliseconds=1)
    runs = (Run(started_at, to_at, max(0, whole_ms - paused_ms)),) if paused_ms else ()
    return Evidence(
        hold_id,
        started_at,
        to_at,
        to_at if ended else None,
        _reason(told) if ended else None,
        runs=runs,
        suspended=bool(told["paused"]),
        ends_at=None if told["due_ms"] is None else _instant(told["due_ms"]),
        note=str(told["end_reason"]) if ended else "",
    )


def _reason(told: Mapping[str, Any]) -> EndReason:
    if told["end_reason"] == EndReason.DEADLINE.value:
        return EndReason.DEADLINE
    if told["end_reason"]:
        return EndReason.STOPPED
    return EndReason.OUT_OF_MEMORY if told["out_of_memory"] else EndReason.EXITED


def _instant(value: object) -> datetime:
    if type(value) is not int or not 0 <= value <= _LAST_MS:
        raise ValueError("no instant")
    return _EPOCH + timedelta(milliseconds=value)
