"""Place and close holds of requests for services of the site that serve tokens themselves: amounts come from them, rights from here.

Invariants: the ledger decides whether a hold fits, its condition is the only one that counts; who may and which allocation pays is
read at most a second before. Idempotent under the caller's hold id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from quota.domain.errors import IdConflict, RefusalCode, Refused, Unknown, WrongState
from quota.domain.hold import Hold, HoldKind, HoldOrder, HoldState, Usage, body_hash
from quota.domain.ids import HoldId, PersonId, ProjectId
from quota.domain.project import Allocation, Project, ProjectRole, ProjectState, payer
from quota.domain.units import Unit
from quota.service.courses import closed_course
from quota.service.limiting import TokenShare, token_share
from quota.service.ports import Transaction
from quota.service.services import Services

SOURCE: Final = "request-hold"  # of the usage records made here
BELIEVED_S: Final = 1.0
_KEPT_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class RequestHoldOrder:
    """Tokens to set aside; `actor` is a hub user name. `lease_s` after which an open hold counts as used."""

    hold_id: HoldId
    actor: str
    project_id: ProjectId
    model: str
    tokens: int
    lease_s: int

    @property
    def fingerprint(self) -> str:
        return body_hash(
            {
                "kind": HoldKind.REQUEST.value,
                "actor": self.actor,
                "project_id": self.project_id,
                "model": self.model,
                "tokens": self.tokens,
                "lease_s": self.lease_s,
            }
        )


@dataclass(frozen=True, slots=True)
class _Standing:
    """What was read of an actor and a project, and when."""

    person: PersonId
    project: Project
    role: ProjectRole | None
    allocations: tuple[Allocation, ...]
    closed: Refused | None
    read_at_s: float
    share: TokenShare


@dataclass(slots=True)
class RequestHolds:
    """Request holds over the ledger; remembers for a second who may and who pays."""

    services: Services
    monotonic_s: Callable[[], float] = time.monotonic
    _known: dict[tuple[str, ProjectId], asyncio.Task[_Standing]] = field(default_factory=dict)

    async def place(self, order: RequestHoldOrder) -> Hold | Refused:
        """Set tokens aside, or say why not. Raises Unknown('person' | 'project'), IdConflict, TooMany, Unavailable."""
        standing = await self._standing(order.actor, order.project_id)
        if standing.role is None:
            return Refused(RefusalCode.NOT_A_MEMBER, {"project": standing.project.title})
        if standing.project.state is not ProjectState.ACTIVE:
            return Refused(RefusalCode.PROJECT_SUSPENDED, {"project": standing.project.title})
        if standing.closed is not None:
            return standing.closed
        at = self.services.clock.now()
        chosen = payer(list(standing.allocations), Unit.TOKENS, order.tokens, at)
        if chosen is None:
            return Refused(RefusalCode.NO_ALLOCATION, {"project": standing.project.title, "unit": Unit.TOKENS.value})
        hold = await self.services.ledger.place_hold(
            HoldOrder(
                id=order.hold_id,
                kind=HoldKind.REQUEST,
                subject=order.hold_id,
                actor=standing.person,
                project_id=order.project_id,
                allocation_id=chosen.id,
                unit=Unit.TOKENS,
                amount=order.tokens,
                at=at,
                lease_until=at + timedelta(seconds=order.lease_s),
                limits=standing.share.uses(order.tokens, at),
                details={"model": order.model},
                fingerprint=order.fingerprint,
            )
        )
        if hold.state is HoldState.REFUSED:
            return _with_unit(hold.refusal)
        return hold

    async def settle(self, hold_id: HoldId, tokens: int, *, estimated: bool) -> Hold:
        """Charge what was used and close the hold; 0 where nothing was.

        Raises Unknown('hold'), WrongState for a session's hold, IdConflict where it was settled with another number.
        """
        hold = await self.services.ledger.hold(hold_id)
        if hold is None:
            raise Unknown("hold", hold_id=hold_id)
        if hold.kind is not HoldKind.REQUEST:
            raise WrongState("a session is settled from its evidence", hold_id=hold_id)
        at = max(self.services.clock.now(), hold.placed_at)
        usage = Usage(SOURCE, hold_id, hold_id, hold.placed_at, at, tokens, tokens, estimated)
        settled = await self.services.ledger.settle(hold_id, at, usage)
        if settled.charged != tokens or settled.state is not HoldState.SETTLED:
            raise IdConflict("this hold was closed otherwise", hold_id=hold_id, state=settled.state.value)
        return settled

    async def _standing(self, actor: str, project_id: ProjectId) -> _Standing:
        key = (actor, project_id)
        known = self._known.get(key)
        if known is None or (known.done() and (known.exception() is not None or self._old(known.result()))):
            if len(self._known) >= _KEPT_MAX:
                self._known.clear()
            known = self._known[key] = asyncio.create_task(self._read(actor, project_id))
        return known.result() if known.done() else await asyncio.shield(known)

    def _old(self, standing: _Standing) -> bool:
        return self.monotonic_s() - standing.read_at_s > BELIEVED_S

    async def _read(self, actor: str, project_id: ProjectId) -> _Standing:
        read_at_s = self.monotonic_s()

        def work(
            tx: Transaction,
        ) -> tuple[PersonId, Project, ProjectRole | None, tuple[Allocation, ...], Refused | None]:
            person, project = tx.people.by_hub_name(actor), tx.projects.get(project_id)
            if person is None:
                raise Unknown("person", hub_name=actor)
            if project is None:
                raise Unknown("project", project_id=project_id)
            role = tx.projects.role(project_id, person.id)
            closed = closed_course(tx, project_id, person.id, self.services.clock.now())
            return person.id, project, role, tuple(tx.accounts.of_project(project_id)), closed

        found = await self.services.store.read(work)
        at = self.services.clock.now()
        share = await token_share(self.services.store, project_id, found[0], at, 2 * BELIEVED_S)
        return _Standing(*found, read_at_s, share)


def _with_unit(refusal: Refused | None) -> Refused:
    known = refusal or Refused(RefusalCode.INSUFFICIENT_BALANCE)
    params: Mapping[str, str | int | bool | None] = {**known.params, "unit": Unit.TOKENS.value}
    return Refused(known.code, params)
