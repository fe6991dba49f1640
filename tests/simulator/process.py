"""A ledger process in a history, and the operations that are on their way through it."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from quota.store.database import Database
from quota.store.ledger import LedgerStore
from tests.property import ledger_model as model
from tests.simulator.faults import FaultyWire


@dataclass(eq=False)
class Intent:
    """One operation on its way through one process; `expected` is the model's answer, once it counted (`wrote`: with its batch's rows)."""

    op: model.Op
    expected: model.Seen | None = None
    wrote: bool = False


@dataclass(eq=False)
class Process:
    """One ledger process; after a crash the next one takes its name."""

    name: str
    ledger: LedgerStore
    database: Database
    queue: deque[Intent] = field(default_factory=deque)
    flights: deque[list[Intent]] = field(default_factory=deque)  # batches that were taken and not answered, at most two
    calls: dict[asyncio.Task[Any], None] = field(default_factory=dict)  # in their order, which a set would not keep
    wires: list[FaultyWire] = field(default_factory=list)

    @property
    def taken(self) -> list[Intent]:
        """What the writer has taken of the queue in this step."""
        return list(self.queue)[: len(self.queue) - self.ledger.writer.waiting]

    @property
    def locks(self) -> bool:
        """Whether nobody else can write until this process goes on."""
        return any(wire.locked for wire in self.wires)

    def vanish(self) -> None:
        """Leave the database what a killed process leaves it."""
        for wire in self.wires:
            wire.close()
        for call in self.calls:
            call.cancel()
