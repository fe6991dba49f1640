"""People and the identities they sign in with: recognised, gone at their provider, linked by themselves.

Rules, each with a test: a person is (issuer, subject), so one e-mail address at two issuers is two people; they become one only
by a code that is made in a session of the one and typed in a session of the other; who is gone at their provider can start
nothing and their keys and sessions end, until they sign in again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final

from quota.domain.errors import Invalid, Unknown, WrongState
from quota.domain.ids import PersonId
from quota.domain.names import candidates
from quota.domain.project import Person
from quota.service.callers import Caller
from quota.service.endings import Cause, end_sessions
from quota.service.ports import Transaction
from quota.service.services import Services

CODE_LIFE: Final = timedelta(minutes=10)
_CODE_LETTERS: Final = "23456789abcdefghjkmnpqrstvwxyz"
_CODE_LENGTH: Final = 12  # 58 bits, good for ten minutes and one use


@dataclass(frozen=True, slots=True)
class Vouched:
    """Whom a sign-in provider vouches for, and what they call themselves there."""

    issuer: str
    subject: str
    preferred: str
    display_name: str
    email: str | None
    language: str


async def recognise(services: Services, vouched: Vouched) -> Person:
    """The person, made on first sight with a hub user name of their own; who was gone is back."""
    at = services.clock.now()

    def work(tx: Transaction) -> Person:
        names = candidates(vouched.preferred, vouched.issuer, vouched.subject)
        known = tx.people.by_identity(vouched.issuer, vouched.subject)
        free = (
            known.hub_name if known is not None else next(name for name in names if tx.people.by_hub_name(name) is None)
        )
        person = tx.people.register(
            issuer=vouched.issuer,
            subject=vouched.subject,
            hub_name=free,
            display_name=vouched.display_name,
            email=vouched.email,
            language=vouched.language,
            at=at,
        )
        if known is None:
            tx.people.greet(person.id)
        elif known.suspended:
            tx.people.suspend(person.id, None)
            tx.audit(
                actor=person.id, action="person_back", subject=person.id, before=None, after=None, reason=None, at=at
            )
        found = tx.people.by_id(person.id)
        assert found is not None
        return found

    return await services.store.write(work)


async def gone(services: Services, hub_name: str) -> Person:
    """Note that the provider does not vouch for this person any more: what they run ends after the policy's notice.

    Raises Unknown('person'). Repeating changes nothing.
    """
    at = services.clock.now()

    def work(tx: Transaction) -> Person:
        person = tx.people.by_hub_name(hub_name)
        if person is None:
            raise Unknown("person", hub_name=hub_name)
        if not person.suspended:
            tx.people.suspend(person.id, at)
            tx.audit(actor=None, action="person_gone", subject=person.id, before=None, after=None, reason=None, at=at)
            theirs = [session for session in tx.sessions.unfinished() if session.person_id == person.id]
            end_sessions(services, tx, theirs, Cause.SIGNED_OUT, at)
        return person

    return await services.store.write(work)


async def make_link_code(services: Services, caller: Caller) -> str:
    """A code that links this sign-in to the one in whose session it is typed: one use, ten minutes, the newest counts."""
    code = "".join(secrets.choice(_CODE_LETTERS) for _ in range(_CODE_LENGTH))
    at = services.clock.now()
    await services.store.write(lambda tx: tx.people.put_link_code(_print(code), caller.id, at + CODE_LIFE))
    return "-".join(code[start : start + 4] for start in range(0, _CODE_LENGTH, 4))


async def link(services: Services, caller: Caller, code: str) -> Person:
    """Make the sign-in that `code` was made in one of the caller's; its memberships come along.

    Raises Invalid('code') for a code that is unknown, used or too old, or of the caller's own; WrongState where the other still
    has a session: what it holds could not be followed.
    """
    at = services.clock.now()
    typed = "".join(char for char in code.lower() if char.isalnum())

    def work(tx: Transaction) -> Person:
        other_id = tx.people.take_link_code(_print(typed), at)
        if other_id is None:
            raise Invalid([("code", "unknown_code")])
        if other_id == caller.id:
            raise Invalid([("code", "own_code")])
        if any(session.person_id == other_id for session in tx.sessions.unfinished()):
            raise WrongState("the other sign-in has a session that runs; stop it first")
        _merge(tx, other_id, caller.id)
        tx.audit(
            actor=caller.id,
            action="identity_linked",
            subject=caller.id,
            before={"person": other_id},
            after={"person": caller.id},
            reason=None,
            at=at,
        )
        merged = tx.people.by_id(caller.id)
        assert merged is not None
        return merged

    return await services.store.write(work)


def _merge(tx: Transaction, other: PersonId, into: PersonId) -> None:
    """Identities, memberships and applications follow; the other person, its name and its ledger lines stay as they are."""
    tx.projects.move_memberships(other, into)
    tx.applications.move(other, into)
    tx.people.move_identities(other, into)


async def save_profile(services: Services, caller: Caller, display_name: str, language: str) -> None:
    """Keep what a person wants to be called and read; from then on the provider's words for it do not count."""
    name = display_name.strip()
    if not 0 < len(name) <= 200 or not name.isprintable():
        raise Invalid([("display_name", "required" if not name else "too_long")])
    at = services.clock.now()
    await services.store.write(lambda tx: tx.people.save_profile(caller.id, name, language, at))


def _print(code: str) -> str:
    return sha256(f"link-code:{code}".encode()).hexdigest()
