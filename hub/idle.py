"""The judge of the hub's idle culler: asks a notebook when its kernels and terminals last worked, and the quota service what follows.

JupyterHub's own `last_activity` counts every request, so an open browser tab would keep a session for ever: it is not used. Invariants: a
notebook or a quota service that cannot be asked, or whose answer makes no sense, is no reason to stop anything; the culler's token may
list servers, reach them and stop them, and nothing else. jupyterhub-idle-culler 2.0 awaits the hook.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import httpx

from quota.client import QuotaClient, QuotaUnavailable

NOTEBOOK_DEADLINE_S: Final = 10.0
_AT_ONCE: Final = 10
_ANSWER_MAX: Final = 2**20
HostOf = Callable[[str], str | None]  # the Host header under which the proxy knows a person's sessions

log = logging.getLogger("hub.idle")


class NotKnown(Exception):
    """What runs there could not be asked."""


@dataclass(frozen=True, slots=True)
class Use:
    """Whether something works right now; else when something last did, None where nothing ever did."""

    busy: bool
    last: datetime | None


class Arbiter:
    """`IdleCuller.cull_arbiter_hook`."""

    def __init__(self, client: QuotaClient, notebooks: httpx.AsyncClient, host_of: HostOf = lambda _user: None) -> None:
        self._client = client
        self._notebooks = notebooks
        self._host_of = host_of
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, *, server: Mapping[str, Any], **_: object) -> bool:
        """Whether to stop `server`, the hub's model of it."""
        user, name, path = owner_of(server), str(server.get("name", "")), str(server.get("url", ""))
        if not user:
            return False
        try:
            async with self._gate:
                use = await self._use(user, path)
            return await self._client.activity(user, name, busy=use.busy, active_at=use.last)
        except NotKnown as error:
            log.warning("%s/%s is left alone: %s", user, name, error)
        except QuotaUnavailable as error:
            log.warning("%s/%s is left alone: the quota service: %s", user, name, error)
        return False

    async def _use(self, user: str, path: str) -> Use:
        host = self._host_of(user)
        headers = {"Host": host} if host else {}
        kernels, terminals = await asyncio.gather(
            self._list(path, "kernels", headers), self._list(path, "terminals", headers)
        )
        return use_of(kernels, terminals)

    async def _list(self, path: str, what: str, headers: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        """`GET …/api/<what>`, marked as no activity; [] where the server has no such thing (terminals can be switched off)."""
        try:
            address = f"{urlsplit(path).path.lstrip('/')}api/{what}"
            answer = await self._notebooks.get(address, params={"no_track_activity": "1"}, headers=headers)
        except httpx.HTTPError as error:
            raise NotKnown(f"{what}: {type(error).__name__}") from error
        if answer.status_code == 404 and what == "terminals":
            return []
        if answer.status_code != 200 or len(answer.content) > _ANSWER_MAX:
            raise NotKnown(f"{what}: status {answer.status_code}")
        try:
            found = answer.json()
        except ValueError as error:
            raise NotKnown(f"{what}: no JSON") from error
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise NotKnown(f"{what}: no list")
        return found


def use_of(kernels: Sequence[Mapping[str, Any]], terminals: Sequence[Mapping[str, Any]]) -> Use:
    """What the notebook's own lists say. A kernel that is neither idle nor dead works. Raises NotKnown for instants that are none."""
    busy = any(one.get("execution_state") not in ("idle", "dead") for one in kernels)
    try:
        instants = [datetime.fromisoformat(str(one["last_activity"])) for one in (*kernels, *terminals)]
    except (KeyError, ValueError) as error:
        raise NotKnown("an instant that is none") from error
    aware = [one if one.tzinfo else one.replace(tzinfo=UTC) for one in instants]
    return Use(busy, max(aware, default=None))


def owner_of(server: Mapping[str, Any]) -> str:
    """The server's owner; the model names no user but in its address: `/user/<name>/…`."""
    parts = str(server.get("url", "")).partition("/user/")[2].split("/")
    return unquote(parts[0])


def arbiter(proxy_url: str, api_token: str, client: QuotaClient, host_of: HostOf) -> Arbiter:
    """The judge for a portal whose proxy is at `proxy_url`."""
    headers = {"Authorization": f"token {api_token}"}
    notebooks = httpx.AsyncClient(
        base_url=proxy_url, headers=headers, timeout=NOTEBOOK_DEADLINE_S, trust_env=False, follow_redirects=False
    )
    return Arbiter(client, notebooks, host_of)
