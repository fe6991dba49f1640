"""Has the proxy's routes compared with what they should be every few seconds: a proxy that was restarted has them back at once.

JupyterHub does this only after it has read everybody's activity, which takes several queries for each server: with 50 servers that kept
the event loop for 150 ms of CPU. Its own round stays as rare as it is by default. Invariant: nothing is compared before the hub has begun its
own rounds, since until then it does not know every session, and a route without a session is removed.
"""

import logging
from typing import Any, Final

from tornado.ioloop import PeriodicCallback

log = logging.getLogger("jupyterhub.commons")
EVERY_S: Final = 5.0


class RouteCheck:
    """One comparison after the other, from the hub's start on."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._running: PeriodicCallback | None = None

    def start(self, app: Any) -> None:
        """Begin with the hub's event loop."""
        self._running = PeriodicCallback(lambda: self.round(app), self._every_s * 1000)
        self._running.start()

    async def round(self, app: Any) -> bool:
        """Compare once; False where the hub has not begun, or the proxy does not answer."""
        if not app._start_future.done():  # JupyterHub's own mark: its checks of spawners stand before it
            return False
        try:
            await app.proxy.check_routes(app.users, app._service_map)
        except Exception as error:  # a process edge: the proxy is away, and the next round tries again
            log.warning("The proxy's routes cannot be compared: %s", error)
            return False
        return True
