"""An admin corrects what was recorded: gives charges back, takes an adjustment back. Always with a reason and under an id.

Invariants: nothing is changed or deleted, each correction is a transaction of its own that names what it corrects; nobody corrects
in favour of their own project.
"""

from __future__ import annotations

from dataclasses import dataclass

from quota.domain.errors import Forbidden, Invalid, Refused, Unknown
from quota.domain.hold import Hold
from quota.domain.ids import AdjustmentId, HoldId, ProjectId, RefundId
from quota.domain.units import AMOUNT_MAX
from quota.service.adjust import check_reason
from quota.service.callers import Caller, Power
from quota.service.ports import Adjusted, Transaction
from quota.service.services import Services


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """`amount` is what to give back of what the hold was charged, in the unit of its allocation."""

    refund_id: RefundId
    hold_id: HoldId
    amount: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReversalRequest:
    """The reversal is itself an adjustment, under `reversal_id`."""

    reversal_id: AdjustmentId
    adjustment_id: AdjustmentId
    reason: str


async def refundable(services: Services, caller: Caller, hold_id: HoldId) -> Hold:
    """What an admin may give back something of. Raises Forbidden, also for their own project, and Unknown('hold')."""
    caller.must(Power.ADMIN)
    hold = await services.ledger.hold(hold_id)
    if hold is None:
        raise Unknown("hold", hold_id=hold_id)
    await services.store.read(lambda tx: _must_not_be_theirs(tx, caller, hold.project_id))
    return hold


async def refund(services: Services, caller: Caller, request: RefundRequest) -> Adjusted | Refused:
    """Give back. Refused beyond what is charged; raises Forbidden, Invalid, Unknown('hold'), IdConflict."""
    caller.must(Power.ADMIN)
    reason = request.reason.strip()
    wrong = check_reason(reason)
    if not 0 < request.amount <= AMOUNT_MAX:
        wrong.append(("amount", "out_of_range"))
    if wrong:
        raise Invalid(wrong)
    hold = await services.ledger.hold(request.hold_id)
    if hold is None:
        raise Unknown("hold", hold_id=request.hold_id)
    project_id, at = hold.project_id, services.clock.now()

    def work(tx: Transaction) -> Adjusted | Refused:
        _must_not_be_theirs(tx, caller, project_id)
        return tx.refunds.give(
            request.refund_id, request.hold_id, request.amount, actor=caller.id, reason=reason, at=at
        )

    return await services.store.write(work)


async def reverse(services: Services, caller: Caller, request: ReversalRequest) -> Adjusted | Refused:
    """Take an adjustment back. Refused where that would take back what is charged or held; raises Forbidden, Invalid,
    Unknown('adjustment'), WrongState where it is taken back already, IdConflict."""
    caller.must(Power.ADMIN)
    reason = request.reason.strip()
    if wrong := check_reason(reason):
        raise Invalid(wrong)
    at = services.clock.now()

    def work(tx: Transaction) -> Adjusted | Refused:
        allocation = tx.accounts.of_adjustment(request.adjustment_id)
        if allocation is None:
            raise Unknown("adjustment", adjustment_id=request.adjustment_id)
        _must_not_be_theirs(tx, caller, allocation.project_id)
        return tx.accounts.reverse(request.reversal_id, request.adjustment_id, actor=caller.id, reason=reason, at=at)

    return await services.store.write(work)


def _must_not_be_theirs(tx: Transaction, caller: Caller, project_id: ProjectId) -> None:
    if tx.projects.role(project_id, caller.id) is not None:
        raise Forbidden("nobody corrects the books of their own project", code="own_project")
