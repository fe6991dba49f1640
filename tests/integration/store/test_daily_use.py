"""What was charged a day, out of the entries that the ledger wrote, on both engines."""

from __future__ import annotations

from datetime import date, timedelta

from quota.domain.hold import HoldKind
from quota.domain.ids import ProjectId
from quota.domain.units import Unit
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.unit_of_work import SqlStore
from tests import ledgers
from tests.ledgers import NOW, PROJECT


async def test_each_days_charges_add_up_refunds_and_holds_do_not_count_and_neither_do_other_projects(
    database: Database,
) -> None:
    books = ledgers.open_books(database, 1_000_000)
    today = NOW + timedelta(days=50)
    async with LedgerStore(database) as ledger:
        for number, back in enumerate((40, 28, 27, 1, 1, 0)):
            at = today - timedelta(days=back)
            hold = await ledger.place_hold(books.order(1000, hold_id=f"hold-{number:04}")._replace(at=at))
            usage = ledgers.usage(hold.id, f"use-{number}", 10 + number)
            await ledger.settle(hold.id, at, usage._replace(from_at=at, to_at=at + timedelta(seconds=1)))
        await ledger.place_hold(books.order(5000, hold_id="hold-open", kind=HoldKind.REQUEST))
    store = SqlStore(database)
    since = today.date() - timedelta(days=27)
    used = await store.read(lambda tx: tx.accounts.daily_use(PROJECT, since))
    assert used[Unit.TOKENS] == {}
    assert sum(used[Unit.GPU_MS].values()) == 12 + 13 + 14 + 15
    assert all(isinstance(day, date) and day >= since for day in used[Unit.GPU_MS])
    whole = await store.read(lambda tx: tx.accounts.daily_use(PROJECT, since - timedelta(days=30)))
    assert sum(whole[Unit.GPU_MS].values()) == sum(range(10, 16))
    other = await store.read(lambda tx: tx.accounts.daily_use(ProjectId("another"), since))
    assert other == {Unit.GPU_MS: {}, Unit.TOKENS: {}}
