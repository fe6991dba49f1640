"""What each project has left in tokens, as the gateway last saw it: to choose the paying allocation and the longest answer.

Invariant: this is an opinion, never a decision. It is read from the store at most once a second for each project and moved by what
this process holds and charges meanwhile; nothing is read before the ledger has what was charged until then, or the reading would lack
it. Whether a hold fits is decided by the ledger's conditional update alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from quota.domain.ids import AllocationId, HoldId, ProjectId
from quota.domain.project import Allocation, AllocationState
from quota.domain.units import Unit
from quota.service.ports import Store

BELIEVED_S: Final = 1.0
DOUBTED_S: Final = 0.2  # before a refusal nothing older counts
_KEPT_MAX: Final = 10_000
_BALANCE: Final = (
    b"x-commons-awarded-tokens: %d\r\nx-commons-charged-tokens: %d\r\n"
    b"x-commons-held-tokens: %d\r\nx-commons-available-tokens: %d\r\n"
)
_LIMIT: Final = b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\n"


class Coffer:
    """One allocation of tokens: as it was read, and what moved since."""

    __slots__ = ("allocation", "available", "awarded", "charged", "held")

    def __init__(self, allocation: Allocation) -> None:
        balance = allocation.balance
        self.allocation = allocation
        self.awarded, self.charged, self.held = balance.awarded, balance.charged, balance.held
        self.available = balance.available

    def active(self, at: datetime) -> bool:
        return self.allocation.state_at(at) is AllocationState.ACTIVE


class Purse:
    """A project's allocations of tokens. One a project is the rule, and the fast case."""

    def __init__(self, allocations: Sequence[Allocation], read_at_s: float) -> None:
        self._coffers = {one.id: Coffer(one) for one in allocations if one.unit is Unit.TOKENS}
        self._active: list[Coffer] | None = None
        self._paying: list[Coffer] = []
        self.read_at_s = read_at_s

    def _active_at(self, at: datetime) -> list[Coffer]:
        """Those that are active, and with them those that pay; asked once a reading, which is a second old at most where it matters."""
        if self._active is None:
            self._active = [one for one in self._coffers.values() if one.active(at)]
            self._paying = [one for one in self._active if not one.allocation.frozen]
        return self._active

    def payer(self, amount: int, at: datetime) -> Coffer | None:
        """The allocation to place a hold of `amount` on, as `quota.domain.project.payer` chooses it; None where none is active."""
        self._active_at(at)
        paying = self._paying
        if len(paying) < 2:
            return paying[0] if paying else None
        able = [one for one in paying if one.available >= amount]
        if able:
            return min(able, key=lambda one: (one.allocation.ends_at, one.allocation.id))
        return max(paying, key=lambda one: (one.available, one.allocation.id))

    def move(self, allocation_id: AllocationId, *, held: int = 0, charged: int = 0) -> None:
        """Take in what this process did since."""
        known = self._coffers.get(allocation_id)
        if known is not None:
            known.held += held
            known.charged += charged
            known.available -= held + charged

    def header_lines(self, at: datetime, *, as_limit: bool) -> bytes:
        """The balance for the client, over all active allocations; as its limit of tokens, too, where the key has none of its own."""
        awarded = charged = held = 0
        for one in self._active_at(at):
            awarded += one.awarded
            charged += one.charged
            held += one.held
        available = awarded - charged - held
        lines = _BALANCE % (awarded, charged, held, available)
        return lines + _LIMIT % (awarded, available) if as_limit else lines


class Purses:
    """The purses of the projects that asked lately; concurrent reads of one project are one."""

    def __init__(self, store: Store, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic_s = monotonic_s
        self._known: dict[ProjectId, Purse] = {}
        self._reading: dict[ProjectId, asyncio.Task[Purse]] = {}
        self._settling: dict[HoldId, asyncio.Future[None] | None] = {}  # in their order, with who waits for one
        self._charges = 0

    async def of(self, project: ProjectId, *, within_s: float = BELIEVED_S) -> Purse:
        """The project's purse, at most `within_s` old. Raises Unavailable."""
        known = self._known.get(project)
        if known is not None and self._monotonic_s() - known.read_at_s <= within_s:
            return known
        reading = self._reading.get(project)
        if reading is None:
            reading = asyncio.create_task(self._read(project))
            self._reading[project] = reading
            reading.add_done_callback(lambda _: self._reading.pop(project, None))
        return await asyncio.shield(reading)

    def known(self, project: ProjectId) -> Purse | None:
        """The last purse seen, however old."""
        return self._known.get(project)

    def settling(self, hold_id: HoldId) -> None:
        """A purse has taken in what is charged, and the store has not: nothing is read until it has."""
        self._settling[hold_id] = None
        self._charges += 1

    def settled(self, hold_id: HoldId) -> None:
        """The store has it, or will not have it soon."""
        waiter = self._settling.pop(hold_id, None)
        if waiter is not None:
            waiter.set_result(None)

    async def _all_settled(self) -> None:
        """Wait for all that is charged by now; the ledger takes them in their order."""
        if self._settling:
            last = next(reversed(self._settling))
            waiter = self._settling[last]
            if waiter is None:
                waiter = self._settling[last] = asyncio.get_running_loop().create_future()
            await asyncio.shield(waiter)

    async def _read(self, project: ProjectId) -> Purse:
        await self._all_settled()
        read_at_s, charges = self._monotonic_s(), self._charges
        allocations = await self._store.read(lambda tx: tuple(tx.accounts.of_project(project)))
        if self._charges != charges:  # what was charged meanwhile may be missing: nobody is refused by this reading
            read_at_s -= DOUBTED_S
        if len(self._known) >= _KEPT_MAX:
            self._known.clear()
        purse = self._known[project] = Purse(allocations, read_at_s)
        return purse
