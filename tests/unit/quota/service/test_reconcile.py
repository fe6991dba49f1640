"""Rules of closing what ran into its lease: one hold's trouble is no other's."""

from dataclasses import replace
from datetime import datetime, timedelta

from quota.domain.errors import InvariantBroken
from quota.domain.hold import Hold, HoldKind, HoldOrder, HoldState, Usage
from quota.domain.ids import AllocationId, HoldId, ProjectId
from quota.domain.units import Unit
from quota.service.reconcile import expire_requests
from tests.fakes import FakeLedger, World, world

BAD, GOOD = HoldId("request-0001"), HoldId("request-0002")


class LedgerThatRefuses(FakeLedger):
    """Does not take the end of one hold, for a reason that no pass can mend."""

    async def settle(self, hold_id: HoldId, at: datetime, usage: Usage | None = None, *, hurry: bool = True) -> Hold:
        if hold_id == BAD:
            raise InvariantBroken("overlaps what was charged already")
        return await super().settle(hold_id, at, usage, hurry=hurry)


async def asked(w: World, project: ProjectId, hold_id: HoldId) -> None:
    """A model request of 100 tokens whose lease is 30 s."""
    at = w.clock.now()
    order = HoldOrder(
        hold_id, HoldKind.REQUEST, hold_id, w.person("pi").id, project, AllocationId(f"{project}-tok"), Unit.TOKENS,
        100, at, at + timedelta(seconds=30), fingerprint=hold_id,
    )  # fmt: skip
    await w.ledger.place_hold(order)


async def test_a_request_that_the_ledger_will_not_close_keeps_no_other_open() -> None:
    w = world()
    project = w.project(w.person("pi"), tokens=1000)
    for hold_id in (BAD, GOOD):
        await asked(w, project, hold_id)
    w.clock.tick(31)
    assert await expire_requests(replace(w.services, ledger=LedgerThatRefuses(w.books))) == 1
    assert [w.books.holds[one][0].state for one in (BAD, GOOD)] == [HoldState.HELD, HoldState.SETTLED]
    assert w.balance(project, Unit.TOKENS).charged == 100
