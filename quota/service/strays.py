"""Strays: jobs on the projects' accounts of a cluster that no open hold pays for. They are cancelled, and what they used is booked.

Invariants: a job whose hold is open is never touched; a job that is cancelled here was looked up in the ledger first; what a stray used goes
to the system's own project `unallocated`, once a run, and to nobody's balance. An outage cancels nothing and books nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from quota.domain.errors import QuotaError, Unavailable
from quota.domain.hold import Hold, HoldKind, HoldOrder, HoldState, Usage
from quota.domain.ids import AllocationId, HoldId, ProjectId
from quota.domain.project import Project, ProjectState
from quota.domain.units import Unit
from quota.service.ports import Transaction
from quota.service.services import Services

log = logging.getLogger("quota.strays")
UNALLOCATED: Final = ProjectId("unallocated")
ACCOUNT: Final = AllocationId("unallocated-gpu")
SOURCE: Final = "stray"
_PAGE: Final = 200
_FOR_EVER: Final = timedelta(days=36_500)
_LOOK_BACK: Final = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Work:
    """One run of a job on one of the portal's accounts, alive or over; `key` tells runs apart."""

    cluster: str
    job_id: int
    key: str
    hold_id: (
        HoldId | None
    )  # the hold that it names, by job_submit.lua's word where the site has it; None where it names none
    account: str
    login: str
    gpus: int
    started_at: datetime | None
    ended_at: datetime | None
    busy_ms: int


class Works(Protocol):
    """Clusters as the reconciler sees them. Everything raises Unavailable where a cluster does not answer."""

    async def alive(self) -> Sequence[Work]:
        """Every job on the portal's accounts that is not over, pending ones included."""

    async def over(self, projects: Sequence[ProjectId], since: datetime) -> Sequence[Work]:
        """Every run on the projects' accounts that ended since then."""

    async def cancel(self, work: Work) -> None:
        """Tell the cluster to end the job."""


@dataclass(frozen=True, slots=True)
class StrayReport:
    """What one pass found: strays that were told to end, and runs that were booked."""

    cancelled: int
    booked: int


class StrayPass:
    """Compares clusters with the ledger; to be run every few seconds by one process."""

    def __init__(self, services: Services, works: Works) -> None:
        self._services = services
        self._works = works
        self._since = services.clock.now() - timedelta(days=1)
        self._opened = False

    async def run(self) -> StrayReport:
        """One pass. Raises Unavailable where a cluster or the ledger does not answer; the next pass does what is left."""
        began = self._services.clock.now()
        cancelled = booked = 0
        for work in await self._works.alive():
            hold = await self._paying(work)
            if hold is not None and hold.state is HoldState.HELD:
                continue
            log.warning(
                "job %s of %s on %s runs without an open hold: cancelled", work.job_id, work.login, work.account
            )
            await self._works.cancel(work)
            await self._audit(work)
            cancelled += 1
        for work in await self._works.over(await self._projects(), self._since):
            if work.gpus and work.busy_ms and await self._paying(work) is None:
                booked += await self._book(work)
        self._since = began - _LOOK_BACK
        return StrayReport(cancelled, booked)

    async def _paying(self, work: Work) -> Hold | None:
        return None if work.hold_id is None else await self._services.ledger.hold(work.hold_id)

    async def _projects(self) -> list[ProjectId]:
        found: list[ProjectId] = []
        after: str | None = None
        while True:  # bounded by the number of projects
            begin = after
            page = await self._services.store.read(lambda tx: tx.projects.search("", after=begin, limit=_PAGE))  # noqa: B023
            found += [project.id for project in page]
            if len(page) < _PAGE:
                return found
            after = page[-1].slug

    async def _audit(self, work: Work) -> None:
        at = self._services.clock.now()
        after = {"account": work.account, "login": work.login, "gpus": work.gpus}
        await self._services.store.write(
            lambda tx: tx.audit(
                actor=None, action="stray_cancelled", subject=f"{work.cluster}/{work.job_id}", before=None, after=after,
                reason=None, at=at,
            )
        )  # fmt: skip

    async def _book(self, work: Work) -> bool:
        """Charge a run to `unallocated`; False where it was booked before."""
        assert work.started_at is not None
        assert work.ended_at is not None
        services, amount = self._services, work.gpus * work.busy_ms
        if not self._opened:
            await services.store.write(lambda tx: _open(tx, services.clock.now()))
            self._opened = True
        hold_id = HoldId(hashlib.sha256(f"{SOURCE}:{work.key}".encode()).hexdigest()[:32])
        known = await services.ledger.hold(hold_id)
        if known is not None and known.state is not HoldState.HELD:
            return False
        owner = await services.store.read(lambda tx: tx.people.by_hub_name(_SYSTEM))
        assert owner is not None
        if known is None:
            await services.ledger.place_hold(
                HoldOrder(
                    id=hold_id, kind=HoldKind.REQUEST, subject=f"{work.login}/{work.job_id}", actor=owner.id, project_id=UNALLOCATED,
                    allocation_id=ACCOUNT, unit=Unit.GPU_MS, amount=0, at=work.ended_at, lease_until=work.ended_at + _FOR_EVER,
                    details={"cluster": work.cluster, "job_id": work.job_id, "login": work.login, "account": work.account},
                )
            )  # fmt: skip
        usage = Usage(SOURCE, work.key, hold_id, work.started_at, work.ended_at, work.busy_ms, amount)
        try:
            await services.ledger.settle(hold_id, services.clock.now(), usage)
        except Unavailable:
            raise
        except QuotaError:
            log.exception("stray %s: the ledger does not take it", work.key)
            return False
        return True


_SYSTEM: Final = "unallocated"


def _open(tx: Transaction, at: datetime) -> None:
    """The system's own project with one account that nobody was awarded anything on; once."""
    if tx.projects.get(UNALLOCATED) is not None:
        return
    system = tx.people.register(
        issuer="urn:commons:system",
        subject=_SYSTEM,
        hub_name=_SYSTEM,
        display_name="Unallocated",
        email=None,
        language="en",
        at=at,
    )
    tx.projects.add(Project(UNALLOCATED, "unallocated", "Unallocated usage", ProjectState.ACTIVE, at), system.id)
    tx.accounts.open_allocation(ACCOUNT, UNALLOCATED, Unit.GPU_MS, at - timedelta(days=365), at + _FOR_EVER)
