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
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from quota.domain.errors import InvariantBroken, QuotaError, Unavailable
from quota.domain.ids import new_id
from quota.store import plan
from quota.store import statements as sql
from quota.store.bell import Bell
from quota.store.database import Database
from quota.store.database_errors import BAD_VALUES, BROKEN, OUTAGES, own_fault, transient
from quota.store.load import load
from quota.store.memory import DOUBTED_BATCHES, Memory
from quota.store.operations import Operation
from quota.store.persist import Head, persist
from quota.store.refusals import RefusalWindow
from quota.store.wire import Interference, Wire, open_wire

log = logging.getLogger("quota.store.writer")
Outcome = plan.Answer | QuotaError
Ticket = asyncio.Future[plan.Answer]
Deliver = Callable[[Sequence[tuple[Ticket, Outcome]]], None]

_ATTEMPTS: Final = 5
# Make a batch of their own, planned while another one is with the database; fewer would not pay for its COMMIT.
BESIDE: Final = 64


def _spread(failures: int) -> None:
    """Let writers that interfered with each other try again at different moments."""
    time.sleep(random.uniform(0, 0.002) * failures)  # noqa: S311  (spreads writers, guards nothing)


@dataclass(frozen=True, slots=True)
class Outside:
    """What a writer reaches for outside itself, and its patience; the simulator brings a wire, a time and measures of its own."""

    connect: Callable[[Database], Wire] = open_wire
    pause: Callable[[int], None] = _spread
    doubted_batches: int = DOUBTED_BATCHES
    beside: int = BESIDE


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a batch will have done once it is committed."""

    outcomes: Sequence[Outcome]
    head: Head
    refused: Counter[str]


@dataclass(slots=True)
class _Flight:
    """A batch that was taken; `sent` while its changes are with the database, or the `error` on the way there."""

    asked: Sequence[tuple[Operation, Ticket]]
    sent: _Sent | None = None
    error: Exception | None = None


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
        self._memory = Memory(doubted_batches=outside.doubted_batches)
        self._flight: _Flight | None = None  # the batch that is with the database
        self._ahead: _Sent | None = None  # the next one, as long as it goes with the COMMIT of that
        self._bell: Bell | None = None  # of the thread
        self._listening = False  # whether the thread wants to hear of `beside` that wait
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self.threaded = False  # whether a thread of its own does the work; asking the thread costs more than queueing

    def start(self) -> None:
        """Start the thread; the connection is made with the first batch."""
        self._bell = Bell()
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
        if self._bell is not None and not self._thread.is_alive():
            self._bell.close()
            self._bell = None

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
            elif self._listening and self._bell is not None and len(self._waiting) >= self._outside.beside:
                self._listening = False
                self._bell.ring()
        if room >= len(asked):
            return ()
        reason = "the ledger's queue is full" if self._open else "the ledger is closed"
        return [(ticket, Unavailable(reason)) for _, ticket in asked[max(room, 0) :]]

    @property
    def waiting(self) -> int:
        """How many operations no batch has taken yet."""
        return len(self._waiting)

    @property
    def flying(self) -> bool:
        """Whether a batch is on its way that the next step ends."""
        return self._flight is not None

    def step(self) -> bool:
        """Bring one batch of what waits on its way and end the one that was; False where there is neither.

        A step ends one batch at most: what is with the database is ended by the next one, so that the database works meanwhile.
        """
        asked, flight = self._taken(), self._flight
        self._ahead = self._planned_behind(flight, asked)
        if flight is not None:
            self._end(flight)
        departed = self._departed(asked) if asked else None
        if flight is None and departed is not None and departed.sent is None:  # no wire yet, or one without overlap
            self._end(departed)
            departed = None
        self._flight = departed
        return bool(asked) or flight is not None

    def _run(self) -> None:
        while self._work_came():
            self.step()
        self._disconnect()

    def _work_came(self) -> bool:
        """Wait for work; False once the writer is closing and nothing is left to do."""
        if self._flight is not None:
            self._linger(self._flight)
            return True
        with self._wake:
            while not self._waiting and not self._closing:
                self._idle = True
                self._wake.wait()
            self._idle = False
            return bool(self._waiting)

    def _linger(self, flight: _Flight) -> None:
        """While the database works: until it has answered, or until enough waits to plan it meanwhile."""
        if flight.sent is None or self._wire is None or self._bell is None:
            return
        with self._queue:
            self._listening = len(self._waiting) < self._outside.beside
        if self._listening:
            self._wire.ready(self._bell.number)
            self._listening = False
            self._bell.hush()

    def _taken(self) -> list[tuple[Operation, Ticket]]:
        """The next batch: what waits; half of all there is, where that makes two of which one is planned while the database has the other.

        Fewer wait for the COMMIT before them, which comes the sooner, and for who joins them meanwhile: one COMMIT serves them all.
        """
        with self._queue:
            count, beside = len(self._waiting), self._outside.beside
            there = count if self._flight is None else count + len(self._flight.asked)
            overlaps = self._memory.serves_accounts and self._wire is not None and self._wire.overlaps
            if self._flight is not None and not (overlaps and count >= beside and there >= 2 * beside):
                return []
            if overlaps and there >= 2 * beside:
                count = min(count, (there + 1) // 2)
            return [self._waiting.popleft() for _ in range(min(count, self._batch_max))]

    def _planned_behind(self, flight: _Flight | None, asked: Sequence[tuple[Operation, Ticket]]) -> _Sent | None:
        """A batch planned on what the one in flight leaves; None where that takes more than memory: it is planned after that one."""
        if flight is None or flight.sent is None or self._wire is None or not (asked and self._memory.serves_accounts):
            return None
        try:
            self._wire.begin()
            return self._plan(self._wire, [operation for operation, _ in asked], flight.sent.head, flight.sent.refused)
        except Exception:  # whatever it is, it is met again there, and said to those whom it concerns
            self._wire.forget()
            return None

    def _departed(self, asked: Sequence[tuple[Operation, Ticket]]) -> _Flight:
        """A batch on its way, where the wire lets it fly; what goes wrong on the way is met where the batch ends."""
        flight, self._ahead = _Flight(asked, self._ahead), None
        if flight.sent is None and self._wire is not None and self._wire.overlaps:
            try:
                flight.sent = self._send([operation for operation, _ in asked])
            except Exception as error:
                flight.error = error
        return flight

    def _end(self, flight: _Flight) -> None:
        outcomes = self._answers(flight)
        self._deliver([(ticket, outcome) for (_, ticket), outcome in zip(flight.asked, outcomes, strict=True)])

    def _answers(self, flight: _Flight) -> Sequence[Outcome]:
        try:
            return self._committed(flight)
        except Unavailable as error:
            log.warning("%d ledger operations failed: %s", len(flight.asked), error)
            return [Unavailable(str(error), retry_after_s=error.retry_after_s) for _ in flight.asked]
        except Exception:  # the thread's edge: a bug must not leave callers waiting
            incident = new_id()
            log.exception("incident %s in a batch of %d", incident, len(flight.asked))
            self._disconnect()
            return [InvariantBroken(f"incident {incident}") for _ in flight.asked]

    def _committed(self, flight: _Flight) -> Sequence[Outcome]:
        """Commit a batch, planning it again where another writer or a lost connection interfered. Raises Unavailable."""
        failures: list[Exception] = []
        while len(failures) < _ATTEMPTS:
            try:
                return self._transact(flight)
            except (Interference, *BAD_VALUES, *BROKEN) as error:
                if self._memory.serves:  # what was remembered may be behind: plan again on what is read
                    of_accounts = self._memory.serves_accounts and error.args == (sql.MOVE_ACCOUNTS.sql,)
                    (self._memory.doubt_accounts if of_accounts else self._memory.doubt)()
                    continue
                if not isinstance(error, Interference):
                    if len(flight.asked) > 1:
                        return [outcome for one in flight.asked for outcome in self._answers(_Flight([one]))]
                    if failures or not isinstance(error, BROKEN):
                        return [own_fault(error)]
                # A hold that changed after it was read can break a CHECK, too: plan it again first.
                failures.append(error)
                self._outside.pause(len(failures))
            except Unavailable:
                raise
            except OUTAGES as error:
                if not transient(error):
                    self._disconnect()
                    if failures:
                        raise Unavailable(f"the database does not answer: {type(error).__name__}") from error
                failures.append(error)
        raise Unavailable("other writers keep interfering") from failures[-1]

    def _transact(self, flight: _Flight) -> Sequence[Outcome]:
        """Commit what is in flight, or plan it and commit it; the first attempt may have begun already."""
        sent, error = flight.sent, flight.error
        flight.sent = flight.error = None
        if error is not None:
            raise error
        with self._database.turn if self._database.is_sqlite else nullcontext():
            return self._commit(sent or self._send([operation for operation, _ in flight.asked]))

    def _send(self, operations: Sequence[Operation]) -> _Sent:
        wire, head = self._connected()
        try:
            wire.begin()
            return self._plan(wire, operations, head, {})
        except BaseException:
            self._undo(wire)
            raise

    def _plan(
        self, wire: Wire, operations: Sequence[Operation], head: Head, refused_before: Mapping[str, int]
    ) -> _Sent:
        ws = load(wire, operations, self._memory if self._memory.serves else None)
        ws.refusals, ws.refused_before = self._refusals, refused_before
        epoch = head.epoch
        outcomes = [plan.run(ws, operation, epoch) for operation in operations]
        if ws.remembers and _has_error(outcomes):
            raise Interference("an error must not rest on what was only remembered")
        new_head = persist(wire, ws, head)
        wire.send()
        self._memory.keep(ws)
        return _Sent(outcomes, new_head, ws.refused)

    def _commit(self, sent: _Sent) -> Sequence[Outcome]:
        wire, _ = self._connected()
        try:
            wire.confirm()
        except BaseException:
            self._undo(wire)
            raise
        try:
            wire.commit()
        except OUTAGES as error:
            self._find_out(sent.head, error)
        self._head = sent.head
        self._refusals.add(sent.refused)
        self._memory.committed()
        return sent.outcomes

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
            except OUTAGES:
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
        """Nothing that was sent counts, nor what was planned behind it."""
        self._ahead = None
        self._memory.clear()
        try:
            wire.rollback()
        except (*OUTAGES, sqlite3.Error, psycopg.Error):
            self._disconnect()

    def _disconnect(self) -> None:
        wire, self._wire, self._head, self._ahead = self._wire, None, None, None
        self._memory.clear()
        if wire is not None:
            with suppress(sqlite3.Error, psycopg.Error):
                wire.close()


def _has_error(outcomes: Sequence[Outcome]) -> bool:
    return any(issubclass(kind, QuotaError) for kind in set(map(type, outcomes)))
