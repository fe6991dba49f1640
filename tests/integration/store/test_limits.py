"""Limits count what stands, whenever they are made, and refuse in the transaction of the hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quota.domain.errors import RefusalCode
from quota.domain.hold import Hold, HoldState, LimitUse
from quota.domain.ids import HoldId
from quota.domain.limits import Limit, LimitName, Limits, member_limit, rescue_limit, site_limits, use_of
from quota.domain.units import Unit
from quota.service.ports import LimitStanding
from quota.store.database import Database
from quota.store.unit_of_work import SqlTransaction
from quota.store.verify import verify
from tests import ledgers
from tests.ledgers import NOW, PROJECT, Books

SESSIONS = Limit(LimitName.PROJECT_SESSIONS, "sessions", 2, project_id=PROJECT)


@pytest.fixture
def books(database: Database) -> Books:
    return ledgers.open_books(database, 1000)


def put(database: Database, limit: Limit) -> LimitStanding:
    with database.writing() as connection:
        return SqlTransaction(connection).limits.put(limit)


def place(books: Books, hold_id: str, amount: int, *limits: Limit) -> Hold:
    uses = tuple(one for limit in limits if (one := use_of(limit, 1, amount)) is not None)
    (hold,) = ledgers.run(
        books.database, lambda ledger: ledger.place_hold(books.order(amount, hold_id=hold_id, limits=uses))
    )
    assert isinstance(hold, Hold)
    return hold


def test_a_third_session_at_once_is_refused_and_starts_when_one_has_ended(books: Books) -> None:
    put(books.database, SESSIONS)
    for number in (1, 2):
        assert place(books, f"hold-000{number}", 10, SESSIONS).state is HoldState.HELD
    third = place(books, "hold-0003", 10, SESSIONS)
    assert third.refusal is not None
    assert (third.refusal.code, third.refusal.params["limit"]) == (RefusalCode.LIMIT_REACHED, SESSIONS.id)
    ledgers.run(books.database, lambda ledger: ledger.settle(HoldId("hold-0001"), NOW))
    assert place(books, "hold-0004", 10, SESSIONS).state is HoldState.HELD
    assert verify(books.database) == []


def test_a_limit_made_while_sessions_run_counts_them(books: Books) -> None:
    place(books, "hold-0001", 10)
    place(books, "hold-0002", 10)
    assert put(books.database, SESSIONS) == LimitStanding(SESSIONS.id, 2, 0, 2)
    assert place(books, "hold-0003", 10, SESSIONS).state is HoldState.REFUSED
    ledgers.run(books.database, lambda ledger: ledger.settle(HoldId("hold-0001"), NOW))
    assert place(books, "hold-0004", 10, SESSIONS).state is HoldState.HELD
    assert verify(books.database) == []


def test_a_members_share_counts_what_they_used_before_it_was_set(books: Books) -> None:
    place(books, "hold-0001", 100)
    place(books, "hold-0002", 50)
    ledgers.run(
        books.database,
        lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-1", 30)),
        lambda ledger: ledger.settle(HoldId("hold-0001"), NOW),
        lambda ledger: ledger.charge(ledgers.usage("hold-0002", "event-2", 20)),
    )
    share = member_limit(PROJECT, books.person.id, Unit.GPU_MS, 100)
    assert put(books.database, share) == LimitStanding(share.id, 100, 50, 30)
    refused = place(books, "hold-0003", 21, share)
    assert refused.refusal is not None
    assert refused.refusal.params["available"] == 20
    assert place(books, "hold-0004", 20, share).state is HoldState.HELD
    ledgers.run(books.database, lambda ledger: ledger.charge(ledgers.usage("hold-0002", "event-3", 30, minute=1)))
    assert verify(books.database) == []


def test_a_cap_lowered_below_what_stands_takes_nothing_and_refuses_what_is_new(books: Books) -> None:
    put(books.database, SESSIONS)
    for number in (1, 2):
        place(books, f"hold-000{number}", 10, SESSIONS)
    put(books.database, replace(SESSIONS, cap=1))
    assert verify(books.database) == []
    assert place(books, "hold-0003", 10, SESSIONS).state is HoldState.REFUSED
    ledgers.run(books.database, lambda ledger: ledger.settle(HoldId("hold-0001"), NOW))
    assert place(books, "hold-0004", 10, SESSIONS).state is HoldState.REFUSED
    ledgers.run(books.database, lambda ledger: ledger.settle(HoldId("hold-0002"), NOW))
    assert place(books, "hold-0005", 10, SESSIONS).state is HoldState.HELD


def test_a_day_counts_that_day_only(books: Books) -> None:
    place(books, "hold-0001", 10)
    today, other = (
        Limit(LimitName.DAY, "gpu_ms", 100, person_id=books.person.id, day=day) for day in ("2026-05-01", "2026-05-02")
    )
    assert put(books.database, today).held == 10
    assert put(books.database, other).held == 0


def test_a_site_without_limits_counts_nothing(books: Books) -> None:
    assert site_limits(Limits(), PROJECT, books.person.id, NOW) == []
    names = {one.name for one in site_limits(Limits(1, 2, 3, 4, 5), PROJECT, books.person.id, NOW)}
    assert names == set(LimitName) - {LimitName.MEMBER, LimitName.MEMBER_DAY, LimitName.RESCUE}


def test_a_limit_on_time_counts_how_long_a_free_session_ran_and_what_happened_already_goes_beyond_it(
    books: Books,
) -> None:
    limit = rescue_limit(books.person.id, NOW, 120)
    put(books.database, limit)

    def start(hold_id: str, seconds: int, *, beyond: bool = False) -> Hold:
        use = LimitUse(limit.id, seconds * 1000, beyond)
        order = books.order(0, hold_id=hold_id, limits=(use,))
        (hold,) = ledgers.run(books.database, lambda ledger: ledger.place_hold(order))
        assert isinstance(hold, Hold)
        return hold

    def standing() -> tuple[int, int]:
        with books.database.reading() as connection:
            found = SqlTransaction(connection).limits.get(limit.id)
        assert found is not None
        return found.charged, found.held

    assert start("hold-0001", 100).state is HoldState.HELD
    assert start("hold-0002", 30).state is HoldState.REFUSED
    assert start("hold-0003", 30, beyond=True).state is HoldState.HELD
    assert standing() == (0, 130_000)
    used = ledgers.usage("hold-0001", "event-1", 0)  # ran for a minute of its hundred seconds, and cost nothing
    ledgers.run(books.database, lambda ledger: ledger.settle(HoldId("hold-0001"), NOW, used))
    assert standing() == (60_000, 30_000)
    assert start("hold-0004", 31).state is HoldState.REFUSED
    assert start("hold-0005", 30).state is HoldState.HELD
    long = ledgers.usage("hold-0005", "event-2", 0, minutes=2)  # longer than it was held for
    ledgers.run(books.database, lambda ledger: ledger.settle(HoldId("hold-0005"), NOW, long))
    assert standing() == (180_000, 30_000)
    assert start("hold-0006", 1).state is HoldState.REFUSED
    assert verify(books.database) == []
