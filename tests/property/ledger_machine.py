"""Hypothesis drives the ledger and the reference model side by side; after each step every balance is proved again.

Operations come in groups that are submitted together, so that batches of every mixture are planned as one; the model takes the same
group one by one. Ids come from small pools: replays and conflicts are the rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import select

from quota.domain.errors import QuotaError
from quota.domain.hold import HoldKind, HoldState, LimitUse
from quota.domain.ids import HoldId
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.tables import account, limit_counter
from quota.store.verify import verify
from tests import ledgers
from tests.property import ledger_model as model

AWARDS = (100, 60)
CAP = 80
LIMIT = "member-1"
_amounts = st.one_of(st.integers(0, 40), st.integers(50, 130))
_names = [f"hold-000{n}" for n in range(7)]
_holds = st.sampled_from(_names)
_withdrawable = st.sampled_from(_names[:3])  # with one top-up each
_charges = st.builds(
    model.Charge, _holds, st.sampled_from([f"event-{n}" for n in range(12)]), st.integers(0, 5), st.integers(0, 50)
)
_operations: st.SearchStrategy[model.Op] = st.one_of(
    st.builds(model.Place, _holds, st.integers(0, 1), _amounts, st.booleans()),
    st.builds(
        model.TopUp, st.sampled_from(_names[3:]), st.sampled_from(["t1", "t2", "t3"]), st.sampled_from([0, 10, 30])
    ),
    st.builds(model.TopUp, _withdrawable, st.just("t1"), st.sampled_from([0, 10, 30])),
    st.builds(model.Withdraw, _withdrawable, st.just("t1")),
    _charges,
    _charges.flatmap(lambda one: st.builds(model.Settle, st.just(one.hold), st.sampled_from([None, one]))),
    st.builds(model.Close, _holds, st.sampled_from([HoldState.RELEASED, HoldState.EXPIRED])),
)


class LedgerMachine(RuleBasedStateMachine):
    """Subclasses say where the database comes from."""

    make_database: Callable[[], Database]
    steps: ClassVar[int] = 0  # of all runs

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = type(self).make_database()
        self.books = ledgers.open_books(self.database, *AWARDS)
        ledgers.add_limit(self.database, LIMIT, "member", CAP)
        self.ledger = LedgerStore(self.database)
        self.ledger.start()
        self.model = model.Model(list(AWARDS), CAP)

    @rule(operations=st.lists(_operations, min_size=1, max_size=6))
    def submit_together(self, operations: list[model.Op]) -> None:
        async def run() -> list[Any]:
            return list(await asyncio.gather(*(self._send(op) for op in operations), return_exceptions=True))

        answers = self.runner.run(run())
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, QuotaError):
                raise answer
        assert [model.of(answer) for answer in answers] == [self.model.run(op) for op in operations]

    @rule(
        key=st.sampled_from(["adjust-1", "adjust-2", "adjust-3"]),
        at=st.integers(0, 1),
        delta=st.sampled_from([-70, -20, 15, 50]),
    )
    def adjust(self, key: str, at: int, delta: int) -> None:
        account_id = self.books.accounts[at]
        answer = _answer(lambda: ledgers.adjust(self.database, self.books.person.id, key, account_id, delta))
        assert model.of(answer) == self.model.adjust(key, at, delta)

    @rule(key=st.sampled_from(["adjust-3", "reverse-1", "reverse-2"]), number=st.integers(1, 3))
    def reverse(self, key: str, number: int) -> None:
        adjustment = f"adjust-{number}"
        answer = _answer(lambda: ledgers.reverse(self.database, self.books.person.id, key, adjustment))
        assert model.of(answer) == self.model.reverse(key, adjustment)

    @rule(key=st.sampled_from([f"refund-{n}" for n in range(5)]), hold=_holds, amount=st.sampled_from([1, 7, 20]))
    def refund(self, key: str, hold: str, amount: int) -> None:
        answer = _answer(lambda: ledgers.refund(self.database, self.books.person.id, key, hold, amount))
        assert model.of(answer) == self.model.refund(key, hold, amount)

    @rule(at=st.integers(0, 1), frozen=st.booleans())
    def freeze(self, at: int, frozen: bool) -> None:
        ledgers.freeze(self.database, self.books.accounts[at], frozen=frozen)
        self.model.accounts[at].frozen = frozen

    @invariant()
    def every_balance_is_proved(self) -> None:
        type(self).steps += 1
        assert verify(self.database) == []

    @invariant()
    def balances_are_those_of_the_model(self) -> None:
        with self.database.reading() as connection:
            rows = connection.execute(
                select(account.c.awarded, account.c.charged, account.c.held)
                .where(account.c.kind == "allocation")
                .order_by(account.c.id)
            ).all()
            limit = connection.execute(select(limit_counter.c.charged, limit_counter.c.held)).one()
        assert [tuple(row) for row in rows] == [(a.awarded, a.charged, a.held) for a in self.model.accounts]
        assert tuple(limit) == (self.model.limit_charged, self.model.limit_held)
        assert all(a.charged + a.held <= a.awarded or a.available < 0 for a in self.model.accounts)

    @invariant()
    def open_holds_are_those_of_the_model(self) -> None:
        found = self.runner.run(self.ledger.open_holds(HoldKind.SESSION))
        assert {hold.id for hold in found} == {key for key, hold in self.model.holds.items() if hold.state == "held"}

    def teardown(self) -> None:
        self.ledger.close()
        self.database.close()
        self.runner.close()

    def _send(self, op: model.Op) -> Coroutine[Any, Any, object]:
        match op:
            case model.Place():
                limits = (LimitUse(LIMIT, op.amount),) if op.limited else ()
                return self.ledger.place_hold(
                    self.books.order(op.amount, hold_id=op.hold, account=op.account, limits=limits)
                )
            case model.TopUp():
                lease = ledgers.NOW + timedelta(hours=2)
                return self.ledger.top_up(HoldId(op.hold), op.line, op.amount, ledgers.NOW, lease)
            case model.Withdraw():
                return self.ledger.withdraw(HoldId(op.hold), op.line, ledgers.NOW)
            case model.Charge():
                return self.ledger.charge(ledgers.usage(op.hold, op.event, op.amount, minute=op.minute))
            case model.Settle(usage=None):
                return self.ledger.settle(HoldId(op.hold), ledgers.NOW)
            case model.Settle(usage=charged):
                assert charged is not None
                measured = ledgers.usage(charged.hold, charged.event, charged.amount, minute=charged.minute)
                return self.ledger.settle(HoldId(op.hold), ledgers.NOW, measured)
            case model.Close():
                close = self.ledger.release if op.to is HoldState.RELEASED else self.ledger.expire
                return close(HoldId(op.hold), ledgers.NOW, "test")


def _answer(work: Callable[[], object]) -> object:
    try:
        return work()
    except QuotaError as error:
        return error
