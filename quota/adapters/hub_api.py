"""The hub as the service `quota` sees it: hub/enforcement.py's routes. Lists sessions with their holds, stops them, moves their ends.

Invariant: no answer, a partial answer or an unexpected one is Unavailable, never an empty list or a refusal. Every call has a deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from quota.domain.errors import RefusalCode, Refused, Unavailable
from quota.domain.ids import HoldId
from quota.service.session_ports import HubServer, HubView, StopOrder

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LIST_DEADLINE: Final = aiohttp.ClientTimeout(total=10)
_ORDER_DEADLINE: Final = aiohttp.ClientTimeout(total=25)  # the hub itself waits 10 s for a slow stop


class HubApi:
    """One client with its own connections; `close` ends them."""

    def __init__(self, api_url: str, api_token: str) -> None:
        self._api_url = api_url.rstrip("/")
        self._headers = {"Authorization": f"token {api_token}"}
        self._session: aiohttp.ClientSession | None = None

    async def active_servers(self) -> HubView:
        """Every session that runs, starts or stops, with its hold."""
        status, answer = await self._call("GET", "/commons/sessions", None, _LIST_DEADLINE)
        listed, epoch = answer.get("sessions"), answer.get("epoch")
        if status != 200 or not isinstance(listed, list) or not (epoch is None or type(epoch) is int):
            raise Unavailable(f"the hub answered {status} to a list of its sessions")
        return HubView([_server(one) for one in listed], epoch)

    async def stop_session(self, order: StopOrder) -> bool:
        """Ask it to stop a session; False where it runs no session under this hold."""
        body = {"hold_id": order.hold_id, "reason": order.reason, "grace_s": order.grace_s}
        status, answer = await self._call(
            "POST", _path(order.hub_name, order.server_name, "stop"), body, _ORDER_DEADLINE
        )
        if status in (202, 204):
            return True
        if status == 404 or (status == 409 and answer.get("reason") == "other_session"):
            return False
        raise Unavailable(f"the hub answered {status} to a stop")

    async def set_deadline(self, hub_name: str, server_name: str, hold_id: HoldId, ends_at: datetime) -> Refused | None:
        """Have the backend move the session's end."""
        body = {"hold_id": hold_id, "deadline_ms": (ends_at - _EPOCH) // timedelta(milliseconds=1)}
        status, answer = await self._call("POST", _path(hub_name, server_name, "deadline"), body, _ORDER_DEADLINE)
        if status == 200:
            return None
        if status == 409 and isinstance(answer.get("refused"), str):
            return Refused(RefusalCode.BACKEND_REFUSED, {"why": answer["refused"]})
        if status == 404 or (status == 409 and answer.get("reason") == "other_session"):
            return Refused(RefusalCode.BACKEND_REFUSED, {"why": "the session does not run any more"})
        raise Unavailable(f"the hub answered {status} to a new end")

    async def adopt(self, hub_name: str, server_name: str, hold_id: HoldId) -> None:
        """Have it take a session over that it forgot."""
        status, _ = await self._call(
            "POST", _path(hub_name, server_name, "adopt"), {"hold_id": hold_id}, _ORDER_DEADLINE
        )
        if status != 202:
            raise Unavailable(f"the hub answered {status} to an adoption")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _call(
        self, method: str, path: str, body: Mapping[str, object] | None, deadline: aiohttp.ClientTimeout
    ) -> tuple[int, Mapping[str, Any]]:
        try:
            async with self._client().request(method, self._api_url + path, json=body, timeout=deadline) as answer:
                text = await answer.text()
                content = await answer.json(content_type=None) if text.startswith("{") else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unavailable(f"the hub does not answer: {type(error).__name__}") from error
        if not isinstance(content, dict):
            raise Unavailable("the hub's answer makes no sense")
        return answer.status, {**content, "reason": content.get("reason", answer.reason)}

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:  # made inside the running loop
            self._session = aiohttp.ClientSession(headers=self._headers)
        return self._session


def _path(hub_name: str, server_name: str, verb: str) -> str:
    return f"/commons/sessions/{quote(hub_name, safe='')}/{quote(server_name, safe='')}/{verb}"


def _server(one: Any) -> HubServer:
    if not isinstance(one, dict) or not all(isinstance(one.get(name), str) for name in ("user", "server", "hold_id")):
        raise Unavailable("the hub lists a session that makes no sense")
    return HubServer(
        hub_name=one["user"],
        server_name=one["server"],
        ready=one.get("ready") is True,
        pending=one.get("pending"),
        hold_id=HoldId(one["hold_id"]) if one["hold_id"] else None,
    )
