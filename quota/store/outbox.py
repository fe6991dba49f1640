"""What an event loop asks of the ledger's writer, handed over in one go: a batch then holds all that came together.

It waits for no time. While a turn of the loop brings more, the next turn's are taken along, a few times at most: a batch costs half a
millisecond besides what its operations cost. What came alone goes with the next turn, some microseconds later.

Invariant: order is kept, and what was asked for reaches the writer whatever becomes of whoever asked; a refusal of the writer's is the
answer. A writer without a thread (the simulator's) gets each operation at once.
"""

from __future__ import annotations

import asyncio
from typing import Final

from quota.domain.errors import Unavailable
from quota.store.operations import Operation
from quota.store.writer import Ticket, Writer

TURNS_MAX: Final = 12  # of the loop, each of which brought more


class Outbox:
    """Of one writer; used from event loops, flushed from any thread."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._waiting: dict[asyncio.AbstractEventLoop, list[tuple[Operation, Ticket]]] = {}

    def put(self, operation: Operation) -> Ticket:
        """Ask for an operation; its answer comes with the ticket. A writer without a thread raises Unavailable at once."""
        loop = asyncio.get_running_loop()
        ticket: Ticket = loop.create_future()
        if not self._writer.threaded:
            self._writer.submit(operation, ticket)
            return ticket
        waiting = self._waiting.get(loop)
        if waiting is None:
            waiting = self._waiting[loop] = []
            loop.call_soon(self._look, loop, 0, TURNS_MAX)
        waiting.append((operation, ticket))
        return ticket

    def flush(self) -> None:
        """Hand over what waits, before the writer closes."""
        for loop in list(self._waiting):
            self._hand_over(loop)

    def _look(self, loop: asyncio.AbstractEventLoop, known: int, turns_left: int) -> None:
        """At the end of a turn: hand over, or let the next turn add to what this one brought."""
        count = len(self._waiting.get(loop, ()))
        if count > known and turns_left:
            loop.call_soon(self._look, loop, count, turns_left - 1)
        else:
            self._hand_over(loop)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        for ticket, error in self._writer.submit_all(self._waiting.pop(loop, ())):
            loop.call_soon_threadsafe(_refuse, ticket, error)


def _refuse(ticket: Ticket, error: Unavailable) -> None:
    if not ticket.done():
        ticket.set_exception(error)
