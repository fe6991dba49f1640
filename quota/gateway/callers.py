"""Whose a gateway key is: a session's key, a person's own key, or a token of the hub.

Invariant: a look-up is believed for at most ten seconds, so a key dies that soon after its session, its revocation or its owner's
place in the project; what no look-up confirms is worth nothing. Keys are kept in this process's memory only.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from quota.domain.errors import Unavailable
from quota.domain.gateway_key import read_key
from quota.domain.hold import HoldKind, HoldState
from quota.domain.ids import HoldId, PersonId, ProjectId
from quota.domain.project import Project, ProjectState
from quota.gateway import denials
from quota.gateway.denials import Denied
from quota.service.callers import ACCESS_SCOPE, SCOPE_PREFIX, Power
from quota.service.courses import closed_course
from quota.service.keys import verify_session_key
from quota.service.ledger_ports import Ledger
from quota.service.limiting import TokenShare, token_share
from quota.service.ports import Clock, Store, Transaction
from quota.service.session_ports import Introspection

BELIEVED_S: Final = 10.0
_DENIAL_BELIEVED_S: Final = 3.0
_CLOCK_SLACK_S: Final = 60.0  # a request that waited still finds the counter of its day
_KEPT_MAX: Final = 10_000
_HUB_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{8,128}\Z")
_HUB_LOOKS_MAX: Final = 16  # at once: anybody can make up tokens
NO_SHARE: Final = TokenShare()
API: Final = "api"  # the application of a request that comes from no session


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, for which project, from where; and what the key may."""

    person: PersonId
    project: ProjectId
    session: HoldId | None
    application: str
    slug: str = ""
    key_id: str = ""  # what the minute's limits are counted by
    models: frozenset[str] | None = None  # None: every model of the project
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    limit_id: str | None = None  # the ledger's counter that a hold counts against, too
    share: TokenShare = NO_SHARE  # and those of the person's share of the project, where there is one


@dataclass(frozen=True, slots=True)
class Doors:
    """What look-ups need; without `hub`, no hub token is good."""

    ledger: Ledger
    store: Store
    clock: Clock
    secret: bytes
    hub: Introspection | None = None


