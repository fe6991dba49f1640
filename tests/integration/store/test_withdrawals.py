"""A top-up that the backend did not take is given back, once, and the books still prove themselves; many charges in one call."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from quota.domain.errors import IdConflict, Invalid, QuotaError, Unknown
from quota.domain.hold import Charged, Hold, LimitUse
from quota.domain.ids import HoldId
from quota.store.database import Database
from quota.store.verify import verify
from tests import ledgers
from tests.ledgers import NOW, Books

HOLD = HoldId("hold-0001")
LEASE = NOW + timedelta(hours=1)


@pytest.fixture
def books(database: Database) -> Books:
    """An award of 100, a hold of 30 with a top-up of 20."""
    books = ledgers.open_books(database, 100)
    ledgers.add_limit(database, "day", "day", 60)
    limits = (LimitUse("day", 30),)
    ledgers.run(
        database,
        lambda ledger: ledger.place_hold(books.order(30, hold_id=HOLD, limits=limits)),
        lambda ledger: ledger.top_up(HOLD, "t1", 20, NOW, LEASE),
    )
    return books


def held_on_limit(database: Database) -> int:
    with database.reading() as connection:
        return int(connection.execute(text("SELECT held FROM limit_counter WHERE id = 'day'")).scalar_one())


def withdraw(books: Books, line: str = "t1") -> Hold:
    (hold,) = ledgers.run(books.database, lambda ledger: ledger.withdraw(HOLD, line, NOW))
    if isinstance(hold, QuotaError):
        raise hold
    assert isinstance(hold, Hold)
    return hold


def test_an_undone_extension_is_given_back_once(books: Books) -> None:
    assert held_on_limit(books.database) == 50
    assert withdraw(books).amount == 30
    assert held_on_limit(books.database) == 30
    assert withdraw(books).replayed
    assert verify(books.database) == []


def test_a_repeat_of_an_extension_that_was_given_back_gets_the_first_answer_and_takes_nothing_again(
    books: Books,
) -> None:
    withdraw(books)
    again, other = ledgers.run(
        books.database,
        lambda ledger: ledger.top_up(HOLD, "t1", 20, NOW, LEASE),
        lambda ledger: ledger.top_up(HOLD, "t1", 0, NOW, LEASE),
    )
    assert isinstance(again, Hold)
    assert (again.replayed, again.amount) == (True, 30)
    assert isinstance(other, IdConflict)
    assert verify(books.database) == []


def test_what_is_charged_to_the_extension_already_stays(books: Books) -> None:
    ledgers.run(books.database, lambda ledger: ledger.charge(ledgers.usage(HOLD, "event-1", 35)))
    assert withdraw(books).amount == 35
    assert verify(books.database) == []
    ledgers.run(books.database, lambda ledger: ledger.settle(HOLD, NOW))
    assert withdraw(books).amount == 35
    assert verify(books.database) == []


def test_a_line_that_never_was_is_unknown(books: Books) -> None:
    with pytest.raises(Unknown, match="line"):
        withdraw(books, "t9")


def test_many_charges_answer_one_by_one(books: Books) -> None:
    good, again = ledgers.usage(HOLD, "event-1", 5), ledgers.usage(HOLD, "event-1", 5)
    bad, unknown = ledgers.usage(HOLD, "event-2", -1), ledgers.usage("hold-9999", "event-3", 1)
    (answers,) = ledgers.run(books.database, lambda ledger: ledger.charge_many([good, bad, again, unknown]))
    assert isinstance(answers, list)
    assert [type(one) for one in answers] == [Charged, Invalid, Charged, Unknown]
    assert [one.applied for one in answers if isinstance(one, Charged)] == [True, False]
    assert verify(books.database) == []
