"""The pending page's events, also after a restart of the hub: a job that still waits in a queue is checked, not started, and says why it waits.

JupyterHub 6.1.1 has events for starts only; a server that a starting hub finds waiting ("check") gets a 400 from the stock route.
"""

from typing import Any, Final

from jupyterhub.apihandlers.users import SpawnProgressAPIHandler
from jupyterhub.scopes import needs_scope

ROUTES: Final = (r"/api/users/([^/]+)/server/progress", r"/api/users/([^/]+)/servers/([^/]*)/progress")


def handlers() -> list[tuple[str, type[SpawnProgressAPIHandler]]]:
    """The two routes of the stock hub."""
    return [(route, ProgressHandler) for route in ROUTES]


class ProgressHandler(SpawnProgressAPIHandler):
    """Stock events for starts; the spawner's own for a session that this hub found waiting."""

    @needs_scope("read:servers")
    async def get(self, user_name: str, server_name: str = "") -> None:
        """Stream events until the session is ready or over; the page looks again then."""
        spawner = self._waiting(user_name, server_name or "")
        if spawner is None:
            await super().get(user_name, server_name)
            return
        self.set_header("Cache-Control", "no-cache")
        async for event in spawner.progress():
            await self.send_event({name: value for name, value in event.items() if name != "ready"})
            if spawner.pending != "check":
                break
        if spawner.ready:
            await self.send_event({"progress": 100, "ready": True, "message": "ready"})

    def _waiting(self, user_name: str, server_name: str) -> Any:
        user = self.find_user(user_name)
        if user is None or server_name not in user.spawners:
            return None
        spawner = user.spawners[server_name]
        return spawner if spawner.pending == "check" else None
