"""An admin changes an award by ±: never "set", always with a reason, idempotent under the caller's id."""

from __future__ import annotations

from dataclasses import dataclass

from quota.domain.errors import Forbidden, Invalid, Refused, Unknown
from quota.domain.ids import AdjustmentId, AllocationId
from quota.domain.units import AMOUNT_MAX
from quota.service.callers import Caller, Power
from quota.service.ports import Adjusted, Transaction
from quota.service.services import Services


@dataclass(frozen=True, slots=True)
class AdjustRequest:
    """`delta` is signed, in the allocation's unit."""

    adjustment_id: AdjustmentId
    allocation_id: AllocationId
    delta: int
    reason: str


async def adjust(services: Services, caller: Caller, request: AdjustRequest) -> Adjusted | Refused:
    """Change an award. Refused below charged + held; raises Forbidden, Invalid, Unknown('allocation'), IdConflict."""
    caller.must(Power.ADMIN)
    reason = request.reason.strip()
    check_adjustment(request.delta, reason)
    at = services.clock.now()

    def work(tx: Transaction) -> Adjusted | Refused:
        allocation = tx.accounts.get(request.allocation_id)
        if allocation is None:
            raise Unknown("allocation", allocation_id=request.allocation_id)
        if tx.projects.role(allocation.project_id, caller.id) is not None:
            raise Forbidden("nobody changes the award of their own project", code="own_project")
        return tx.accounts.adjust(
            request.adjustment_id, request.allocation_id, request.delta, actor=caller.id, reason=reason, at=at
        )

    return await services.store.write(work)


def check_adjustment(delta: int, reason: str) -> None:
    """Raises Invalid: delta not 0 and in range, reason 3 to 500 characters."""
    wrong: list[tuple[str, str]] = []
    if delta == 0:
        wrong.append(("delta", "zero"))
    elif abs(delta) > AMOUNT_MAX // 4:
        wrong.append(("delta", "out_of_range"))
    wrong += check_reason(reason)
    if wrong:
        raise Invalid(wrong)


def check_reason(reason: str) -> list[tuple[str, str]]:
    """What is wrong with a reason, as fields of an Invalid."""
    return [] if 3 <= len(reason) <= 500 else [("reason", "length_3_500")]
