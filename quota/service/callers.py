"""Who asks: a person and the powers that the hub's scopes give them.

The API and the pages make a `Caller` of a token or a cookie; use cases decide by it and by the person's role in the project.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from quota.domain.errors import Forbidden, Unavailable, Unknown
from quota.domain.ids import PersonId
from quota.domain.project import Person
from quota.service.services import Services


class Power(StrEnum):
    """Scopes of the hub, `custom:quota:<power>`."""

    READ = "read"
    WRITE = "write"
    DECIDE = "decide"
    ADMIN = "admin"
    EXCHANGE = "exchange"  # all that a session's own token may: nbgrader's exchange, in its owner's name


SCOPE_PREFIX = "custom:quota:"
ACCESS_SCOPE = "access:services!service=quota"


class IdentityPending(Unavailable):
    """The hub knows this person and has not told the quota service yet; the next sign-in refresh does."""

    code = "identity_pending"


@dataclass(frozen=True, slots=True)
class Caller:
    person: Person
    powers: frozenset[Power] = frozenset()

    @property
    def id(self) -> PersonId:
        return self.person.id

    def may(self, power: Power) -> bool:
        return power in self.powers

    def must(self, power: Power) -> None:
        """Raises Forbidden without `power`."""
        if power not in self.powers:
            raise Forbidden(f"needs {SCOPE_PREFIX}{power}")


def powers_of(scopes: frozenset[str]) -> frozenset[Power]:
    """The powers among the hub scopes of a token; a scope that is narrowed by a filter gives none."""
    return frozenset(power for power in Power if f"{SCOPE_PREFIX}{power}" in scopes)


async def caller_of(services: Services, hub_name: str, powers: frozenset[Power]) -> Caller:
    """The person whom the hub calls `hub_name`. Raises IdentityPending where the hub has not registered them yet."""
    person = await services.store.read(lambda tx: tx.people.by_hub_name(hub_name))
    if person is None:
        raise IdentityPending(f"{hub_name} is not registered yet", retry_after_s=5)
    if person.suspended:
        raise Forbidden("the sign-in provider does not vouch for this person any more", code="signed_out")
    return Caller(person, powers)


async def person_named(services: Services, hub_name: str) -> Person:
    """The person whom the hub calls `hub_name`. Raises Unknown('person')."""
    person = await services.store.read(lambda tx: tx.people.by_hub_name(hub_name))
    if person is None:
        raise Unknown("person", hub_name=hub_name)
    if person.suspended:
        raise Forbidden("the sign-in provider does not vouch for this person any more", code="signed_out")
    return person
