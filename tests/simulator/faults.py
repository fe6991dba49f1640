"""Where a history goes wrong: each call of a ledger process on its wire is a point at which the seed may strike, before and after.

A wire that was struck is gone, as a connection is; a process that died runs no further line.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from quota.store.wire import InFlight, Insert, Row, Statement, Wire

T = TypeVar("T")
Change = Callable[[], None]


class Died(BaseException):
    """The process ends here: no handler of its own runs usefully after it."""


class Strike(StrEnum):
    CRASH = "crash"  # the process dies
    CUT = "cut"  # the connection is gone; after a COMMIT this is the lost reply


@dataclass
class Faults:
    """How often the points of one history strike. `left` bounds them, so that each history gets somewhere."""

    choice: random.Random
    rate: float
    left: int
    struck: Counter[str] = field(default_factory=Counter)

    def at(self, point: str) -> Strike | None:
        """What happens at this point."""
        # The draw comes first: whether faults are left must not shift the rest of the history's chances.
        draw, strike = self.choice.random(), self.choice.choice((Strike.CRASH, Strike.CUT))
        rate = self.rate * (20 if "with the next" in point else 6 if point.startswith("commit") else 1)
        if self.left <= 0 or draw >= rate:
            return None
        self.left -= 1
        self.struck[f"{strike.value} {point}"] += 1
        return strike


@dataclass
class Watch:
    """What the history wants to hear of a wire: each point, an interruption before the first write, and each COMMIT that counted."""

    point: Callable[[str], Strike | None]
    before_writing: Callable[[], None]
    committed: Callable[[bool], None]  # told whether anything was written


class FaultyWire:
    """A wire under the seed's control.

    `stale` lets other processes commit between this one's reads and its first write, without the lock that keeps them out in
    production: there the guards in the statements stand alone. Where it `overlaps`, as PostgreSQL's does, changes run when they are
    confirmed, so that others come between the COMMIT of a batch and the changes of the next one, which were sent with it.
    """

    def __init__(self, inner: Wire, watch: Watch, *, stale: bool, overlaps: bool) -> None:
        self._inner = inner
        self._watch = watch
        self._stale = stale
        self.overlaps = overlaps
        self._planned: list[Change] = []  # since `begin`
        self._sent: list[Change] | None = None  # and not confirmed
        self._behind: list[Change] | None = None  # goes with the next COMMIT
        self._link: int | None = None
        self._writing = False
        self._read = False
        self._wrote = False
        self._gone = False

    @property
    def locked(self) -> bool:
        """Whether it keeps every other process from the database."""
        return self._writing and not self._gone

    def begin(self) -> None:
        self._struck("begin before")
        self._planned = []
        if self._sent is None:
            self._read = self._wrote = False
            if not self._stale and not self.overlaps:
                self._start()
        self._struck("begin after")

    def send(self) -> None:
        self._struck("send before")
        if self._sent is None:
            self._sent = self._planned
        else:
            self._behind = self._planned
        self._planned = []
        self._struck("send after")

    def forget(self) -> None:
        self._planned = []

    def ready(self, bell: int) -> None:
        """Nobody waits here: the history says when it goes on."""

    def confirm(self) -> None:
        self._struck("confirm before")
        for change in self._sent or ():
            change()
        self._sent = None

    def commit(self) -> None:
        name = "commit" if self._behind is None else "commit with the next"
        self._struck(f"{name} before")
        if self._writing:
            self._inner.commit()
        if self._read or self._wrote:
            self._watch.committed(self._wrote)
        self._sent, self._behind = self._behind, None
        self._read = self._writing = self._wrote = False
        self._struck(f"{name} after")

    def rollback(self) -> None:
        self._planned, self._sent, self._behind = [], None, None
        self._read = self._writing = self._wrote = False
        if not self._gone:
            self._inner.rollback()

    def close(self) -> None:
        self._gone = True
        self._inner.close()

    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]:
        if self._sent is not None:
            raise InFlight
        opens = statement.sql.startswith("INSERT")
        if opens or not self._stale:
            self._start()
        self._read = self._read or not opens
        return self._between("select", lambda: self._inner.select(statement, rows))

    def update(self, statement: Statement, rows: Sequence[Row]) -> None:
        self._change("update", lambda: self._inner.update(statement, rows))

    def add_link(self, statement: Statement, row: Row) -> int | None:
        def add() -> None:
            self._link = self._inner.add_link(statement, row)

        self._change("update", add)
        return None

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None:
        def add() -> None:
            given = [self._link if value is None else value for value in shared]
            self._inner.insert(insert, rows, given, dumped)

        self._change("insert", add)

    def _change(self, name: str, call: Callable[[], None]) -> None:
        def run() -> None:
            if not self._writing and self._stale:
                self._watch.before_writing()
            self._start()
            self._wrote = True
            self._between(name, call)

        if self.overlaps:
            self._planned.append(run)
        else:
            run()

    def _between(self, name: str, call: Callable[[], T]) -> T:
        self._struck(f"{name} before")
        result = call()
        self._struck(f"{name} after")
        return result

    def _start(self) -> None:
        """Take the write lock, at the latest before the first write."""
        if not self._writing:
            self._inner.begin()
            self._writing = True

    def _struck(self, point: str) -> None:
        strike = None if self._gone else self._watch.point(point)
        if strike is not None:
            self.close()  # SQLite rolls back what was not committed
        if strike is Strike.CRASH:
            raise Died
        if self._gone:
            raise sqlite3.OperationalError("the connection is gone")
