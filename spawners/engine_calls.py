"""The few calls that the helper itself makes to the engine, over its Unix socket.

Invariant: an engine that is away, or answers 5xx, is EngineAway: never "no such container", never an empty list.
Source: Docker Engine API 1.45.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from spawners import container_spec as spec

DEADLINE_S: Final = 30
LOG_HEAD_BYTES: Final = 4096
_NEVER: Final = "0001-01-01T00:00:00Z"


class EngineAway(Exception):
    """The engine does not answer, or not as agreed."""


class EngineRefused(Exception):
    """The engine answered with an error: `status` and its message."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Container:
    """One container as the engine tells it; instants as it writes them, empty where it never came to that."""

    name: str
    hold_id: str
    labels: Mapping[str, str]
    status: str  # created, running, paused, restarting, removing, exited, dead
    created_at: str
    started_at: str
    finished_at: str
    exit_status: int
    error: str
    out_of_memory: bool

    @property
    def lives(self) -> bool:
        """Whether it has a process."""
        return self.status in ("running", "paused", "restarting")

    @classmethod
    def from_inspect(cls, body: Mapping[str, Any]) -> "Container":
        """Read ContainerInspect's answer. Raises KeyError where it is none."""
        state, labels = body["State"], body["Config"]["Labels"] or {}
        return cls(
            name=str(body["Name"]).lstrip("/"),
            hold_id=str(labels.get(spec.HOLD, "")),
            labels=labels,
            status=str(state["Status"]),
            created_at=str(body["Created"]),
            started_at="" if state["StartedAt"] == _NEVER else str(state["StartedAt"]),
            finished_at="" if state["FinishedAt"] == _NEVER else str(state["FinishedAt"]),
            exit_status=int(state["ExitCode"]),
            error=str(state.get("Error") or ""),
            out_of_memory=bool(state.get("OOMKilled")),
        )


class Engine:
    """Calls one engine; `close` when done."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    @property
    def socket(self) -> str:
        """The engine's socket, for what is no call."""
        return self._socket

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connection pool, also for requests that are passed on."""
        if self._session is None:
            connector = aiohttp.UnixConnector(path=self._socket, limit=64)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        within_s: float = DEADLINE_S,
    ) -> Any:
        """One call; gives the JSON, or None where there is none. Raises EngineAway, EngineRefused (4xx)."""
        timeout = aiohttp.ClientTimeout(total=within_s)
        try:
            async with self.session.request(
                method, f"http://engine{path}", params=query, json=body, timeout=timeout
            ) as answer:
                text = await answer.text()
                if answer.status >= 500:
                    raise EngineAway(f"{method} {path.split('?')[0]}: status {answer.status}: {text[:300]}")
                content = json.loads(text) if text.strip() else None
                if answer.status >= 400:
                    raise EngineRefused(answer.status, str((content or {}).get("message", ""))[:500])
                return content
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineAway(f"{method} {path.split('?')[0]}: {type(error).__name__}") from error

    async def containers(self, *, with_devices: bool = False) -> list[Container]:
        """All containers of ours, or those only that may hold devices. Raises EngineAway."""
        listed = await self.call("GET", "/containers/json", query=ours())
        names = [str(one["Names"][0]).lstrip("/") for one in listed if not with_devices or _may_hold_devices(one)]
        found = await asyncio.gather(*(self.container(name) for name in names))
        return [one for one in found if one is not None]

    async def container(self, name: str) -> Container | None:
        """One container; None where the engine says that there is no such. Raises EngineAway."""
        try:
            return Container.from_inspect(await self.call("GET", f"/containers/{name}/json"))
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise EngineAway(str(error)) from error
        except (KeyError, TypeError) as error:
            raise EngineAway(f"the engine told {name} in an unknown form") from error

    async def log_head(self, name: str) -> str:
        """The first kilobytes of what a container wrote; empty, too, where it is being removed. Raises EngineAway."""
        content = await self._log(name, {}, DEADLINE_S, lambda content: len(content) >= LOG_HEAD_BYTES)
        return unframed((content or b"")[:LOG_HEAD_BYTES])

    async def first_line(self, name: str, within_s: float) -> str:
        """Wait for the first line that a container writes; empty where it ended without one. Raises EngineAway after `within_s`."""
        content = await self._log(name, {"follow": "1"}, within_s, lambda content: "\n" in unframed(content))
        return unframed((content or b"")[:LOG_HEAD_BYTES]).partition("\n")[0]

    async def log_tail(self, name: str, lines: int) -> str | None:
        """The last lines that a container wrote; None where it is being removed, or was. Raises EngineAway."""
        content = await self._log(name, {"tail": str(lines)}, DEADLINE_S, lambda content: False)
        return None if content is None else unframed(content)

    async def _log(
        self, name: str, query: Mapping[str, str], within_s: float, enough: Callable[[bytes], bool]
    ) -> bytes | None:
        """The log as it is framed, until it is enough; None where the container is being removed, or was. Raises EngineAway."""
        url, query = f"http://engine/containers/{name}/logs", {"stdout": "1", "stderr": "1", **query}
        content = b""
        try:
            async with self.session.get(url, params=query, timeout=aiohttp.ClientTimeout(total=within_s)) as answer:
                if answer.status in (404, 409):  # 409: "dead or marked for removal"
                    return None
                if answer.status != 200:
                    raise EngineAway(f"logs: status {answer.status}")
                async for part in answer.content.iter_any():
                    content += part
                    if enough(content):
                        break
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise EngineAway(f"logs: {type(error).__name__}") from error
        return content


def _may_hold_devices(listed: Mapping[str, Any]) -> bool:
    """By the engine's list; a label that says nothing has to be looked at."""
    granted = (listed.get("Labels") or {}).get(spec.DEVICES, "")
    return granted != "[]" and listed.get("State") not in ("exited", "dead", "removing")


def ours() -> dict[str, str]:
    """The query that lists all containers of ours."""
    return {"all": "1", "filters": json.dumps({"label": [spec.HOLD]})}


def unframed(content: bytes) -> str:
    """The text of an attached stream: 8 bytes of head (stream, 0, 0, 0, length) before each part; a cut part is kept."""
    parts = []
    while len(content) > 8:
        length = int.from_bytes(content[4:8], "big")
        parts.append(content[8 : 8 + length])
        content = content[8 + length :]
    return b"".join(parts).decode(errors="replace")
