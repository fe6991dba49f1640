"""The hub's own REST API, as the service `quota`: list active servers, stop one. Source: JupyterHub 6.1, apihandlers/users.py.

Invariant: no answer, a partial answer or an unexpected one is Unavailable, never an empty list. Every call has a deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from quota.domain.errors import Unavailable
from quota.service.ports import HubServer

_PAGE: Final = 200
_PAGES_MAX: Final = 1000
_LIST_DEADLINE: Final = aiohttp.ClientTimeout(total=10)
_STOP_DEADLINE: Final = aiohttp.ClientTimeout(total=25)  # the hub itself waits 10 s for a slow stop
_PAGED: Final = "application/jupyterhub-pagination+json"


class HubApi:
    """One client with its own connections; `close` ends them."""

    def __init__(self, api_url: str, api_token: str) -> None:
        self._api_url = api_url.rstrip("/")
        self._headers = {"Authorization": f"token {api_token}", "Accept": _PAGED}
        self._session: aiohttp.ClientSession | None = None

    async def active_servers(self) -> Sequence[HubServer]:
        """Every server that runs, starts or stops, page by page."""
        servers: list[HubServer] = []
        offset = 0
        for _ in range(_PAGES_MAX):
            page = await self._page(offset)
            items, paging = page.get("items"), page.get("_pagination")
            if not isinstance(items, list) or not isinstance(paging, dict):
                raise Unavailable("the hub's list of users makes no sense")
            for user in items:
                servers.extend(_servers(user))
            following = paging.get("next")
            if following is None:
                return servers
            offset = int(following["offset"])
        raise Unavailable("the hub's list of users has no end")

    async def stop_server(self, hub_name: str, server_name: str) -> None:
        """Ask the hub to stop a server; one that is not there is stopped already."""
        path = f"/users/{quote(hub_name, safe='')}/" + (
            f"servers/{quote(server_name, safe='')}" if server_name else "server"
        )
        try:
            async with self._client().delete(self._api_url + path, timeout=_STOP_DEADLINE) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"the hub does not answer: {type(error).__name__}") from error
        if status not in (202, 204, 404):
            raise Unavailable(f"the hub answered {status} to a stop")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _page(self, offset: int) -> dict[str, Any]:
        query = {"state": "active", "limit": str(_PAGE), "offset": str(offset)}
        try:
            async with self._client().get(f"{self._api_url}/users", params=query, timeout=_LIST_DEADLINE) as answer:
                if answer.status != 200:
                    raise Unavailable(f"the hub answered {answer.status} to a list of users")
                page = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unavailable(f"the hub does not answer: {type(error).__name__}") from error
        if not isinstance(page, dict):
            raise Unavailable("the hub's list of users makes no sense")
        return page

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:  # made inside the running loop
            self._session = aiohttp.ClientSession(headers=self._headers)
        return self._session


def _servers(user: Any) -> list[HubServer]:
    """A user's servers; a model without them means that we lack the scope to see them, which is no empty list."""
    if not isinstance(user, dict) or not isinstance(user.get("servers"), dict) or not isinstance(user.get("name"), str):
        raise Unavailable("the hub lists a user without servers")
    return [
        HubServer(
            hub_name=user["name"],
            server_name=str(name),
            ready=bool(model.get("ready")),
            pending=model.get("pending"),
            hold_id=None,  # the server's state is not for services to read; matched by name
        )
        for name, model in user["servers"].items()
        if isinstance(model, dict)
    ]
