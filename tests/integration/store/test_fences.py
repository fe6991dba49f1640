"""Of two hubs that think they are the only one, the ledger listens to the one that started last."""

from __future__ import annotations

import threading

import pytest

from quota.domain.errors import StaleEpoch
from quota.domain.fence import Fence
from quota.domain.hold import Hold
from quota.domain.ids import HoldId
from quota.store.database import Database
from quota.store.unit_of_work import SqlTransaction
from quota.store.verify import verify
from tests import ledgers
from tests.ledgers import NOW, Books
from tests.waiting import PATIENCE_S


@pytest.fixture
def books(database: Database) -> Books:
    return ledgers.open_books(database, 100)


def take(database: Database, name: str = "hub") -> Fence:
    with database.writing() as connection:
        return Fence(name, SqlTransaction(connection).fences.take(name, "a test", NOW))


def test_an_epoch_is_given_once(database: Database) -> None:
    assert [take(database).epoch for _ in range(3)] == [1, 2, 3]
    assert take(database, "another").epoch == 1


def test_only_the_newest_of_a_name_writes(books: Books) -> None:
    old, new = take(books.database), take(books.database)
    other = take(books.database, "another")
    held, *refused = ledgers.run(
        books.database,
        lambda ledger: ledger.fenced(new).place_hold(books.order(10, hold_id="hold-0001")),
        lambda ledger: ledger.fenced(old).place_hold(books.order(10, hold_id="hold-0002")),
        lambda ledger: ledger.fenced(old).place_hold(books.order(10, hold_id="hold-0001")),  # a replay
        lambda ledger: ledger.fenced(old).top_up(HoldId("hold-0001"), "more", 5, NOW, NOW),
        lambda ledger: ledger.fenced(old).charge(ledgers.usage("hold-0001", "event-1", 5)),
        lambda ledger: ledger.fenced(old).extend_lease(HoldId("hold-0001"), NOW),
        lambda ledger: ledger.fenced(old).release(HoldId("hold-0001"), NOW, "stopped"),
        lambda ledger: ledger.fenced(old).settle(HoldId("hold-0001"), NOW),
    )
    assert isinstance(held, Hold)
    assert [type(one) for one in refused] == [StaleEpoch] * 7
    (placed,) = ledgers.run(
        books.database, lambda ledger: ledger.fenced(other).place_hold(books.order(1, hold_id="hold-0003"))
    )
    assert isinstance(placed, Hold)
    assert verify(books.database) == []


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_epoch_that_was_never_given_does_not_write(books: Books, epoch: int) -> None:
    """A database restored from before it knows no such epoch."""
    take(books.database)
    (refused,) = ledgers.run(
        books.database, lambda ledger: ledger.fenced(Fence("hub", epoch)).place_hold(books.order(10))
    )
    assert isinstance(refused, StaleEpoch)


def test_a_stale_writer_hurts_no_other_in_its_batch(books: Books) -> None:
    old, new = take(books.database), take(books.database)
    fences = [old, new] * 5
    answers = ledgers.together(
        books.database,
        *(lambda ledger, one=one: ledger.fenced(one).place_hold(books.order(1)) for one in fences),
    )
    assert [type(answer) for answer in answers] == [StaleEpoch, Hold] * 5


def test_what_was_asked_for_under_an_epoch_that_is_being_replaced_is_refused(books: Books) -> None:
    """The epoch is compared in the transaction that writes: it waits for the one that takes a newer epoch."""
    old = take(books.database)
    answers: list[object] = []
    asking = threading.Thread(
        target=lambda: answers.extend(
            ledgers.run(books.database, lambda ledger: ledger.fenced(old).place_hold(books.order(10)))
        )
    )
    with books.database.writing() as connection:
        SqlTransaction(connection).fences.take("hub", "another", NOW)
        asking.start()
        asking.join(0.3)
        assert answers == []
    asking.join(PATIENCE_S)
    assert [type(answer) for answer in answers] == [StaleEpoch]


def test_a_store_transaction_of_a_replaced_hub_leaves_nothing(books: Books) -> None:
    old, new = take(books.database), take(books.database)

    def work() -> None:
        with books.database.writing() as connection:
            tx = SqlTransaction(connection)
            ledgers.register(tx, "somebody")
            tx.fences.check(old)

    with pytest.raises(StaleEpoch):
        work()
    with books.database.writing() as connection:
        tx = SqlTransaction(connection)
        tx.fences.check(new)
        assert tx.people.by_hub_name("somebody") is None
