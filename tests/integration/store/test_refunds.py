"""Refunds and reversals: corrections are transactions of their own, bounded by what they correct."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from quota.domain.errors import IdConflict, RefusalCode, Refused, Unknown, WrongState
from quota.domain.hold import Charged, Hold, LimitUse
from quota.domain.ids import HoldId
from quota.service.ports import Adjusted
from quota.store.database import Database
from quota.store.unit_of_work import SqlTransaction
from quota.store.verify import verify
from tests import ledgers
from tests.ledgers import NOW, PROJECT, Books


@pytest.fixture
def books(database: Database) -> Books:
    """An award of 100, of which a hold of 30 charged 20."""
    books = ledgers.open_books(database, 100)
    ledgers.add_limit(database, "day", "day", 50)
    ledgers.add_limit(database, "at-once", "simultaneous", 1)
    limits = (LimitUse("day", 30), LimitUse("at-once", 1))
    ledgers.run(
        database,
        lambda ledger: ledger.place_hold(books.order(30, hold_id="hold-0001", limits=limits)),
        lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-1", 20)),
    )
    return books


def refund(books: Books, refund_id: str, amount: int) -> object:
    return ledgers.refund(books.database, books.person.id, refund_id, "hold-0001", amount)


def counts(database: Database, limit_id: str) -> tuple[int, int]:
    with database.reading() as connection:
        row = connection.execute(text("SELECT charged, held FROM limit_counter WHERE id = :id"), {"id": limit_id}).one()
    return (row.charged, row.held)


def test_a_refund_gives_back_what_was_charged_and_nothing_else(books: Books) -> None:
    done = refund(books, "refund-1", 15)
    assert isinstance(done, Adjusted)
    assert (done.before.charged, done.after.charged, done.after.held) == (20, 5, 10)
    assert done.after.available == done.before.available + 15
    assert counts(books.database, "day") == (5, 10)
    assert counts(books.database, "at-once") == (0, 1)
    assert verify(books.database) == []


def test_of_a_hold_never_more_is_refunded_than_was_charged(books: Books) -> None:
    refund(books, "refund-1", 15)
    refused = refund(books, "refund-2", 6)
    assert refused == Refused(RefusalCode.REFUND_EXCEEDS_CHARGED, {"requested": 6, "available": 5, "unit": "gpu_ms"})
    assert isinstance(refund(books, "refund-3", 5), Adjusted)
    assert isinstance(refund(books, "refund-4", 1), Refused)
    assert refund(books, "refund-2", 6) == refused  # the first answer, for ever
    assert verify(books.database) == []


def test_a_refund_asked_for_again_is_given_once(books: Books) -> None:
    first, again = refund(books, "refund-1", 15), refund(books, "refund-1", 15)
    assert isinstance(first, Adjusted)
    assert isinstance(again, Adjusted)
    assert (again.replayed, again.before, again.after) == (True, first.before, first.after)
    with pytest.raises(IdConflict):
        refund(books, "refund-1", 14)
    with pytest.raises(Unknown):
        ledgers.refund(books.database, books.person.id, "refund-2", "hold-none", 1)
    assert verify(books.database) == []


def test_refunds_that_race_give_back_once_what_was_charged(books: Books) -> None:
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda n=number: answers.append(refund(books, f"refund-{n}", 15)))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(type(answer).__name__ for answer in answers) == ["Adjusted", "Refused", "Refused", "Refused"]
    assert verify(books.database) == []


def test_a_running_hold_goes_on_after_a_refund_and_closes_with_what_was_measured(books: Books) -> None:
    refund(books, "refund-1", 20)
    charged, settled = ledgers.run(
        books.database,
        lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-2", 40, minute=1)),  # 30 beyond the hold
        lambda ledger: ledger.settle(HoldId("hold-0001"), NOW),
    )
    assert isinstance(charged, Charged)
    assert isinstance(settled, Hold)
    assert (charged.overrun, settled.charged) == (30, 60)
    assert counts(books.database, "day") == (40, 0)
    assert isinstance(refund(books, "refund-2", 40), Adjusted)
    assert counts(books.database, "day") == (0, 0)
    assert verify(books.database) == []


def test_a_refund_repays_what_was_overdrawn(books: Books) -> None:
    ledgers.run(books.database, lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-2", 200, minute=1)))
    refund(books, "refund-1", 150)
    with books.database.reading() as connection:
        row = connection.execute(
            text("SELECT awarded, charged, held, overdraft_used FROM account WHERE id = 'account-0'")
        )
        assert tuple(row.one()) == (100, 70, 0, 0)
    assert verify(books.database) == []


def test_the_statement_and_the_audit_say_what_was_refunded_and_why(books: Books) -> None:
    refund(books, "refund-1", 15)
    with books.database.reading() as connection:
        line = SqlTransaction(connection).accounts.statement(PROJECT, before=None, limit=1)[0]
        audited = connection.execute(text("SELECT action, reason, after FROM audit ORDER BY seq DESC LIMIT 1")).one()
    assert (line.kind, line.code, line.delta_charged, line.delta_held, line.delta_awarded) == (
        "refund", "refund", -15, 0, 0,
    )  # fmt: skip
    assert (line.hold_id, line.reason, line.params["profile"]) == ("hold-0001", "for the test", "gpu")
    assert (audited.action, audited.reason) == ("refunded", "for the test")
    assert "hold-0001" in audited.after


def test_an_adjustment_is_taken_back_whole_and_once(books: Books) -> None:
    database, actor = books.database, books.person.id
    ledgers.adjust(database, actor, "adjust-1", books.accounts[0], 40)
    done, again = (ledgers.reverse(database, actor, "reverse-1", "adjust-1") for _ in range(2))
    assert isinstance(done, Adjusted)
    assert isinstance(again, Adjusted)
    assert (done.before.awarded, done.after.awarded, again.replayed) == (140, 100, True)
    with pytest.raises(WrongState):
        ledgers.reverse(database, actor, "reverse-2", "adjust-1")
    with pytest.raises(WrongState):
        ledgers.reverse(database, actor, "reverse-3", "reverse-1")
    with pytest.raises(Unknown):
        ledgers.reverse(database, actor, "reverse-4", "award-account-0")  # an award is no adjustment
    with database.reading() as connection:
        line = SqlTransaction(connection).accounts.statement(PROJECT, before=None, limit=1)[0]
    assert (line.code, line.delta_awarded, line.params) == ("reversal", -40, {"adjustment_id": "adjust-1"})
    assert verify(database) == []


def test_what_is_used_is_not_taken_back_by_a_reversal_and_later_it_may_be(books: Books) -> None:
    database, actor = books.database, books.person.id
    ledgers.adjust(database, actor, "adjust-1", books.accounts[0], 40)
    ledgers.run(database, lambda ledger: ledger.place_hold(books.order(90, hold_id="hold-0002")))
    assert isinstance(ledgers.reverse(database, actor, "reverse-1", "adjust-1"), Refused)
    ledgers.run(database, lambda ledger: ledger.release(HoldId("hold-0002"), NOW, "stopped"))
    assert isinstance(ledgers.reverse(database, actor, "reverse-1", "adjust-1"), Refused)  # the first answer stands
    assert isinstance(ledgers.reverse(database, actor, "reverse-2", "adjust-1"), Adjusted)
    assert verify(database) == []
