"""The sessions of one engine as evidence sees them: what runs, since when, to when it may, how it ended.

Invariants: instants are the engine's own. A container never started only where the engine says so (an error at its start), where it was
given up or made too long ago to be started any more, or where it ended soon and before its notebook server had answered: the hub says
when it has (`note_ready`), and until then nothing is charged. Why such a start failed is read from the log's first line, which is
written before anything that a person can change. Deadlines lie in the files that `spawners.watchdog` follows; a pause moves them by
its length.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import aiohttp

from spawners import container_spec as spec
from spawners import deadlines, grading_spec
from spawners.deadlines import Deadline
from spawners.engine_calls import Container, Engine, EngineAway
from spawners.session_files import SessionFile, SessionFiles, SessionFileUnreadable

log = logging.getLogger("commons.engine")

KIND: Final = "container"
DEADLINE_GRACE_S: Final = 60  # SIGTERM, then SIGKILL: inside the hold's stop margin
_RECONNECT_S: Final = 1.0
_LOOK_S: Final = 0.1


class Verdict(StrEnum):
    """What the first program of a container said of its devices."""

    CONFIRMED = "confirmed"
    MISSING = "missing"
    SILENT = "silent"


class EngineSessions:
    """Looks at one engine's sessions, writes down what the engine does not keep."""

    def __init__(self, engine: Engine, files: SessionFiles, deadline_folder: Path, start_deadline_s: int) -> None:
        self._engine = engine
        self._files = files
        self._deadline_folder = deadline_folder
        self._start_deadline_s = start_deadline_s
        self._writing = threading.Lock()
        self._words: dict[str, asyncio.Task[Verdict]] = {}

    async def all(self) -> list[dict[str, Any]]:
        """Every session with a container, for the evidence reader. Raises EngineAway."""
        return [await self._told(container) for container in await self._engine.containers()]

    async def _told(self, container: Container) -> dict[str, Any]:
        file, now_ms = self._file(container.hold_id), _now_ms()
        started_ms, finished_ms = instant_ms(container.started_at), instant_ms(container.finished_at)
        ended = finished_ms is not None and container.status in ("exited", "dead", "removing")
        unready = (
            started_ms is not None and not file.ready and self._is_young(started_ms, finished_ms if ended else now_ms)
        )
        asked = ended and unready and not grading_spec.is_grading(container.labels)  # a run has no devices, and no log
        missing = asked and verdict_of(await self._engine.log_head(container.name)) is Verdict.MISSING
        return {
            "hold_id": container.hold_id,
            "status": container.status,
            "started_at_ms": started_ms,
            "ended_at_ms": finished_ms if ended else None,
            "device_missing": missing,
            "never_started": self.never_started(container, file) or (ended and unready and not missing),
            "starting": container.lives and unready,
            "out_of_memory": ended and container.out_of_memory and container.exit_status == 137,
            "exit_status": container.exit_status if ended else None,
            "end_reason": file.end_reason if ended else "",
            "deadline_ms": self.deadline_ms(container, file),
            "paused_ms": file.paused_ms(finished_ms if ended and finished_ms else now_ms),
            "paused": container.status == "paused",
            "error": container.error[:300],
            "labels": {name: container.labels[name] for name in (spec.DEVICES, spec.SHARING)},
            "holds_devices": self.holds_devices(container),
            "due_ms": SessionFile(container.hold_id, self.deadline_ms(container, file), "", file.pauses).due_ms(now_ms),
            "seen_at_ms": now_ms,
        }

    def _is_young(self, started_ms: int, to_ms: int | None) -> bool:
        """Whether it is, or was, too young to count as started without the hub's word: two deadlines, since a stop takes time, too."""
        return (to_ms or 0) - started_ms <= 2000 * self._start_deadline_s

    def never_started(self, container: Container, file: SessionFile | None = None) -> bool:
        """Whether it has no process and will get none: its start failed, was given up, or comes too late."""
        if container.started_at or container.status != "created":
            return False
        given_up = (file or self._file(container.hold_id)).end_reason
        return bool(container.error or given_up) or self.too_old(container)

    def holds_devices(self, container: Container) -> bool:
        """Whether what it was granted is in its hands; one that is about to be started holds it, too."""
        return container.status not in ("exited", "dead", "removing") and not self.never_started(container)

    def too_old(self, container: Container) -> bool:
        """Whether it was made so long ago that a start is refused."""
        created_ms = instant_ms(container.created_at)
        return created_ms is None or _now_ms() - created_ms > self._start_deadline_s * 1000

    def deadline_ms(self, container: Container, file: SessionFile) -> int | None:
        """When the session has to stop, pauses left out: what was written, else start and runtime of its label."""
        if file.deadline_ms is not None:
            return file.deadline_ms
        started_ms, runtime_s = instant_ms(container.started_at), container.labels.get(spec.RUNTIME, "")
        return None if started_ms is None or not runtime_s.isdigit() else started_ms + int(runtime_s) * 1000

    def set_deadline(self, hold_id: str, deadline_ms: int) -> None:
        """Write a session's end as an absolute instant, durably; the watchdog follows within a second."""
        paused_ms = self._files.read(hold_id).paused_ms(_now_ms())
        self._change(hold_id, lambda file: replace(file, deadline_ms=deadline_ms - paused_ms))

    def note_ready(self, hold_id: str) -> None:
        """Write down that its notebook server has answered: from its true start on it is charged."""
        self._change(hold_id, lambda file: replace(file, ready=True))

    def note_stop(self, hold_id: str, reason: str) -> None:
        """Write down why it is stopped; the first reason stands."""
        self._change(hold_id, lambda file: replace(file, end_reason=file.end_reason or reason))

    def forget(self, hold_id: str) -> None:
        """Its container was removed."""
        deadlines.remove(self._deadline_folder, hold_id)
        self._files.remove(hold_id)

    def _change(self, hold_id: str, change: Callable[[SessionFile], SessionFile]) -> None:
        """Write what changed, and the watchdog's deadline that follows from it; done twice, it is the same.

        A stop comes on the event loop while a deadline is written by a thread: one at a time, so that neither undoes the other.
        """
        with self._writing:
            self._write_change(hold_id, change)

    def _write_change(self, hold_id: str, change: Callable[[SessionFile], SessionFile]) -> None:
        old = self._files.read(hold_id)
        new = change(old)
        if new != old:
            self._files.write(new)
        due_ms = new.due_ms(_now_ms())
        if due_ms is not None:
            name = spec.container_name(hold_id)
            deadlines.write(self._deadline_folder, Deadline(hold_id, KIND, name, due_ms, DEADLINE_GRACE_S))

    def _file(self, hold_id: str) -> SessionFile:
        try:
            return self._files.read(hold_id)
        except SessionFileUnreadable as error:
            raise EngineAway(str(error)) from error

    async def stop(self, container: Container, reason: str, grace_s: int) -> None:
        """SIGTERM, SIGKILL `grace_s` later; returns once it has ended. Raises EngineAway, EngineRefused."""
        self.note_stop(container.hold_id, reason)
        if container.status == "paused":  # a frozen process hears no signal
            await self._engine.call("POST", f"/containers/{container.name}/unpause")
        path, query = f"/containers/{container.name}/stop", {"t": str(grace_s)}
        await self._engine.call("POST", path, query=query, within_s=grace_s + 30)

    async def begin(self, name: str) -> None:
        """Write down the deadline of a session that has just started: the chosen runtime after its true start."""
        container = await self._engine.container(name)
        if container is None:
            return
        file = self._file(container.hold_id)
        deadline_ms = self.deadline_ms(container, file)
        if file.deadline_ms is None and deadline_ms is not None:
            await asyncio.to_thread(self.set_deadline, container.hold_id, deadline_ms)
        if not grading_spec.is_grading(container.labels):
            self._listen(name)

    async def first_word(self, name: str) -> Verdict:
        """Wait for what the container's first program says of its devices; SILENT where it ended, or the time for a start, without."""
        return await asyncio.shield(self._words.get(name) or self._listen(name))

    def _listen(self, name: str) -> "asyncio.Task[Verdict]":
        task = self._words[name] = asyncio.ensure_future(self._await_word(name))
        task.add_done_callback(lambda _: self._words.pop(name, None))
        return task

    async def _await_word(self, name: str) -> Verdict:
        end_s = time.monotonic() + self._start_deadline_s
        while (left_s := end_s - time.monotonic()) > 0:
            try:
                return verdict_of(await self._engine.first_line(name, left_s))
            except EngineAway:
                log.info("the first word of %s is not heard yet", name)
            await asyncio.sleep(_LOOK_S)
        return Verdict.SILENT

    async def follow_pauses(self) -> None:
        """Write down when sessions are paused and go on, from the engine's events, until cancelled."""
        since = "0"
        filters = json.dumps({"type": ["container"], "event": ["pause", "unpause"], "label": [spec.HOLD]})
        while True:
            try:
                timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
                url, query = "http://engine/events", {"filters": filters, "since": since}
                async with self._engine.session.get(url, params=query, timeout=timeout) as events:
                    async for line in events.content:
                        since = self._take_event(json.loads(line), since)
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError, SessionFileUnreadable) as error:
                log.info("pauses are not seen for a moment: %s", error)
            await asyncio.sleep(_RECONNECT_S)

    def _take_event(self, event: Mapping[str, Any], since: str) -> str:
        at_ns = int(event["timeNano"])
        hold_id = str(event["Actor"]["Attributes"].get(spec.HOLD, ""))
        pausing = event["Action"] == "pause"
        self._change(hold_id, lambda file: (file.paused if pausing else file.resumed)(at_ns // 10**6))
        return f"{at_ns // 10**9}.{at_ns % 10**9:09d}"


def verdict_of(log: str) -> Verdict:
    """What the first program said, by its first line."""
    if log.startswith(spec.PROBE_CONFIRMED):
        return Verdict.CONFIRMED
    return Verdict.MISSING if log.startswith(spec.PROBE_MISSING) else Verdict.SILENT


def instant_ms(text: str) -> int | None:
    """UTC milliseconds of the engine's RFC 3339 instant, whose nanoseconds are cut off; None for an empty one."""
    if not text:
        return None
    whole, _, rest = text.removesuffix("Z").partition(".")
    seconds = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return int(seconds) * 1000 + int((rest + "000")[:3])


def _now_ms() -> int:
    return time.time_ns() // 10**6
