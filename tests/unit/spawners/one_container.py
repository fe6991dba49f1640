"""An engine in memory with one session's container, which ended a while ago."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from spawners import container_spec as spec
from spawners.engine_calls import Container, Engine, EngineAway
from spawners.session_ends import LINES_MAX

HOLD = "h1"
NAME = spec.container_name(HOLD)


def ago(seconds: float) -> str:
    return f"{datetime.fromtimestamp(time.time() - seconds, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def ended(seconds_ago: float = 1, **other: Any) -> Container:
    how: dict[str, Any] = {
        "name": NAME,
        "hold_id": HOLD,
        "labels": {spec.HOLD: HOLD, spec.DEVICES: "[]", spec.SHARING: "1"},
        "status": "exited",
        "created_at": ago(seconds_ago + 9),
        "started_at": ago(seconds_ago + 5),
        "finished_at": ago(seconds_ago),
        "exit_status": 3,
        "error": "",
        "out_of_memory": False,
    }
    return Container(**how | other)


class OneContainer(Engine):
    """An engine with this container, or none; `log` None: it is removed between two questions."""

    def __init__(self, there: Container | None, log: str | None = "") -> None:
        super().__init__("/nowhere")
        self.there = there
        self.log = log
        self.away = self.log_is_broken = False

    async def container(self, name: str) -> Container | None:
        if self.away:
            raise EngineAway("503")
        assert name == NAME
        return self.there

    async def log_tail(self, name: str, lines: int) -> str | None:
        if self.away or self.log_is_broken:
            raise EngineAway("503")
        assert (name, lines) == (NAME, LINES_MAX)
        return self.log

    async def log_head(self, name: str) -> str:
        return await self.log_tail(name, LINES_MAX) or ""

    async def containers(self, *, with_devices: bool = False) -> list[Container]:
        there = await self.container(NAME)
        return [there] if there else []
