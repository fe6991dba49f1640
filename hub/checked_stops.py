"""A stop that comes while a hub that was just started looks at the sessions that it found.

JupyterHub 6.1.1 answers 500 to it. Here it waits for the look, which takes moments where the notebook answers and up to `http_timeout` where
it hangs, and says when to come again where that takes longer.
"""

import asyncio
import time
from typing import Any, Final

from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from hub.language import language_of, translator

WITHIN_S: Final = 10.0
_EVERY_S: Final = 0.1


class CheckedStops(UserServerAPIHandler):
    """Mixed into the handlers that stop a person's server."""

    @needs_scope("delete:servers")
    async def delete(self, user_name: str, server_name: str = "") -> None:
        """As JupyterHub's, once the hub has looked at the session; 503 where it has not in time."""
        until_s = time.monotonic() + WITHIN_S
        while self._unchecked(user_name, server_name):
            if time.monotonic() >= until_s:
                _ = translator(language_of(self))
                raise web.HTTPError(
                    503, _("The hub has just started and still looks at this session. Try again in a moment.")
                )
            await asyncio.sleep(_EVERY_S)
        await super().delete(user_name, server_name)

    def _unchecked(self, user_name: str, server_name: str) -> bool:
        user: Any = self.find_user(user_name)
        spawner = None if user is None else user.spawners.get(server_name)
        return spawner is not None and spawner.pending == "check"
