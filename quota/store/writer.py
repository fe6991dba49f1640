"""The ledger's writer: one thread and one connection that take what waits and commit it as one transaction.

Invariants: an answer is given after COMMIT only; a full queue refuses at once; an operation that the database rejects is found by
running its batch singly and hurts no other; where the reply to COMMIT was lost, the batch's own link says whether it counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from quota.domain.errors import Invalid, InvariantBroken, QuotaError, Unavailable
from quota.domain.ids import new_id
from quota.store import plan
from quota.store import statements as sql
from quota.store.database import Database
from quota.store.load import load
from quota.store.memory import Memory
from quota.store.operations import Operation
from quota.store.persist import Head, persist
from quota.store.refusals import RefusalWindow
from quota.store.wire import Interference, Wire, open_wire

log = logging.getLogger("quota.store.writer")
Outcome = plan.Answer | QuotaError
Ticket = asyncio.Future[plan.Answer]
Deliver = Callable[[Sequence[tuple[Ticket, Outcome]]], None]

_OUTAGES: Final = (sqlite3.OperationalError, psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)
# Values that no row can take: too large an integer, a NUL character, a broken surrogate.
_BAD_VALUES: Final = (psycopg.DataError, sqlite3.DataError, OverflowError, UnicodeError, sqlite3.InterfaceError)
_BROKEN: Final = (psycopg.IntegrityError, sqlite3.IntegrityError)
_ATTEMPTS: Final = 5


def _spread(failures: int) -> None:
    """Let writers that interfered with each other try again at different moments."""
    time.sleep(random.uniform(0, 0.002) * failures)  # noqa: S311  (spreads writers, guards nothing)


@dataclass(frozen=True, slots=True)
class Outside:
    """What a writer reaches for outside its own memory; the simulator brings a wire and a time of its own."""

    connect: Callable[[Database], Wire] = open_wire
    pause: Callable[[int], None] = _spread


class Writer:
    """Takes operations from any thread; `deliver` gets (ticket, outcome) pairs on the writer's thread, once a batch.

    `start` runs it in a thread; a writer that was only opened does its work where `step` is called.
    """

    def __init__(
        self,
        database: Database,
        deliver: Deliver,
        *,
        queue_max: int,
        batch_max: int,
        refusals: RefusalWindow,
        outside: Outside,
    ) -> None:
        self._database = database
        self._deliver = deliver
        self._queue_max = queue_max
        self._batch_max = batch_max
        self._refusals = refusals
        self._outside = outside
        self._waiting: deque[tuple[Operation, Ticket]] = deque()
        self._queue = threading.Lock()
        self._wake = threading.Condition(self._queue)
        self._idle = False
        self._open = False
        self._closing = False
        self._wire: Wire | None = None
        self._head: Head | None = None
        self._memory = Memory()
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self.threaded = False  # whether a thread of its own does the work; asking the thread costs more than queueing

    def start(self) -> None:
        """Start the thread; the connection is made with the first batch."""
        self._thread.start()
        self.threaded = True
        self.open()

    def open(self) -> None:
        """Take operations from now on."""
        self._open = True

    def close(self, timeout_s: float = 30) -> None:
        """Commit what waits, then end the thread. What is submitted afterwards is Unavailable."""
        with self._wake:
            self._open = False
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def submit(self, operation: Operation, ticket: Ticket) -> None:
        """Queue an operation. Raises Unavailable where the queue is full or the writer is closed."""
        for _, error in self.submit_all([(operation, ticket)]):
            raise error

    def submit_all(self, asked: Sequence[tuple[Operation, Ticket]]) -> Sequence[tuple[Ticket, Unavailable]]:
        """Queue operations in order, so that one batch takes them; those that were not taken, with the reason."""
        with self._queue:  # the lock itself: the condition's own door costs a Python call
            room = self._queue_max - len(self._waiting) if self._open else 0
            self._waiting.extend(asked[: max(room, 0)])
            if self._idle:
                self._wake.notify()
        if room >= len(asked):
            return ()
        reason = "the ledger's queue is full" if self._open else "the ledger is closed"
        return [(ticket, Unavailable(reason)) for _, ticket in asked[max(room, 0) :]]

    def step(self) -> bool:
        """Commit one batch of what waits and deliver its answers; False where nothing waits."""
        with self._wake:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch_max))]
        if not batch:
            return False
        outcomes = self._answers([operation for operation, _ in batch])
        self._deliver([(ticket, outcome) for (_, ticket), outcome in zip(batch, outcomes, strict=True)])
        return True

    def _run(self) -> None:
        while self._work_came():
            self.step()
        self._disconnect()

    def _work_came(self) -> bool:
        """Wait for work; False once the writer is closing and nothing is left to do."""
        with self._wake:
            while not self._waiting and not self._closing:
                self._idle = True
                self._wake.wait()
            self._idle = False
            return bool(self._waiting)

    def _answers(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        try:
            return self._committed(operations)
        except Unavailable as error:
            log.warning("%d ledger operations failed: %s", len(operations), error)
            return [Unavailable(str(error), retry_after_s=error.retry_after_s) for _ in operations]
        except Exception:  # the thread's edge: a bug must not leave callers waiting
            incident = new_id()
            log.exception("incident %s in a batch of %d", incident, len(operations))
            self._disconnect()
            return [InvariantBroken(f"incident {incident}") for _ in operations]

    def _committed(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Commit a batch, planning it again where another writer or a lost connection interfered. Raises Unavailable."""
        failures: list[Exception] = []
        while len(failures) < _ATTEMPTS:
            try:
                return self._transact(operations)
            except (Interference, *_BAD_VALUES, *_BROKEN) as error:
                if self._memory.serves:  # what was remembered may be behind: plan again on what is read
                    self._memory.doubt()
                    continue
                if not isinstance(error, Interference):
                    if len(operations) > 1:
                        return [outcome for operation in operations for outcome in self._answers([operation])]
                    if failures or not isinstance(error, _BROKEN):
                        return [_own_fault(error)]
                # A hold that changed after it was read can break a CHECK, too: plan it again first.
                failures.append(error)
                self._outside.pause(len(failures))
            except Unavailable:
                raise
            except _OUTAGES as error:
                if not _transient(error):
                    self._disconnect()
                    if failures:
                        raise Unavailable(f"the database does not answer: {type(error).__name__}") from error
                failures.append(error)
        raise Unavailable("other writers keep interfering") from failures[-1]

    def _transact(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        with self._database.turn if self._database.is_sqlite else nullcontext():
            wire, head = self._connected()
            try:
                wire.begin()
                ws = load(wire, operations, self._memory if self._memory.serves else None)
                ws.refusals = self._refusals
                epoch = head.epoch
                outcomes = [plan.run(ws, operation, epoch) for operation in operations]
                if ws.believed and _has_error(outcomes):
                    raise Interference("an error must not rest on what was only remembered")
                new_head = persist(wire, ws, head)
            except BaseException:
                self._undo(wire)
                raise
            try:
                wire.commit()
            except _OUTAGES as error:
                self._find_out(new_head, error)
            self._head = new_head
            self._refusals.add(ws.refused)
            self._memory.keep(ws.holds.values())
            return outcomes

    def _find_out(self, sent: Head, error: Exception) -> None:
        """The reply to COMMIT was lost: returns where the link of the batch is there, raises `error` where it is not."""
        self._disconnect()
        found = self._links(sent)
        counted = bool(found) and found[0][0] == sent.hash
        log.warning(
            "the reply to COMMIT was lost (%s); the batch %s", type(error).__name__, "counts" if counted else "does not"
        )
        if not counted:
            raise error

    def _links(self, sent: Head) -> list[Any]:
        """What the database has in the place of the link that was sent. Raises Unavailable where it does not say."""
        for attempt in range(1, _ATTEMPTS + 1):
            wire = self._outside.connect(self._database)
            try:
                return wire.select(sql.LINK_OF, [(sent.epoch, sent.n)])
            except _OUTAGES:
                self._outside.pause(attempt)
            finally:
                wire.close()
        raise Unavailable("whether the last batch counts is not known")

    def _connected(self) -> tuple[Wire, Head]:
        if self._wire is None or self._head is None:
            self._disconnect()
            wire = self._outside.connect(self._database)
            try:
                wire.begin()
                row = (f"{socket.gethostname()}:{os.getpid()}", time.time_ns() // 1000)
                epoch = int(wire.select(sql.OPEN_EPOCH, [row])[0][0])
                wire.commit()
            except BaseException:
                wire.close()
                raise
            self._wire, self._head = wire, Head(epoch, 0, "")
        return self._wire, self._head

    def _undo(self, wire: Wire) -> None:
        try:
            wire.rollback()
        except (*_OUTAGES, sqlite3.Error, psycopg.Error):
            self._disconnect()

    def _disconnect(self) -> None:
        wire, self._wire, self._head = self._wire, None, None
        self._memory.clear()
        if wire is not None:
            with suppress(sqlite3.Error, psycopg.Error):
                wire.close()


def _has_error(outcomes: Sequence[Outcome]) -> bool:
    return any(issubclass(kind, QuotaError) for kind in set(map(type, outcomes)))


def _transient(error: Exception) -> bool:
    """Whether the database only asks to try again: a deadlock or serialisation failure (SQLSTATE class 40)."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("40")


def _own_fault(error: Exception) -> QuotaError:
    if isinstance(error, _BROKEN):
        log.error("the database refused an operation: %s", error)
        return InvariantBroken("the database refused what the plan allowed")
    return Invalid([("body", "malformed")])
