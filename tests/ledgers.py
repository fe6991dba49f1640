"""A migrated database with one project and some accounts, for tests of the ledger on either engine.

Invariant: each test gets its own database; on SQLite a copy of one that was migrated once.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import text

from quota.domain.errors import QuotaError
from quota.domain.hold import HoldKind, HoldOrder, LimitUse, Usage
from quota.domain.ids import AdjustmentId, AllocationId, HoldId, PersonId, ProjectId, RefundId, new_id
from quota.domain.project import Person, Project, ProjectState
from quota.domain.units import Unit
from quota.service.ports import Transaction
from quota.store.database import Database, open_database
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.unit_of_work import SqlTransaction

NOW: Final = datetime(2026, 5, 1, 12, tzinfo=UTC)
PROJECT: Final = ProjectId("project-1")
DAYS: Final = 90


@functools.cache
def _migrated_file() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="commons-ledger-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "template.sqlite"
    database = open_database(f"sqlite:///{path}")
    migrate(database)
    database.close()  # the last connection to leave brings the write-ahead log home
    return path


def sqlite_database(folder: Path) -> Database:
    """A migrated SQLite database in `folder`."""
    path = folder / f"{new_id()}.sqlite"
    shutil.copyfile(_migrated_file(), path)
    return open_database(f"sqlite:///{path}")


@dataclass(frozen=True, slots=True)
class Books:
    """Who acts, and the accounts that were opened."""

    database: Database
    person: Person
    accounts: tuple[AllocationId, ...]

    def order(
        self,
        amount: int,
        *,
        hold_id: str = "",
        account: int = 0,
        limits: tuple[LimitUse, ...] = (),
        kind: HoldKind = HoldKind.SESSION,
    ) -> HoldOrder:
        """An order for a hold on the n-th account."""
        return HoldOrder(
            id=HoldId(hold_id or new_id()),
            kind=kind,
            subject="researcher/",
            actor=self.person.id,
            project_id=PROJECT,
            allocation_id=self.accounts[account],
            unit=Unit.GPU_MS,
            amount=amount,
            at=NOW,
            lease_until=NOW + timedelta(hours=1),
            limits=limits,
            details={"profile": "gpu"},
        )


def usage(hold_id: str, event_id: str, amount: int, *, minute: int = 0, minutes: int = 1) -> Usage:
    """A measured interval of a hold, counted in minutes from NOW."""
    from_at = NOW + timedelta(minutes=minute)
    return Usage(
        "session", event_id, HoldId(hold_id), from_at, from_at + timedelta(minutes=minutes), minutes * 60_000, amount
    )


def open_books(database: Database, *awards: int) -> Books:
    """Register a person, add a project and open one GPU allocation for each award."""
    accounts = tuple(AllocationId(f"account-{number}") for number in range(len(awards)))
    with database.writing() as connection:
        tx = SqlTransaction(connection)
        person = register(tx, "pi")
        tx.projects.add(Project(PROJECT, "fold", "Protein folding", ProjectState.ACTIVE, NOW), person.id)
        for account, award in zip(accounts, awards, strict=True):
            tx.accounts.open_allocation(account, PROJECT, Unit.GPU_MS, NOW, NOW + timedelta(days=DAYS))
            if award:
                tx.accounts.deposit(
                    f"award-{account}", account, award, actor=person.id, at=NOW, code="award", params={"title": "Fold"}
                )
    return Books(database, person, accounts)


def known_books(database: Database) -> Books:
    """The books that `open_books` made in this database, from another process or at another time."""
    with database.reading() as connection:
        name = connection.execute(text("SELECT hub_name FROM person")).scalar_one()
        found = SqlTransaction(connection).people.by_hub_name(name)
        ids = connection.execute(text("SELECT id FROM account WHERE kind = 'allocation' ORDER BY id"))
        assert found is not None
        return Books(database, found, tuple(AllocationId(row.id) for row in ids))


def register(tx: Transaction, name: str) -> Person:
    """A person whose names all follow from one."""
    return tx.people.register(
        issuer="https://idp.example",
        subject=name,
        hub_name=name,
        display_name=name.title(),
        email=None,
        language="en",
        at=NOW,
    )


def adjust(database: Database, actor: PersonId, adjustment_id: str, account: AllocationId, delta: int) -> object:
    """Adjust in a transaction of its own."""
    with database.writing() as connection:
        accounts = SqlTransaction(connection).accounts
        return accounts.adjust(AdjustmentId(adjustment_id), account, delta, actor=actor, reason="for the test", at=NOW)


def add_limit(database: Database, limit_id: str, kind: str, cap: int) -> None:
    """Make a limit that orders may name."""
    with database.writing() as connection:
        connection.execute(
            text("INSERT INTO limit_counter (id, kind, subject, unit, cap) VALUES (:id, :kind, 'm', 'gpu_ms', :cap)"),
            {"id": limit_id, "kind": kind, "cap": cap},
        )


def freeze(database: Database, account: AllocationId, *, frozen: bool) -> None:
    """Freeze or thaw an account."""
    with database.writing() as connection:
        connection.execute(
            text("UPDATE account SET frozen = :f, version = version + 1 WHERE id = :id"), {"f": frozen, "id": account}
        )


def run(database: Database, *steps: Callable[[LedgerStore], Awaitable[object]]) -> list[object]:
    """Run steps one after the other on a ledger that lives only for them; what each answered, refusals and errors included."""

    async def all_steps() -> list[object]:
        async with LedgerStore(database) as ledger:
            answers: list[object] = []
            for step in steps:
                try:
                    answers.append(await step(ledger))
                except QuotaError as error:
                    answers.append(error)
            return answers

    return asyncio.run(all_steps())


def together(database: Database, *steps: Callable[[LedgerStore], Awaitable[object]]) -> list[object]:
    """As `run`, with all steps submitted at once, so that they share a batch."""

    async def all_steps() -> list[object]:
        async with LedgerStore(database) as ledger:
            return list(await asyncio.gather(*(step(ledger) for step in steps), return_exceptions=True))

    return asyncio.run(all_steps())


def refund(database: Database, actor: PersonId, refund_id: str, hold_id: str, amount: int) -> object:
    """Refund in a transaction of its own."""
    with database.writing() as connection:
        refunds = SqlTransaction(connection).refunds
        return refunds.give(RefundId(refund_id), HoldId(hold_id), amount, actor=actor, reason="for the test", at=NOW)


def reverse(database: Database, actor: PersonId, reversal_id: str, adjustment_id: str) -> object:
    """Take an adjustment back in a transaction of its own."""
    with database.writing() as connection:
        accounts = SqlTransaction(connection).accounts
        ids = AdjustmentId(reversal_id), AdjustmentId(adjustment_id)
        return accounts.reverse(*ids, actor=actor, reason="for the test", at=NOW)
