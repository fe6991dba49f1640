"""How a container's session ended and what it wrote last, kept for a while beyond its container.

A container is removed as soon as its hold is closed, which may be before the hub that started it has looked. Invariants: before the
helper removes one, its exit status is on disk, and its last lines with it where its notebook server had not answered yet, so that
whoever started it can say why at any moment; what cannot be kept delays no removal for longer than it would have been of use.
"""

import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from spawners import container_spec as spec
from spawners import grading_spec, records
from spawners.engine_calls import Container, Engine
from spawners.engine_sessions import instant_ms
from spawners.session_files import SessionFiles

log = logging.getLogger("commons.engine")

KEPT_S: Final = 900  # a start's hub looks every half second, others every half minute
LINES_MAX: Final = 20
LINE_CHARACTERS_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """How one ended; `lines` are empty where its notebook server had answered: then they are the person's own."""

    exit_status: int
    lines: tuple[str, ...]


class SessionEnds:
    """The ends of one engine's sessions: of its containers, and of those that were removed a while ago."""

    def __init__(self, engine: Engine, files: SessionFiles, folder: Path) -> None:
        self._engine = engine
        self._files = files
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def of(self, hold_id: str) -> SessionEnd | None:
        """How it ended; None while it has not, and where nobody knows. Raises EngineAway, ValueError for what is no hold's id."""
        container = await self._engine.container(spec.container_name(hold_id))
        end = None if container is None else await self._read(container)
        return end or self._kept(hold_id)

    async def keep(self, name: str) -> None:
        """Write down how this container's session ended, before its removal. Raises EngineAway."""
        container = await self._engine.container(name)
        if container is None:
            return
        ended_s = (instant_ms(container.finished_at) or 0) / 1000
        end = await self._read(container) if time.time() - ended_s <= KEPT_S else None
        if end is None:
            return
        try:
            records.write_durably(self._path(container.hold_id), json.dumps(asdict(end)).encode())
        except OSError as error:  # a full disk: what a removal frees is needed more
            log.warning("the end of session %s is not kept: %s", container.hold_id, error)

    def sweep(self) -> None:
        """Remove what nobody asks for any more."""
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # a draft that has its name by now
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()

    async def _read(self, container: Container) -> SessionEnd | None:
        """By the engine; None while it lives, where it never ran or was a grading's run, and where it is being removed: then it was kept."""
        if container.lives or not container.finished_at or grading_spec.is_grading(container.labels):
            return None
        if self._files.read(container.hold_id).ready:
            return SessionEnd(container.exit_status, ())
        text = await self._engine.log_tail(container.name, LINES_MAX)
        if text is None:
            return None
        lines = text.splitlines()[-LINES_MAX:]
        return SessionEnd(container.exit_status, tuple(line[:LINE_CHARACTERS_MAX] for line in lines))

    def _kept(self, hold_id: str) -> SessionEnd | None:
        try:
            content: dict[str, Any] = json.loads(self._path(hold_id).read_bytes())
            return SessionEnd(int(content["exit_status"]), tuple(str(line) for line in content["lines"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the kept end of session %s cannot be read: %s", hold_id, error)
            return None

    def _path(self, hold_id: str) -> Path:
        return self._folder / f"{hold_id}.json"
