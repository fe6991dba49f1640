"""What an event loop asks of the ledger's writer, handed over in one go: a batch then holds all that came together.

While a turn of the loop brings more, the next turn's are taken along, a few times at most: a batch costs half a millisecond besides
what its operations cost. What came alone goes with the next turn, some microseconds later. What is in no hurry begins no batch by
itself: it goes with what is asked for next, `LINGER_S` later at the latest.

Invariant: order is kept, and what was asked for reaches the writer whatever becomes of whoever asked; a refusal of the writer's is the
answer. A writer without a thread (the simulator's) gets each operation at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from quota.domain.errors import Unavailable
from quota.store.operations import Operation
from quota.store.writer import Ticket, Writer

TURNS_MAX: Final = 12  # of the loop, each of which brought more
LINGER_S: Final = 0.003


@dataclass(slots=True, eq=False)
class _Bundle:
    """What one loop asked for since the last hand-over, in its order."""

    asked: list[tuple[Operation, Ticket]] = field(default_factory=list)
    hurries: bool = False  # the end of this turn is looked at
    timer: asyncio.TimerHandle | None = None  # ends the lingering


class Outbox:
    """Of one writer; used from event loops, and flushed where none of them runs meanwhile."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._waiting: dict[asyncio.AbstractEventLoop, _Bundle] = {}

    def put(self, operation: Operation, *, hurry: bool = True) -> Ticket:
        """Ask for an operation; its answer comes with the ticket. A writer without a thread raises Unavailable at once."""
        loop = asyncio.get_running_loop()
        ticket: Ticket = loop.create_future()
        if not self._writer.threaded:
            self._writer.submit(operation, ticket)
            return ticket
        bundle = self._waiting.get(loop)
        if bundle is None:
            bundle = self._waiting[loop] = _Bundle()
        bundle.asked.append((operation, ticket))
        if hurry and not bundle.hurries:
            bundle.hurries = True
            loop.call_soon(self._look, loop, bundle, 0, TURNS_MAX)
        elif not bundle.hurries and bundle.timer is None:
            bundle.timer = loop.call_later(LINGER_S, self._hand_over, loop, bundle)
        return ticket

    def flush(self) -> None:
        """Hand over what waits, before the writer closes."""
        for loop, bundle in list(self._waiting.items()):
            self._hand_over(loop, bundle)

    def _look(self, loop: asyncio.AbstractEventLoop, bundle: _Bundle, known: int, turns_left: int) -> None:
        """At the end of a turn: hand over, or let the next turn add to what this one brought."""
        count = len(bundle.asked)
        if count > known and turns_left:
            loop.call_soon(self._look, loop, bundle, count, turns_left - 1)
            return
        if bundle.timer is not None:
            bundle.timer.cancel()
        self._hand_over(loop, bundle)

    def _hand_over(self, loop: asyncio.AbstractEventLoop, bundle: _Bundle) -> None:
        if self._waiting.get(loop) is not bundle:  # its timer or a flush was before
            return
        del self._waiting[loop]
        for ticket, error in self._writer.submit_all(bundle.asked):
            loop.call_soon_threadsafe(_refuse, ticket, error)


def _refuse(ticket: Ticket, error: Unavailable) -> None:
    if not ticket.done():
        ticket.set_exception(error)
