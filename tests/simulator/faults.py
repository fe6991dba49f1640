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

from quota.store.wire import Insert, Row, Statement, Wire

T = TypeVar("T")


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
        rate = self.rate * (6 if point.startswith("commit") else 1)
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
    production: there the guards in the statements stand alone.
    """

    def __init__(self, inner: Wire, watch: Watch, *, stale: bool) -> None:
        self._inner = inner
        self._watch = watch
        self._stale = stale
        self._writing = False
        self._read = False
        self._wrote = False
        self._gone = False

    def begin(self) -> None:
        self._read = self._writing = self._wrote = False
        self._struck("begin before")
        if not self._stale:
            self._start()
        self._struck("begin after")

    def commit(self) -> None:
        self._struck("commit before")
        if self._writing:
            self._inner.commit()
        if self._read:
            self._watch.committed(self._wrote)
        self._read = False
        self._struck("commit after")

    def rollback(self) -> None:
        if not self._gone:
            self._inner.rollback()

    def close(self) -> None:
        self._gone = True
        self._inner.close()

    def select(self, statement: Statement, rows: Sequence[Row]) -> list[Any]:
        writes = statement.sql.startswith("INSERT")
        if writes:
            self._start()
        else:
            self._read = True
        return self._between("select", lambda: self._inner.select(statement, rows))

    def update(self, statement: Statement, rows: Sequence[Row]) -> None:
        self._start()
        self._wrote = True
        self._between("update", lambda: self._inner.update(statement, rows))

    def insert(self, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None) -> None:
        self._start()
        self._wrote = True
        self._between("insert", lambda: self._inner.insert(insert, rows, shared, dumped))

    def confirm(self) -> None:
        self._inner.confirm()  # "commit before" is the point right behind it

    def _between(self, name: str, call: Callable[[], T]) -> T:
        self._struck(f"{name} before")
        result = call()
        self._struck(f"{name} after")
        return result

    def _start(self) -> None:
        """Take the write lock, at the latest before the first write."""
        if self._writing:
            return
        if self._stale and self._read:
            self._watch.before_writing()
        self._inner.begin()
        self._writing = True

    def _struck(self, point: str) -> None:
        strike = self._watch.point(point)
        if strike is None:
            return
        self.close()  # SQLite rolls back what was not committed
        if strike is Strike.CRASH:
            raise Died
        raise sqlite3.OperationalError("the connection is gone")
