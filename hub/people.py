"""Tells the quota service who a hub user is (decision 0007), and asks it what to call somebody from outside (decision 0020).

Invariants: it is told after each sign-in, at each refresh, and before a start that needs it; an outage is logged and the next
refresh repeats the call; somebody who was here before can sign in while it is away. What was told and not changed since is not
told again within `REPEAT_AFTER_S`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from hub.known_names import KnownNames
from quota.client import Person, QuotaClient, QuotaUnavailable, Refused

DEADLINE_S: Final = 2.0
REPEAT_AFTER_S: Final = 600.0

log = logging.getLogger("jupyterhub.commons")


class People:
    """Remembers whom the quota service was told about, by this process."""

    def __init__(
        self,
        client: QuotaClient,
        monotonic: Callable[[], float] = time.monotonic,
        known_names: KnownNames | None = None,
    ) -> None:
        self._client = client
        self._known_names = known_names
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

    async def name_of(self, person: Person, preferred: str, language: str) -> str:
        """What the hub calls the person, new or known. Raises QuotaUnavailable where it is away and this copy does not know."""
        try:
            answer = await self._client.recognise(person, preferred, language, deadline_s=DEADLINE_S)
        except QuotaUnavailable:
            name = None if self._known_names is None else self._known_names.get(person.issuer, person.subject)
            if name is None:
                raise
            return name
        if isinstance(answer, Refused):
            raise QuotaUnavailable(f"the quota service does not take them: {answer.code}")
        if self._known_names is not None:
            self._known_names.put(person.issuer, person.subject, answer)
        return answer

    async def gone(self, hub_name: str) -> bool:
        """Say that the sign-in provider does not vouch for this user any more; False where it could not be said."""
        self._told.pop(hub_name, None)
        try:
            refused = await self._client.gone(hub_name, deadline_s=DEADLINE_S)
        except QuotaUnavailable as error:
            log.warning("Could not say that %s is not let in any more: %s; the next round repeats it", hub_name, error)
            return False
        if refused is not None and refused.code != "unknown_person":
            log.error("The quota service does not take that %s is gone: %s", hub_name, refused.code)
        return True

    async def tell_again(self, user: Any) -> bool:
        """Tell it in any case, from what the sign-in left with the hub; the quota service said that it knows no such person."""
        state = await user.get_auth_state()
        return bool(state) and await self.tell(user.name, person_of(user.name, state), again=True)


def person_of(hub_name: str, auth_state: Mapping[str, Any]) -> Person:
    """The person whom a sign-in's auth_state names."""
    name = auth_state.get("display_name") or hub_name
    return Person(auth_state["issuer"], auth_state["subject"], name, auth_state.get("email") or "")
