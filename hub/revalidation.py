"""Asks again, in the background, whether the people with something alive may still be here.

JupyterHub refreshes a person when they open a page. Somebody whose account was closed at the issuer opens none, while their
sessions run and their keys work: this finds them. Invariants: a "no" ends cookies and tokens and is told to the quota service,
which ends keys and sessions by its policy; silence of a provider or of the quota service ends nothing and is asked again.
"""

import asyncio
import logging
from typing import Any, Final

from jupyterhub import orm
from tornado import web
from tornado.ioloop import PeriodicCallback

from hub.people import People
from hub.sign_in_handlers import end_sign_ins

log = logging.getLogger("jupyterhub.commons")
_AT_ONCE: Final = 8


class Revalidation:
    """One round after the other over everybody who signed in and whom nobody has asked about within `age_s`."""

    def __init__(self, people: People, age_s: float) -> None:
        self._people = people
        self._age_s = age_s
        self._running: PeriodicCallback | None = None
        self._to_tell: set[str] = set()  # a "no" that the quota service has not heard yet

    def start(self, app: Any, authenticator: Any) -> None:
        """Begin with the hub's event loop; the rounds never overlap."""
        self._running = PeriodicCallback(lambda: self.round(app, authenticator), self._age_s * 1000)
        self._running.start()

    async def round(self, app: Any, authenticator: Any) -> int:
        """Ask about everybody once; gives how many were signed out."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(user: Any) -> bool:
            async with gate:
                try:
                    return await self._ask(app, authenticator, user)
                except web.HTTPError as error:  # a provider that has been silent for long
                    log.warning("Whether %s may still be here: %s", user.name, error.log_message)
                except Exception:  # one person's trouble must not keep the others from being asked about
                    log.exception("Asking about %s failed", user.name)
                return False

        known = app.db.query(orm.User).filter(orm.User.encrypted_auth_state.is_not(None)).all()
        signed_in = [app.users[user] for user in known]
        gone = sum(await asyncio.gather(*(one(user) for user in signed_in)))
        await self._tell()
        return gone

    async def _ask(self, app: Any, authenticator: Any, user: Any) -> bool:
        answer = await authenticator.refresh_user(user, None)
        if not answer:
            log.warning("%s is not let in any more: ending cookies and tokens", user.name)
            end_sign_ins(app.db, user)
            await user.save_auth_state(None)
            self._to_tell.add(user.name)
            return True
        if isinstance(answer, dict):
            await user.save_auth_state(answer["auth_state"])
            user.sync_groups(answer["groups"])
            if user.admin != answer["admin"]:
                user.admin = answer["admin"]
                app.db.commit()
        return False

    async def _tell(self) -> None:
        for name in sorted(self._to_tell):
            if await self._people.gone(name):
                self._to_tell.discard(name)
