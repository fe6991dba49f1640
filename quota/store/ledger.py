"""The ledger's asynchronous door: `LedgerStore` implements `quota.service.ledger_ports.Ledger` over one writer thread.

Invariant: every write goes through the writer's group commit and is answered after COMMIT; reads see what is committed.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Final, TypeVar

from sqlalchemy import Connection, select, text

from quota.domain.errors import QuotaError, Refused
from quota.domain.fence import Fence
from quota.domain.hold import Charged, Hold, HoldKind, HoldOrder, HoldState, Usage
from quota.domain.ids import HoldId
from quota.store import operations as ops
from quota.store.database import Database
from quota.store.instants import to_us
from quota.store.outbox import Outbox
from quota.store.refusals import RefusalWindow
from quota.store.tables import hold as hold_table
from quota.store.working_set import HOLD_COLUMNS, HoldRow, hold_from
from quota.store.writer import Outcome, Outside, Ticket, Writer

T = TypeVar("T")
QUEUE_MAX: Final = 10_000
BATCH_MAX: Final = 1_000
CHARGES_AT_ONCE: Final = 2_000  # of `charge_many` in the queue: one batch is written while the next waits
_READERS: Final = 4
_HOLDS: Final = select(*(hold_table.c[name] for name in HOLD_COLUMNS))


class LedgerStore:
    """`quota.service.ledger_ports.Ledger` on a migrated database. Call `start` (or enter it) before use and `close` after."""

    def __init__(
        self,
        database: Database,
        *,
        queue_max: int = QUEUE_MAX,
        batch_max: int = BATCH_MAX,
        refusals: RefusalWindow | None = None,
        outside: Outside | None = None,
    ) -> None:
        self._database = database
        self._fence: Fence | None = None
        self.writer = Writer(
            database,
            _deliver,
            queue_max=queue_max,
            batch_max=batch_max,
            refusals=refusals or RefusalWindow(),
            outside=outside or Outside(),
        )
        self._outbox = Outbox(self.writer)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="ledger-reader")

    def start(self) -> None:
        """Start the writer thread."""
        self.writer.start()

    def close(self) -> None:
        """Commit what waits and stop; blocks until it is done. Where a loop goes on meanwhile, leave the `async with` instead."""
        self._outbox.flush()
        self._stop()

    def _stop(self) -> None:
        self.writer.close()
        self._readers.shutdown()

    async def __aenter__(self) -> LedgerStore:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbox.flush()  # on the loop, where no `put` comes between; what is asked for from now on may be refused
        await asyncio.to_thread(self._stop)

    def fenced(self, fence: Fence) -> LedgerStore:
        """The same writer; what is asked for here counts only while `fence` is in force."""
        other = copy.copy(self)
        other._fence = fence
        return other

    async def place_hold(self, order: HoldOrder) -> Hold:
        """Set `order.amount` aside; a refusal is a Hold in state REFUSED."""
        answer = await self._send(ops.place_hold(order))
        assert isinstance(answer, Hold)
        return answer

    async def top_up(
        self, hold_id: HoldId, line_id: str, amount: int, at: datetime, lease_until: datetime
    ) -> Hold | Refused:
        """Add a line to an open hold."""
        operation = ops.top_up(hold_id, line_id, amount, to_us(at), to_us(lease_until))
        answer = await self._send(operation)
        assert isinstance(answer, Hold | Refused)
        return answer

    async def withdraw(self, hold_id: HoldId, line_id: str, at: datetime) -> Hold:
        """Give back what a top-up set aside and nothing was charged to."""
        return await self._submit(ops.Withdraw(hold_id, line_id, to_us(at)), Hold)

    async def charge_many(self, usages: Sequence[Usage]) -> Sequence[Charged | QuotaError]:
        """As `charge` for each; every usage has its own answer. They share commits and leave room in the queue for others."""
        answers: list[Charged | QuotaError] = []
        for first in range(0, len(usages), CHARGES_AT_ONCE):
            tickets = [self._try(usage) for usage in usages[first : first + CHARGES_AT_ONCE]]
            for ticket in tickets:
                try:
                    answer = ticket if isinstance(ticket, QuotaError) else await ticket
                except QuotaError as error:
                    answer = error
                assert isinstance(answer, Charged | QuotaError)
                answers.append(answer)
        return answers

    def _try(self, usage: Usage) -> Ticket | QuotaError:
        try:
            return self._send(ops.charge(usage))
        except QuotaError as error:
            return error

    async def charge(self, usage: Usage) -> Charged:
        """Record usage and move its amount from held to charged."""
        return await self._submit(ops.charge(usage), Charged)

    async def settle(self, hold_id: HoldId, at: datetime, usage: Usage | None = None, *, hurry: bool = True) -> Hold:
        """Charge `usage` if given, then close the hold; both in one transaction."""
        answer = await self._send(ops.settle(hold_id, at, usage), hurry=hurry)
        assert isinstance(answer, Hold)
        return answer

    async def release(self, hold_id: HoldId, at: datetime, reason: str) -> Hold:
        """Close a hold that was never used."""
        return await self._submit(ops.Close(hold_id, to_us(at), HoldState.RELEASED, reason), Hold)

    async def expire(self, hold_id: HoldId, at: datetime, reason: str) -> Hold:
        """As `release`, for a lease that ran out: the hold ends EXPIRED."""
        return await self._submit(ops.Close(hold_id, to_us(at), HoldState.EXPIRED, reason), Hold)

    async def extend_lease(self, hold_id: HoldId, lease_until: datetime) -> Hold:
        """Move the lease of an open hold later; a closed one stays as it is."""
        return await self._submit(ops.ExtendLease(hold_id, to_us(lease_until)), Hold)

    async def hold(self, hold_id: HoldId) -> Hold | None:
        """The hold as committed, or None."""

        def work(connection: Connection) -> Hold | None:
            row = connection.execute(_HOLDS.where(hold_table.c.id == hold_id)).first()
            return None if row is None else hold_from(HoldRow(*row))

        return await self._read(work)

    async def open_holds(self, kind: HoldKind) -> Sequence[Hold]:
        """All holds in state HELD, oldest first."""
        # The state is written into the SQL: the partial index serves only what the planner can see.
        query = _HOLDS.where(hold_table.c.kind == kind.value, text("hold.state = 'held'"))
        ordered = query.order_by(hold_table.c.placed_us, hold_table.c.id)
        return await self._read(lambda connection: [hold_from(HoldRow(*row)) for row in connection.execute(ordered)])

    async def _submit(self, operation: ops.Plain, kind: type[T]) -> T:
        answer = await self._send(operation)
        assert isinstance(answer, kind)
        return answer

    def _send(self, operation: ops.Plain, *, hurry: bool = True) -> Ticket:
        return self._outbox.put(operation if self._fence is None else ops.Fenced(operation, self._fence), hurry=hurry)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._database.reading() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)


def _deliver(pairs: Sequence[tuple[Ticket, Outcome]]) -> None:
    """Resolve the futures on their own loops: one wake-up a loop, whatever the batch's size."""
    loops = {ticket.get_loop() for ticket, _ in pairs}
    for loop in loops:
        some = pairs if len(loops) == 1 else [pair for pair in pairs if pair[0].get_loop() is loop]
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, some)


def _resolve(pairs: Sequence[tuple[Ticket, Outcome]]) -> None:
    for ticket, outcome in pairs:
        if ticket.done():
            continue
        if isinstance(outcome, QuotaError):
            ticket.set_exception(outcome)
        else:
            ticket.set_result(outcome)
