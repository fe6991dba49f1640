"""One history: ledger processes, their clients and an administrator on one SQLite file, under a virtual clock, decided by a seed.

Two kinds. In a *locked* history each transaction has the database for itself; after each COMMIT that counted the reference model
takes the same operations, the rows must equal it, and each answer must be the model's. In a *stale* one other processes commit
between a transaction's reads and its writes, which production's locks prevent: answers may then be out of date, amounts may not.
Half of either on a wire that works on one batch while the next
is planned. At the end of all: faults stop, a reconciler closes what is open, nothing stays held, and `verify` finds nothing.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import random
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from quota.domain.errors import InvariantBroken, QuotaError, Unavailable
from quota.domain.hold import Charged, Hold, HoldState, LimitUse
from quota.domain.ids import HoldId
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.verify import verify
from quota.store.wire import Wire, open_wire
from quota.store.writer import Outside
from tests import ledgers
from tests.property import ledger_model as model
from tests.simulator.faults import Died, Faults, FaultyWire, Strike, Watch
from tests.simulator.loop import VirtualLoop
from tests.simulator.place import LIMIT, Place
from tests.simulator.process import Intent, Process
from tests.simulator.script import AWARDS, CAP, HOLDS, scripts

_TRIES = 60


class Violation(Exception):
    """A promise of the ledger was broken in this history."""


@dataclass(frozen=True)
class Told:
    """What a history leaves: its trace, what struck, and how many operations were answered."""

    trace: list[str]
    struck: dict[str, int]
    answered: int

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class History:
    """`run` it once."""

    def __init__(self, seed: int, place: Place) -> None:
        self.choice = random.Random(seed)
        self.stale = self.choice.random() < 0.3
        self.overlaps = self.choice.random() < 0.6
        self.pace_s = (
            self.choice.choice((0.2, 1.5)) if self.overlaps else 0.3
        )  # where it is slow, more waits than a batch takes
        self.batch_max = self.choice.choice((1, 2, 6))
        self.faults = Faults(self.choice, self.choice.choice((0.0, 0.004, 0.012, 0.03)), self.choice.randint(1, 6))
        self.loop = VirtualLoop(self.choice)
        self._place = place
        place.clear()
        self.model = model.Model(list(AWARDS), CAP)
        self.trace: list[str] = []
        self.answered = 0
        self.processes: list[Process] = []
        self.books = replace(place.books, database=place.database())
        self._look = sqlite3.connect(place.path)
        self._nested = 0
        self._broken: list[str] = []

    def run(self) -> Told:
        """Live the history. Raises Violation."""
        try:
            self.loop.run(self._main())
            if self._broken or self.loop.errors:
                raise Violation([*self._broken, *self.loop.errors][0])
        finally:
            for process in self.processes:
                process.vanish()
            self._look.close()
            self._place.close()
        return Told(self.trace, dict(self.faults.struck), self.answered)

    async def _main(self) -> None:
        for number in range(self.choice.randint(1, 3)):
            self.processes.append(self._process(f"p{number}"))
        work = [asyncio.ensure_future(self._client(f"c{n}", ops)) for n, ops in enumerate(scripts(self.choice))]
        work.append(asyncio.ensure_future(self._administrator()))
        running = [asyncio.ensure_future(self._keep_running(number)) for number in range(len(self.processes))]
        await asyncio.gather(*work)
        self.faults.left = 0
        await self._close_what_is_open()
        for task in running:
            task.cancel()
        for ended in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                self._fail(f"a process's loop ended: {ended!r}")
        self._check_the_end()

    async def _close_what_is_open(self) -> None:
        """What a reconciler does; what a client that is gone had sent may still arrive meanwhile."""
        for _ in range(_TRIES):
            await asyncio.sleep(1)
            left = sorted(self._open_holds())
            if not left and not any(process.queue or process.flights for process in self.processes):
                return
            await self._client("reconciler", [model.Settle(hold, None) for hold in left], lasting=True)

    # -- who acts -----------------------------------------------------------------------------------------------------------------

    async def _client(self, name: str, ops: list[model.Op], *, lasting: bool = False) -> None:
        """Send each operation until it is answered, through whichever process answers; some clients vanish on the way."""
        for op in ops:
            for _ in range(_TRIES):
                await asyncio.sleep(self.choice.random() * 0.4)
                if not lasting and self.choice.random() < 0.01:
                    self._say(f"{name} is gone")
                    return
                process = self.choice.choice(self.processes)
                call = asyncio.ensure_future(self._call(process, op))
                process.calls[call] = None
                if not lasting and self.choice.random() < 0.02:
                    self._say(f"{name} sends {op} and is gone")
                    return
                try:
                    intent, answer = await call
                except asyncio.CancelledError:
                    self._say(f"{name} lost {process.name} with {op}")
                    continue
                finally:
                    process.calls.pop(call, None)
                if isinstance(answer, Unavailable):
                    self._say(f"{name} {op}: unavailable")
                    continue
                self._answered(name, intent, answer)
                break
            else:
                self._fail(f"{name} got no answer to {op}")

    async def _call(self, process: Process, op: model.Op) -> tuple[Intent, object]:
        intent = Intent(op)
        process.queue.append(intent)
        try:
            return intent, await self._send(process.ledger, op)
        except QuotaError as error:
            if intent in process.queue:  # refused before it was queued
                process.queue.remove(intent)
            return intent, error

    async def _administrator(self) -> None:
        for _ in range(self.choice.choice((0, 0, 1, 2))):
            await asyncio.sleep(self.choice.random() * 3)
            self._administer()

    async def _keep_running(self, number: int) -> None:
        """The process's own loop: a batch now and then; killed and started again where the seed says so."""
        while True:  # ends by being cancelled
            await asyncio.sleep(self.choice.random() * self.pace_s)
            if self.faults.at("idle") is Strike.CRASH:
                self._crashed(self.processes[number])
            else:
                self._step(self.processes[number])

    # -- what happens -------------------------------------------------------------------------------------------------------------

    def _step(self, process: Process) -> None:
        """One batch is taken, and the one before ends; a process that has the lock goes on, as its thread would."""
        while True:  # ends with the queue at the latest
            try:
                process.ledger.writer.step()
            except Died:
                self._crashed(process)
                return
            if taken := process.taken:
                process.flights.append([process.queue.popleft() for _ in taken])
            while len(process.flights) > process.ledger.writer.flying:
                self._ended(process.flights.popleft())
            if not process.locks:
                return

    def _ended(self, batch: list[Intent]) -> None:
        for intent in batch:
            if intent.expected is None and not self.stale:
                # No COMMIT came through. Where the answer only reads, it stands all the same.
                would = copy.deepcopy(self.model)
                said = would.run(intent.op)
                intent.expected = said if vars(would) == vars(self.model) else None

    def _crashed(self, process: Process) -> None:
        self._say(f"{process.name} died")
        self.processes[self.processes.index(process)] = self._process(process.name)
        process.vanish()

    def _committed(self, process: Process, wrote: bool) -> None:
        batch = process.flights[0] if process.flights else process.taken
        self._say(f"{process.name} committed {len(batch)}")
        if self.stale:
            return
        for intent in batch:
            if intent.wrote:
                self._fail(f"{intent.op} counted twice in one process")
            intent.expected, intent.wrote = self.model.run(intent.op), wrote
        self._compare()

    def _answered(self, name: str, intent: Intent, answer: object) -> None:
        seen = model.of(answer)
        self.answered += 1
        self._say(f"{name} {intent.op}: {seen}")
        if self.stale:
            self._plausible(intent.op, answer)
        elif intent.expected is None:
            self._fail(f"{intent.op} was answered with {seen} before it was committed")
        elif seen != intent.expected:
            self._fail(f"{intent.op} was answered with {seen}, the model says {intent.expected}")

    def _before_writing(self, process: Process) -> None:
        """In a stale history somebody else is faster, now and then."""
        if self._nested or self.choice.random() < 0.4:
            return
        self._nested += 1
        try:
            others = [one for one in self.processes if one is not process]
            if others and self.choice.random() < 0.8:
                self._step(self.choice.choice(others))
            else:
                self._administer()
        finally:
            self._nested -= 1

    def _administer(self) -> None:
        """One change through the store's own transactions, beside the ledger's writers."""
        choice, number = self.choice, self.choice.randrange(3)
        database, person = self.books.database, self.books.person.id
        kind, at, hold = (
            choice.choice(("freeze", "adjust", "reverse", "refund")),
            choice.randrange(2),
            choice.choice(HOLDS),
        )
        if kind == "freeze":
            self._freeze()
        elif kind == "adjust":
            key, delta = f"adjust-{number}", choice.choice((-70, -20, 15))
            self._administered(
                f"{key} {at} {delta}",
                lambda: ledgers.adjust(database, person, key, self.books.accounts[at], delta),
                lambda: self.model.adjust(key, at, delta),
            )
        elif kind == "reverse":
            ids = f"reverse-{number}", f"adjust-{choice.randrange(3)}"
            self._administered(
                " ".join(ids), lambda: ledgers.reverse(database, person, *ids), lambda: self.model.reverse(*ids)
            )
        else:
            what = f"refund-{number}", hold, choice.choice((1, 5, 20))
            self._administered(
                f"{what}", lambda: ledgers.refund(database, person, *what), lambda: self.model.refund(*what)
            )

    def _administered(self, title: str, work: Callable[[], object], modelled: Callable[[], model.Seen]) -> None:
        try:
            answer = work()
        except QuotaError as error:
            answer = error
        self._say(f"admin {title}: {model.of(answer)}")
        if not self.stale and model.of(answer) != (expected := modelled()):
            self._fail(f"{title} was answered with {model.of(answer)}, the model says {expected}")

    def _freeze(self) -> None:
        at, frozen = self.choice.randrange(2), self.choice.random() < 0.5
        ledgers.freeze(self.books.database, self.books.accounts[at], frozen=frozen)
        self.model.accounts[at].frozen = frozen
        self._say(f"admin freezes {at}: {frozen}")

    # -- what must hold -------------------------------------------------------------------------------------------------------------

    def _compare(self) -> None:
        accounts = self._look.execute(_ACCOUNTS).fetchall()
        holds = self._look.execute(_HOLDS).fetchall()
        limit = self._look.execute(_LIMIT).fetchone()
        said = [(one.awarded, one.charged, one.held) for one in self.model.accounts]
        if accounts != said:
            self._fail(f"the accounts are {accounts}, the model says {said}")
        if limit != (self.model.limit_charged, self.model.limit_held):
            self._fail(f"the limit is {limit}")
        known = {key: (one.state, one.amount, one.charged, one.refusal) for key, one in self.model.holds.items()}
        if {row[0]: row[1:] for row in holds} != known:
            self._fail(f"the holds are {holds}, the model says {known}")

    def _plausible(self, op: model.Op, answer: object) -> None:
        """An answer that may be out of date still says what is stored: charges only grow, an end stays."""
        if isinstance(answer, InvariantBroken) and "overlaps" not in str(answer):
            self._fail(f"{op} met a broken invariant: {answer}")
        if not isinstance(answer, Hold | Charged):
            return
        said = answer.hold if isinstance(answer, Charged) else answer
        row = self._look.execute(_HOLD, (op.hold,)).fetchone()
        if row is None or row[2] < said.charged:
            self._fail(f"{op} was answered with {said}, stored is {row}")
        elif said.state is not HoldState.HELD and row[0] != said.state:
            self._fail(f"{op} was answered as {said.state}, stored is {row}")

    def _check_the_end(self) -> None:
        found = verify(self.books.database)
        if found:
            self._fail(f"verify: {found[0]}")
        (held,) = self._look.execute("SELECT sum(held) FROM account WHERE kind = 'allocation'").fetchone()
        if held:
            self._fail(f"{held} stay held once faults have stopped")
        if not self.stale:
            self._compare()

    def _open_holds(self) -> list[str]:
        return [str(row[0]) for row in self._look.execute("SELECT id FROM hold WHERE state = 'held'")]

    def _fail(self, why: str) -> None:
        self._say(f"VIOLATION {why}")
        self._broken.append(why)

    # -- means ------------------------------------------------------------------------------------------------------------------------

    def _process(self, name: str) -> Process:
        database = self._place.database()
        watch = Watch(
            point=self.faults.at,
            before_writing=lambda: self._before_writing(process),
            committed=lambda wrote: self._committed(process, wrote),
        )

        def connect(opened: Database) -> Wire:
            strike = self.faults.at("connect")
            if strike is Strike.CRASH:
                raise Died
            if strike is Strike.CUT:
                raise Unavailable("nobody answers")
            process.wires.append(FaultyWire(open_wire(opened), watch, stale=self.stale, overlaps=self.overlaps))
            return process.wires[-1]

        doubted = self.choice.choice((1, 3, 50))
        outside = Outside(connect=connect, pause=lambda failures: None, doubted_batches=doubted, beside=1)
        ledger = LedgerStore(database, batch_max=self.batch_max, queue_max=self.choice.choice((2, 50)), outside=outside)
        process = Process(name, ledger, database)
        ledger.writer.open()
        return process

    def _send(self, ledger: LedgerStore, op: model.Op) -> Coroutine[Any, Any, object]:
        at = ledgers.NOW + timedelta(seconds=self.loop.time())
        match op:
            case model.Place():
                limits = (LimitUse(LIMIT, op.amount),) if op.limited else ()
                return ledger.place_hold(
                    self.books.order(op.amount, hold_id=op.hold, account=op.account, limits=limits)
                )
            case model.TopUp():
                return ledger.top_up(HoldId(op.hold), op.line, op.amount, at, at + timedelta(hours=1))
            case model.Withdraw():
                return ledger.withdraw(HoldId(op.hold), op.line, at)
            case model.Charge():
                return ledger.charge(ledgers.usage(op.hold, op.event, op.amount, minute=op.minute))
            case model.Settle(usage=None):
                return ledger.settle(HoldId(op.hold), at)
            case model.Settle(usage=used):
                assert used is not None
                measured = ledgers.usage(used.hold, used.event, used.amount, minute=used.minute)
                return ledger.settle(HoldId(op.hold), at, measured)
            case model.Close():
                close = ledger.release if op.to is HoldState.RELEASED else ledger.expire
                return close(HoldId(op.hold), at, "test")

    def _say(self, line: str) -> None:
        self.trace.append(f"{self.loop.time():.3f} {line}")


_ACCOUNTS = "SELECT awarded, charged, held FROM account WHERE kind = 'allocation' ORDER BY id"
_HOLDS = "SELECT id, state, amount, charged, refusal_code FROM hold"
_HOLD = "SELECT state, amount, charged FROM hold WHERE id = ?"
_LIMIT = "SELECT charged, held FROM limit_counter"
