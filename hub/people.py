"""Tells the quota service who a hub user is (decision 0007): after each sign-in, at each refresh, and before a start that needs it.

Invariant: sign-in never depends on it: an outage is logged and the next refresh repeats the call. What was told and not changed
since is not told again within `REPEAT_AFTER_S`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from quota.client import Person, QuotaClient, QuotaUnavailable

DEADLINE_S: Final = 2.0
REPEAT_AFTER_S: Final = 600.0

log = logging.getLogger("jupyterhub.commons")


class People:
    """Remembers whom the quota service was told about, by this process."""

    def __init__(self, client: QuotaClient, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._monotonic = monotonic
        self._told: dict[str, tuple[Person, float]] = {}

    async def tell(self, hub_name: str, person: Person, *, again: bool = False) -> bool:
        """Tell who `hub_name` is unless that was done lately; `again` tells in any case. Gives whether it is known."""
        told, at = self._told.get(hub_name, (None, 0.0))
        if told == person and not again and self._monotonic() - at < REPEAT_AFTER_S:
            return True
        try:
            refused = await self._client.register(hub_name, person, deadline_s=DEADLINE_S)
        except QuotaUnavailable as error:
            log.warning("Could not tell who %s is: %s; the next refresh repeats it", hub_name, error)
            return False
        if refused is not None:
            log.error("The quota service does not take %s as told: %s %s", hub_name, refused.code, refused.message)
            return False
        self._told[hub_name] = (person, self._monotonic())
        return True

    async def tell_again(self, user: Any) -> bool:
        """Tell it in any case, from what the sign-in left with the hub; the quota service said that it knows no such person."""
        state = await user.get_auth_state()
        return bool(state) and await self.tell(user.name, person_of(user.name, state), again=True)


def person_of(hub_name: str, auth_state: Mapping[str, Any]) -> Person:
    """The person whom a sign-in's auth_state names."""
    name = auth_state.get("display_name") or hub_name
    return Person(auth_state["issuer"], auth_state["subject"], name, auth_state.get("email") or "")
