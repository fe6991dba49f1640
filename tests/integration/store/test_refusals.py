"""Refusals are stored and replayed, and nobody fills a disk with them."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from quota.domain.errors import TooMany
from quota.domain.hold import Hold, HoldState
from quota.domain.ids import HoldId
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.refusals import RefusalWindow
from quota.store.verify import verify
from tests import ledgers
from tests.ledgers import NOW


class Minute:
    """A monotonic clock that a test moves."""

    at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


async def test_beyond_the_minutes_refusals_an_actor_is_answered_without_a_row(database: Database) -> None:
    books, minute = ledgers.open_books(database, 100), Minute()
    async with LedgerStore(database, refusals=RefusalWindow(3, minute)) as ledger:
        orders = [books.order(500, hold_id=f"hold-{number:04}") for number in range(40)]
        answers = await asyncio.gather(*(ledger.place_hold(one) for one in orders), return_exceptions=True)
        stored = [one for one in answers if isinstance(one, Hold)]
        assert [one.state for one in stored] == [HoldState.REFUSED] * 3
        beyond = [one for one in answers if isinstance(one, TooMany)]
        assert len(beyond) == 37
        assert {one.retry_after_s for one in beyond} == {60}
        assert (await ledger.place_hold(books.order(500, hold_id=stored[0].id))).replayed
        assert (await ledger.place_hold(books.order(10, hold_id="hold-fits"))).state is HoldState.HELD
        with pytest.raises(TooMany):
            await ledger.top_up(HoldId("hold-fits"), "line-0001", 500, NOW, NOW)
        minute.at_s += 60
        again = next(order for order in orders if order.id not in {one.id for one in stored})
        assert (await ledger.place_hold(again)).state is HoldState.REFUSED
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM hold WHERE state = 'refused'")).scalar_one() == 4
        assert connection.execute(text("SELECT count(*) FROM refused_line")).scalar_one() == 0
    assert verify(database) == []


def test_one_actors_refusals_leave_room_for_anothers() -> None:
    window = RefusalWindow(1)
    window.admit("one", 0)
    with pytest.raises(TooMany):
        window.admit("one", 1)
    window.admit("another", 0)