class Callers:
    """Looks keys up, and remembers the answers for seconds."""

    def __init__(self, doors: Doors, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._doors = doors
        self._monotonic_s = monotonic_s
        self._known: dict[tuple[str, str], tuple[Caller | Denied, float]] = {}
        self._looking: dict[tuple[str, str], asyncio.Task[Caller | Denied]] = {}
        self._hub_looks = asyncio.Semaphore(_HUB_LOOKS_MAX)

    def known(self, key: str, project: str = "") -> Caller | Denied | None:
        """The caller who holds `key`, where it was looked up lately."""
        known = self._known.get((key, project))
        return known[0] if known is not None and self._monotonic_s() < known[1] else None

    async def caller(self, key: str, project: str = "") -> Caller | Denied:
        """The caller who holds `key`, or why it is not accepted; `project` is the one that a hub token's request names."""
        known = self.known(key, project)
        if known is not None:
            return known
        looking = self._looking.get((key, project))
        if looking is None:  # a thousand requests under one key are one look
            looking = asyncio.create_task(self._looked_up(key, project))
            self._looking[key, project] = looking
            looking.add_done_callback(lambda _: self._looking.pop((key, project), None))
        return await asyncio.shield(looking)

    async def _looked_up(self, key: str, project: str) -> Caller | Denied:
        now_s = self._monotonic_s()
        try:
            found = await self._look_up(key, project)
            if isinstance(found, Caller):
                found = await self._with_share(found)
        except Unavailable as error:
            return denials.unavailable(error.retry_after_s)
        if found is None:  # not remembered: anybody can make up as many as they like
            return denials.bad_key()
        self._remember((key, project), found, now_s)
        return found

    async def _with_share(self, caller: Caller) -> Caller:
        at, believed_s = self._doors.clock.now(), BELIEVED_S + _CLOCK_SLACK_S
        share = await token_share(self._doors.store, caller.project, caller.person, at, believed_s)
        return caller if share == NO_SHARE else replace(caller, share=share)

    async def _look_up(self, key: str, project: str) -> Caller | Denied | None:
        hold_id = verify_session_key(self._doors.secret, key)
        if hold_id is not None:
            return await self._of_session(hold_id)
        own = read_key(key)
        if own is not None:
            return await self._of_person(*own)
        if self._doors.hub is None or _HUB_TOKEN.match(key) is None:
            return None
        async with self._hub_looks:
            identity = await self._doors.hub.introspect(key)
        if identity is None:
            return None
        if not {ACCESS_SCOPE, f"{SCOPE_PREFIX}{Power.WRITE}"} <= identity.scopes:
            return denials.token_without_scope()
        return await self._of_hub_user(identity.hub_name, project)

    async def _of_session(self, hold_id: HoldId) -> Caller | Denied:
        hold = await self._doors.ledger.hold(hold_id)
        if hold is None or hold.kind is not HoldKind.SESSION or hold.state is not HoldState.HELD:
            return denials.bad_key()
        application = str(hold.details.get("application", ""))

        def work(tx: Transaction) -> Caller | Denied:
            project = self._standing(tx, hold.project_id, hold.actor)
            if isinstance(project, Denied):
                return project
            return Caller(hold.actor, project.id, hold.id, application, project.slug, f"s:{hold.id}")

        return await self._doors.store.read(work)

    async def _of_person(self, key_id: str, secret: str) -> Caller | Denied | None:
        at = self._doors.clock.now()

        def work(tx: Transaction) -> Caller | Denied | None:
            key = tx.gateway_keys.get(key_id)
            if key is None or not key.is_opened_by(secret):
                return None
            if not key.live(at):
                return denials.ended_key()
            project = self._standing(tx, key.project_id, key.person_id)
            if isinstance(project, Denied):
                return project
            return Caller(
                person=key.person_id,
                project=project.id,
                session=None,
                application=API,
                slug=project.slug,
                key_id=f"k:{key.id}",
                models=None if key.models is None else frozenset(key.models),
                requests_per_minute=key.requests_per_minute,
                tokens_per_minute=key.tokens_per_minute,
                limit_id=key.limit_id if key.tokens_max is not None else None,
            )

        return await self._doors.store.read(work)

    async def _of_hub_user(self, hub_name: str, named: str) -> Caller | Denied:
        """A hub token's owner, for the project that they named, or for their only one."""

        def work(tx: Transaction) -> Caller | Denied:
            person = tx.people.by_hub_name(hub_name)
            if person is None:
                return denials.unavailable(5)  # the hub names them to the quota service at their next sign-in
            projects = [project for project, _ in tx.projects.of_person(person.id)]
            if named:
                projects = [project for project in projects if named in (project.slug, project.id)]
                if not projects:
                    return denials.not_a_member()
            if len(projects) != 1:
                return denials.which_project([project.slug for project in projects])
            project = self._standing(tx, projects[0].id, person.id)
            if isinstance(project, Denied):
                return project
            return Caller(person.id, project.id, None, API, project.slug, f"h:{person.id}")

        return await self._doors.store.read(work)

    def _standing(self, tx: Transaction, project_id: ProjectId, person_id: PersonId) -> Project | Denied:
        """The project, where the person is in it and vouched for by their provider, and it is active; a course, while it runs."""
        person = tx.people.by_id(person_id)
        if person is None or person.suspended:
            return denials.ended_key()
        if tx.projects.role(project_id, person_id) is None:
            return denials.not_a_member()
        project = tx.projects.get(project_id)
        if project is None or project.state is not ProjectState.ACTIVE:
            return denials.project_closed()
        closed = closed_course(tx, project_id, person_id, self._doors.clock.now())
        return project if closed is None else denials.course_closed(closed)

    def _remember(self, key: tuple[str, str], found: Caller | Denied, now_s: float) -> None:
        if len(self._known) >= _KEPT_MAX:
            self._known = {one: kept for one, kept in self._known.items() if now_s < kept[1]}
            if len(self._known) >= _KEPT_MAX:
                self._known.clear()
        lasts_s = BELIEVED_S if isinstance(found, Caller) else _DENIAL_BELIEVED_S
        self._known[key] = (found, now_s + lasts_s)


def key_of(authorization: bytes | None, api_key: bytes | None = None) -> str | None:
    """The key in an Authorization header, or in Anthropic's `x-api-key`; None where neither carries one."""
    if authorization is None and api_key is not None:
        authorization = b"Bearer " + api_key
    if authorization is None or len(authorization) > 512 or not authorization.isascii():
        return None
    scheme, _, key = authorization.decode().partition(" ")
    return key.strip() or None if scheme.lower() in ("bearer", "token") else None
