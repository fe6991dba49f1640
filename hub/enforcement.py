"""What the quota service asks of the hub: which sessions there are, stop one, move one's end, take a forgotten one over.

Invariants: only the service with `custom:quota:enforce` gets here; every order names the hold, and a server that runs under another
one is left alone (409); a hub that was replaced by a newer one does nothing any more (409 `stale_epoch`); "no such session" (404) is
said of a stop only where the backends positively run none (or have it cancelled, as Slurm has), since JupyterHub 6.1.1 forgets a
server whose stop failed. The hub decides nothing: it passes on to the spawner and says what came of it.
"""

import json
from typing import Any, Final

from jupyterhub.apihandlers.base import APIHandler
from tornado import web

from hub.checked_stops import CheckedStops
from hub.fence import HubFence
from hub.roles import ENFORCE_SCOPE
from spawners.delegate import BackendUnreachable, DeadlineRefused
from spawners.session_traits import StopOrder

GRACE_S_MAX: Final = 3600
_SERVER: Final = r"/api/commons/sessions/([^/]+)/([^/]*)"


def handlers(fence: HubFence) -> list[tuple[Any, ...]]:
    """The routes, as `Authenticator.get_handlers` gives them to the hub."""
    own = {"fence": fence}
    return [
        (r"/api/commons/sessions", SessionsHandler, own),
        (f"{_SERVER}/stop", StopHandler, own),
        (f"{_SERVER}/deadline", DeadlineHandler, own),
        (f"{_SERVER}/adopt", AdoptHandler, own),
    ]


class _ForTheQuotaService(APIHandler):
    """Whoever holds the scope, and nobody else; JupyterHub's own decorator knows no custom scopes when a module is loaded."""

    def initialize(self, fence: HubFence) -> None:
        """Take what the wiring made."""
        self.fence = fence

    async def prepare(self) -> None:
        """Refuse before anything is read or looked up."""
        await super().prepare()
        if ENFORCE_SCOPE not in self.parsed_scopes:
            raise web.HTTPError(403, "This is for the quota service.")


class SessionsHandler(_ForTheQuotaService):
    """`GET /hub/api/commons/sessions` → every server that runs, starts or stops, with its hold, in one answer."""

    async def get(self) -> None:
        """The hub's epoch goes with it, so that a stale hub's list is known as one."""
        listed = [
            {
                "user": user.name,
                "server": name,
                "hold_id": spawner.hold_id,
                "ready": bool(spawner.ready),
                "pending": spawner.pending or None,
            }
            for user in list(self.users.values())
            for name, spawner in list(user.spawners.items())
            if spawner.active
        ]
        self.finish(json.dumps({"epoch": self.fence.epoch, "sessions": listed}))


class OrderHandler(_ForTheQuotaService, CheckedStops):
    """A session of a user, found by its hold."""

    async def must_be_in_charge(self) -> None:
        """Answers 409 where a newer hub took over."""
        if await self.fence.replaced():
            raise web.HTTPError(409, "A newer hub took over.", reason="stale_epoch")

    def spawner_of(self, user_name: str, server_name: str, hold_id: str) -> Any:
        """The active spawner that runs under this hold; 404 where there is none, 409 where another session runs there."""
        user = self.find_user(user_name)
        spawner = None if user is None else user.spawners.get(server_name)
        if spawner is None or not spawner.active:
            raise web.HTTPError(404, "No such session runs here.")
        if spawner.hold_id != hold_id:
            raise web.HTTPError(409, "Another session runs there.", reason="other_session")
        return spawner

    async def found_again(self, user_name: str, server_name: str, hold_id: str) -> Any:
        """The spawner of a session that runs under this hold, asked of its backend where the hub forgot it; 404, 409, 503 as above."""
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, "No such person.")
        known = server_name in user.orm_spawners
        spawner = user.get_or_create_spawner(server_name, "", replace_failed=True)
        if not spawner.active:
            try:
                running = await spawner.adopt_running()
            except (BackendUnreachable, OSError):
                raise web.HTTPError(503, "The session's backend cannot be asked.") from None
            if running is None and not spawner.active:  # a start may have begun meanwhile
                if not known:
                    self.db.delete(spawner.orm_spawner)
                    user.spawners.pop(server_name, None)
                    self.db.commit()
                raise web.HTTPError(404, "No such session runs.")
        if spawner.hold_id != hold_id:
            raise web.HTTPError(409, "Another session runs there.", reason="other_session")
        return spawner

    def body(self, **kinds: type) -> dict[str, Any]:
        """The posted fields, each of its type; 400 for anything else."""
        body = self.get_json_body()
        if not isinstance(body, dict) or set(body) != set(kinds):
            raise web.HTTPError(400, f"The body must be an object with {', '.join(kinds)}.")
        for name, kind in kinds.items():
            if type(body[name]) is not kind:
                raise web.HTTPError(400, f"{name} must be {kind.__name__}.")
        return body


class StopHandler(OrderHandler):
    """`POST …/stop {hold_id, reason, grace_s}`: 202 while it stops, 204 once the hub is done with it; evidence tells its end."""

    async def post(self, user_name: str, server_name: str = "") -> None:
        """Tell the spawner why and how, then stop it the hub's usual way, a pending start included."""
        body = self.body(hold_id=str, reason=str, grace_s=int)
        if not 0 <= body["grace_s"] <= GRACE_S_MAX:
            raise web.HTTPError(400, f"grace_s must be 0 to {GRACE_S_MAX}.")
        await self.must_be_in_charge()
        spawner = await self.found_again(user_name, server_name, body["hold_id"])
        spawner.stop_order = StopOrder(body["reason"][:200], body["grace_s"])
        if not spawner.active:
            self.log.warning("Stopping %s, which the hub had forgotten and which runs on", spawner._log_name)
            await spawner.poll()  # brings the session's API token, which its stop revokes
        if spawner.active:
            await self.delete(user_name, server_name)
            return
        await self.stop_single_user(spawner.user, server_name)
        self.set_status(202 if spawner._stop_pending else 204)


class DeadlineHandler(OrderHandler):
    """`POST …/deadline {hold_id, deadline_ms}`: 200 once backend and watchdog have it; 409 `refused` with why; 503 not known."""

    async def post(self, user_name: str, server_name: str = "") -> None:
        """Move the session's end."""
        body = self.body(hold_id=str, deadline_ms=int)
        await self.must_be_in_charge()
        spawner = self.spawner_of(user_name, server_name, body["hold_id"])
        try:
            await spawner.set_deadline(body["hold_id"], body["deadline_ms"])
        except DeadlineRefused as error:
            self.set_status(409)
            self.finish(json.dumps({"refused": str(error)[:200]}))
            return
        except BackendUnreachable as error:
            self.log.warning("The end of %s was not moved: %s", spawner._log_name, error)
            raise web.HTTPError(503, "The session's backend cannot be asked.") from None
        self.finish(json.dumps({"deadline_ms": body["deadline_ms"]}))


class AdoptHandler(OrderHandler):
    """`POST …/adopt {hold_id}`: a session that the hub forgot is looked for and taken over; nothing new is started."""

    async def post(self, user_name: str, server_name: str = "") -> None:
        """202: the hub is taking it over, or has it."""
        body = self.body(hold_id=str)
        await self.must_be_in_charge()
        spawner = await self.found_again(user_name, server_name, body["hold_id"])
        if not spawner.active:
            # What runs is found again by the start, which places no hold for it.
            await self.spawn_single_user(
                spawner.user, server_name, options=dict(spawner.orm_spawner.user_options or {})
            )
        self.set_status(202)
        self.finish("{}")
