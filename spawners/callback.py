"""What a running job may tell and ask the hub: its port, once, and its deadline. Mounted by hub.pages through Authenticator.get_handlers.

    POST /hub/api/commons/port      {"port": 40123} → 204; 409 where no port is waited for
    GET  /hub/api/commons/deadline  → {"deadline_ms": 1795599999000}; 0: the runtime from the job's own start

Invariants: one integer is all that a job can change, in its own session only and only while the hub waits for it; the credential is
that session's own server token, not any of the same person, and who has no token of the hub's takes no turn; a body longer than
LARGEST_BODY_BYTES is not even parsed. batchspawner's stock route, which copies any posted key onto the spawner, stays a 404 (hub.pages).
"""

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from jupyterhub.apihandlers import APIHandler
from tornado import web

LARGEST_BODY_BYTES: Final = 64
PORTS: Final = range(1024, 65_536)
Turn = Callable[[], Awaitable[None]]


def handlers(turn: Turn) -> list[tuple[str, type[APIHandler], dict[str, Any]]]:
    """The two routes, below the hub's own path; `turn` comes back when the next request may be dealt with."""
    own = {"turn": turn}
    return [(r"/api/commons/port", PortHandler, own), (r"/api/commons/deadline", DeadlineHandler, own)]


class _JobHandler(APIHandler):
    def initialize(self, turn: Turn) -> None:
        """Take what the wiring made."""
        self._turn = turn

    async def prepare(self) -> None:
        """Jobs that start at once ask at once: everybody else is answered between two of them. A stranger does not wait in line:
        starts stand in it, and would wait for whoever sends enough requests.
        """
        if self.get_token() is not None:
            await self._turn()
        await super().prepare()

    def own_spawner(self) -> Any:
        """The session whose server token this request carries. Raises 403 where it is no session's."""
        credential = self.get_auth_token()
        user = self.current_user
        for spawner in getattr(user, "spawners", {}).values() if credential else ():
            if spawner.api_token and hmac.compare_digest(spawner.api_token.encode(), credential.encode()):
                return spawner
        raise web.HTTPError(403, "This takes the token of a session, for that session.")


class PortHandler(_JobHandler):
    """Takes the port on which a session listens."""

    async def post(self) -> None:
        """Hand the port to the spawner that waits for it."""
        spawner = self.own_spawner()
        # Read whole and then judged: a handler that ends before its body closes the connection, which the proxy shares with others.
        if len(self.request.body) > LARGEST_BODY_BYTES:
            raise web.HTTPError(413, "The body is a number.")
        port = _port(self.request.body)
        if port is None:
            raise web.HTTPError(400, 'The body must be {"port": a number from 1024 to 65535}.')
        take = getattr(spawner, "take_port", None)
        if take is None or not await take(port):
            raise web.HTTPError(409, "No port is waited for.")
        self.set_status(204)


class DeadlineHandler(_JobHandler):
    """Tells a session's watchdog when it has to end."""

    async def get(self) -> None:
        """The deadline as the hub knows it."""
        ask = getattr(self.own_spawner(), "deadline_for_job", None)
        self.write({"deadline_ms": 0 if ask is None else await ask()})


def _port(body: bytes) -> int | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or list(content) != ["port"]:
        return None
    port = content["port"]
    return port if type(port) is int and port in PORTS else None
