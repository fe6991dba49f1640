"""How many named servers a person may have: those that start, run or stop count, and the limit is refused in the portal's words.

JupyterHub counts every entry that was ever made, also of starts that were refused, until somebody deletes it by hand. Here an entry that
runs nothing makes room for a new one, the one that was unused longest first; files and holds belong to no entry, so that nothing is lost
but the name. Invariant: what may still run is never taken away, and a GET takes nothing away.
"""

from collections import Counter
from typing import Any, Final

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.utils import maybe_future
from tornado import web

from hub.language import language_of, translator
from hub.relay import Doors

# Servers, as (user, name), that a request is just dealing with: between its check and the pending start an entry looks idle.
_in_hand: Final[Counter[tuple[str, str]]] = Counter()


class LimitedServers(BaseHandler):
    """Mixed into the handlers that make named servers, in the place of JupyterHub's own check of its `named_server_limit_per_user`."""

    doors: Doors
    _holds: tuple[str, str] | None = None

    async def prepare(self) -> None:
        """A start waits for its turn before anything is done for it."""
        if self.request.method == "POST":
            await self.doors.turns.take()
        await super().prepare()

    async def _check_named_server_request(
        self, user: Any, server_name: str, display_name: str, check_limit: bool = True
    ) -> None:
        if self.request.method == "POST":
            await self.doors.turns.take()  # here, since nothing may come between JupyterHub's own checks and the start
        limit = await self.get_current_user_named_server_limit() if check_limit else 0
        if self.request.method != "GET" and self._holds is None:
            self._holds = (user.name, server_name)
            _in_hand[self._holds] += 1
        if limit and server_name not in user.orm_spawners:
            await self._make_room(user, limit)
        await super()._check_named_server_request(user, server_name, display_name, check_limit=False)

    def on_finish(self) -> None:
        """The start is pending by now, or refused."""
        if self._holds is not None:
            _in_hand[self._holds] -= 1
            if _in_hand[self._holds] == 0:
                del _in_hand[self._holds]
            self._holds = None
        super().on_finish()

    async def _make_room(self, user: Any, limit: int) -> None:
        """Take away idle entries until one more fits. Raises 409 where all of them are in use."""
        idle = idle_names(user)
        named = sum(1 for name in user.orm_spawners if name)
        if named - len(idle) >= limit:
            raise web.HTTPError(409, too_many(self, named - len(idle)).replace("%", "%%"))
        if self.request.method == "GET":
            return
        for name in idle[: max(0, named - limit + 1)]:
            spawner = user.spawners[name]
            await maybe_future(user._delete_spawner(spawner))
            if name in idle_names(user):  # still: nobody took it up, or away, meanwhile
                self.log.info("Making room: the server entry %s ran nothing and is gone", spawner._log_name)
                self.db.delete(spawner.orm_spawner)
                user.spawners.pop(name, None)
                self.db.commit()


def idle_names(user: Any) -> list[str]:
    """Names of a person's servers that neither start, run nor stop, the one unused longest first; one that never ran before all."""
    named = [name for name in user.orm_spawners if name and (user.name, name) not in _in_hand]
    idle = [name for name in named if not user.spawners[name].active]
    return sorted(idle, key=lambda name: (str(user.orm_spawners[name].last_activity or ""), name))


def too_many(handler: Any, in_use: int) -> str:
    """That every server which a person may have is in use."""
    _ = translator(language_of(handler))
    message = _("You have %(number)s sessions, as many as this portal allows. Stop one first.")
    return message % {"number": in_use + 1}  # the default one with them
