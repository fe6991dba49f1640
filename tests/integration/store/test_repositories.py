"""The store's repositories, on both engines."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import date, timedelta
from fractions import Fraction
from functools import partial

import pytest
from sqlalchemy import delete, text

from quota.domain.application import ApplicationState, Ask
from quota.domain.errors import IdConflict, Invalid, RefusalCode, Refused, WrongState
from quota.domain.ids import AllocationId, ApplicationId, HoldId, PersonId, ProjectId, new_id
from quota.domain.project import Project, ProjectRole, ProjectState
from quota.domain.rates import ChargeRate
from quota.domain.session import Session, SessionState, SessionTerms
from quota.service.ports import Adjusted, StatementLine, Transaction
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.tables import person_data
from quota.store.unit_of_work import SqlStore, SqlTransaction
from quota.store.verify import verify
from tests import ledgers
from tests.ledgers import NOW, PROJECT

ASK = Ask("Protein folding", "We fold proteins.", 3_600_000, 1_000, date(2026, 5, 1), date(2026, 8, 1))


async def test_a_person_is_issuer_and_subject_and_gets_a_login_and_uid_once(database: Database) -> None:
    store = SqlStore(database)
    first = await store.write(lambda tx: ledgers.register(tx, "ann"))
    again = await store.write(lambda tx: ledgers.register(tx, "ann"))
    other = await store.write(lambda tx: ledgers.register(tx, "bob"))
    assert again == first
    assert first.uid >= 20001
    assert other.uid == first.uid + 1
    assert first.login.startswith("cc-")
    assert len(first.login) <= 32
    assert await store.read(lambda tx: tx.people.by_hub_name("bob")) == other
    assert await store.read(lambda tx: tx.people.by_id(PersonId("nobody"))) is None


async def test_a_hub_name_belongs_to_one_identity(database: Database) -> None:
    store = SqlStore(database)
    await store.write(lambda tx: ledgers.register(tx, "ann"))

    def steal(tx: Transaction) -> object:
        return tx.people.register(
            issuer="https://other.example",
            subject="ann",
            hub_name="ann",
            display_name="Eve",
            email=None,
            language="en",
            at=NOW,
        )

    with pytest.raises(IdConflict):
        await store.write(steal)


async def test_an_erased_person_keeps_the_login_and_loses_the_name(database: Database) -> None:
    store = SqlStore(database)
    ann = await store.write(lambda tx: ledgers.register(tx, "ann"))
    with database.writing() as connection:
        connection.execute(delete(person_data))
    erased = await store.read(lambda tx: tx.people.by_id(ann.id))
    assert erased is not None
    assert (erased.login, erased.uid, erased.display_name) == (ann.login, ann.uid, ann.login)


async def test_people_who_register_at_once_get_different_uids(database: Database) -> None:
    store = SqlStore(database)
    names = [f"person-{number}" for number in range(12)]
    people = await asyncio.gather(*(store.write(lambda tx, name=name: ledgers.register(tx, name)) for name in names))  # type: ignore[misc]
    assert len({person.uid for person in people}) == 12


async def test_work_that_raises_leaves_nothing_behind(database: Database) -> None:
    store = SqlStore(database)

    def work(tx: Transaction) -> None:
        ledgers.register(tx, "ann")
        raise WrongState("no")

    with pytest.raises(WrongState):
        await store.write(work)
    assert await store.read(lambda tx: tx.people.by_hub_name("ann")) is None


async def test_search_takes_wildcards_literally_ignores_case_and_pages_by_slug(database: Database) -> None:
    store = SqlStore(database)

    def add(tx: Transaction) -> None:
        pi = ledgers.register(tx, "zoë")
        for slug, title in (("b-fold", "100% Élan"), ("a_fold", "Folding"), ("c", "Other")):
            tx.projects.add(Project(ProjectId(new_id()), slug, title, ProjectState.ACTIVE, NOW), pi.id)

    await store.write(add)

    async def found(text: str, after: str | None = None, limit: int = 9) -> list[str]:
        page = await store.read(lambda tx: tx.projects.search(text, after=after, limit=limit))
        return [project.slug for project in page]

    assert await found("%") == ["b-fold"]
    assert await found("_") == ["a_fold"]
    assert await found("éLAN") == ["b-fold"]
    assert await found("ZOË") == ["a_fold", "b-fold", "c"]
    assert await found("", limit=2) == ["a_fold", "b-fold"]
    assert await found("", after="b-fold") == ["c"]


async def test_members_are_added_changed_and_removed(database: Database) -> None:
    books = ledgers.open_books(database, 10)
    store = SqlStore(database)
    ann = await store.write(lambda tx: ledgers.register(tx, "ann"))
    assert await store.write(lambda tx: tx.projects.put_member(PROJECT, ann.id, ProjectRole.MEMBER, NOW))
    assert not await store.write(lambda tx: tx.projects.put_member(PROJECT, ann.id, ProjectRole.MANAGER, NOW))
    members = await store.read(lambda tx: tx.projects.members(PROJECT))
    assert {member.hub_name: member.role for member in members} == {"pi": ProjectRole.PI, "ann": ProjectRole.MANAGER}
    assert await store.read(lambda tx: tx.projects.of_person(books.person.id)) == [(_project(), ProjectRole.PI)]
    assert await store.write(lambda tx: tx.projects.remove_member(PROJECT, ann.id))
    assert await store.read(lambda tx: tx.projects.role(PROJECT, ann.id)) is None


async def test_an_application_is_decided_once(database: Database) -> None:
    store = SqlStore(database)
    ann = await store.write(lambda tx: ledgers.register(tx, "ann"))
    key = ApplicationId("application-1")
    assert await store.write(lambda tx: tx.applications.add(key, ann.id, ASK, NOW, "hash"))
    assert not await store.write(lambda tx: tx.applications.add(key, ann.id, ASK, NOW, "hash"))
    with pytest.raises(IdConflict):
        await store.write(lambda tx: tx.applications.add(key, ann.id, ASK, NOW, "other"))

    def reject(tx: Transaction) -> None:
        tx.applications.decide(
            key,
            expected=ApplicationState.SUBMITTED,
            to=ApplicationState.REJECTED,
            by=ann.id,
            at=NOW,
            message="no",
            awarded_gpu_ms=None,
            awarded_tokens=None,
            project_id=None,
        )

    await store.write(reject)
    with pytest.raises(WrongState):
        await store.write(reject)
    found = await store.read(lambda tx: tx.applications.get(key))
    assert found is not None
    assert (found.ask, found.state, found.applicant_name) == (ASK, ApplicationState.REJECTED, "Ann")
    assert await store.read(lambda tx: tx.applications.in_state(ApplicationState.SUBMITTED)) == []


async def test_the_latest_rate_counts_and_a_published_one_stands(database: Database) -> None:
    store = SqlStore(database)
    old, new = (ChargeRate("a100", Fraction(n, 3), NOW + timedelta(days=n)) for n in (1, 2))
    for rate in (old, new, old):
        await store.write(lambda tx, rate=rate: tx.rates.put(rate))  # type: ignore[misc]
    assert await store.read(lambda tx: tx.rates.at("a100", NOW)) is None
    assert await store.read(lambda tx: tx.rates.at("a100", NOW + timedelta(days=1))) == old
    assert await store.read(lambda tx: tx.rates.at("a100", NOW + timedelta(days=5))) == new
    with pytest.raises(IdConflict):
        await store.write(lambda tx: tx.rates.put(ChargeRate("a100", Fraction(7), old.valid_from)))


async def test_an_adjustment_has_one_effect_under_its_id_and_is_audited(database: Database) -> None:
    books = ledgers.open_books(database, 100)
    account = books.accounts[0]
    first = ledgers.adjust(database, books.person.id, "adjust-1", account, -40)
    again = ledgers.adjust(database, books.person.id, "adjust-1", account, -40)
    assert isinstance(first, Adjusted)
    assert isinstance(again, Adjusted)
    assert (first.before.awarded, first.after.awarded, first.replayed) == (100, 60, False)
    assert (again.after.awarded, again.replayed) == (60, True)
    with pytest.raises(IdConflict):
        ledgers.adjust(database, books.person.id, "adjust-1", account, -41)
    refused = ledgers.adjust(database, books.person.id, "adjust-2", account, -61)
    assert refused == Refused(RefusalCode.WOULD_TAKE_BACK_USED, {"requested": 61, "available": 60, "unit": "gpu_ms"})
    with pytest.raises(Invalid):
        ledgers.adjust(database, books.person.id, "adjust-3", account, 2**62)
    with database.reading() as connection:
        rows = connection.execute(text("SELECT action, subject, reason FROM audit")).all()
    assert [tuple(row) for row in rows] == [("adjusted", account, "for the test")]
    assert verify(database) == []


def test_what_an_overrun_overdrew_is_paid_back_by_the_next_award(database: Database) -> None:
    books = ledgers.open_books(database, 100)
    ledgers.run(
        database,
        lambda ledger: ledger.place_hold(books.order(100, hold_id="hold-0001")),
        lambda ledger: ledger.settle(HoldId("hold-0001"), NOW, ledgers.usage("hold-0001", "event-1", 130)),
    )
    with database.reading() as connection:
        allocation = SqlTransaction(connection).accounts.get(books.accounts[0])
    assert allocation is not None
    assert allocation.balance.available == -30
    ledgers.adjust(database, books.person.id, "adjust-1", books.accounts[0], 50)
    with database.reading() as connection:
        row = connection.execute(
            text("SELECT overdraft_used, overdraft_limit FROM account WHERE id = 'account-0'")
        ).one()
    assert tuple(row) == (0, 30)
    assert verify(database) == []


def test_the_statement_shows_each_transaction_once_newest_first_however_it_is_paged(database: Database) -> None:
    books = ledgers.open_books(database, 100, 50)
    ledgers.run(
        database,
        lambda ledger: ledger.place_hold(books.order(60, hold_id="hold-0001")),
        lambda ledger: ledger.place_hold(books.order(5, hold_id="hold-0002", account=1)),
        lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-1", 20)),
        lambda ledger: ledger.settle(HoldId("hold-0001"), NOW, ledgers.usage("hold-0001", "event-2", 55, minute=1)),
        lambda ledger: ledger.release(HoldId("hold-0002"), NOW, "never_started"),
    )
    whole = _statement(database, None, 100)
    assert [line.kind for line in whole] == ["release", "charge", "charge", "hold", "hold", "deposit", "deposit"]
    assert [(line.delta_awarded, line.delta_held, line.delta_charged) for line in whole] == [
        (0, -5, 0), (0, -40, 55), (0, -20, 20), (0, 5, 0), (0, 60, 0), (50, 0, 0), (100, 0, 0),
    ]  # fmt: skip
    assert whole[0].reason == "never_started"
    assert (whole[1].quantity, whole[1].code, whole[1].actor_name) == (60_000, "session", "Pi")
    for size in (1, 2, 3):
        paged: list[StatementLine] = []
        while page := _statement(database, paged[-1].seq if paged else None, size):
            paged += page
        assert paged == whole


async def test_a_session_reads_its_amounts_from_the_hold(database: Database) -> None:
    books = ledgers.open_books(database, 100)
    store = SqlStore(database)
    terms = SessionTerms("gpu", "lab", "a100", 1, Fraction(1, 3), 60, 120, "", "pi")
    row = Session(
        HoldId("hold-0001"), books.person.id, PROJECT, books.accounts[0], terms, SessionState.HELD, NOW,
        None, None, None, None, None, None, 0, 0,
    )  # fmt: skip
    await store.write(lambda tx: tx.sessions.upsert(row))
    assert await store.read(lambda tx: tx.sessions.get(HoldId("hold-0001"))) == row
    await asyncio.to_thread(
        ledgers.run, database, lambda ledger: ledger.place_hold(books.order(60, hold_id="hold-0001"))
    )
    found = await store.read(lambda tx: tx.sessions.unfinished())
    assert [(one.hold_id, one.amount) for one in found] == [("hold-0001", 60)]
    assert await store.read(lambda tx: tx.sessions.of_person(books.person.id, limit=5)) == found


def test_ids_of_deposits_are_kept(database: Database) -> None:
    books = ledgers.open_books(database, 100)

    def deposit(amount: int) -> None:
        with database.writing() as connection:
            accounts = SqlTransaction(connection).accounts
            accounts.deposit(
                "award-account-0", AllocationId("account-0"), amount, actor=books.person.id, at=NOW, code="award",
                params={"title": "Fold"},
            )  # fmt: skip

    deposit(100)
    with pytest.raises(IdConflict):
        deposit(101)
    with database.reading() as connection:
        assert [one.balance.awarded for one in SqlTransaction(connection).accounts.of_project(PROJECT)] == [100]


def _statement(database: Database, before: int | None, limit: int) -> list[StatementLine]:
    with database.reading() as connection:
        return list(SqlTransaction(connection).accounts.statement(PROJECT, before=before, limit=limit))


def _project() -> Project:
    return Project(PROJECT, "fold", "Protein folding", ProjectState.ACTIVE, NOW)


async def test_a_pass_writes_what_it_saw_of_many_sessions_at_once(database: Database) -> None:
    books = ledgers.open_books(database, 1_000_000)
    store = SqlStore(database)
    ids = [f"hold-{number}" for number in range(3)]
    steps = [partial(_placed, books=books, hold_id=one) for one in ids]
    await asyncio.to_thread(ledgers.run, database, *steps)
    terms = SessionTerms("gpu", "lab", "gpu", 1, Fraction(1), 60, 120, "", "researcher")
    rows = [
        Session(
            hold_id=HoldId(one), person_id=books.person.id, project_id=PROJECT, allocation_id=books.accounts[0], terms=terms,
            state=SessionState.HELD, held_at=NOW, started_at=None, alive_at=None, ends_at=None, ended_at=None, end_reason=None,
            stop_reason=None, amount=10, charged=0,
        )
        for one in ids
    ]  # fmt: skip

    def insert(tx: Transaction) -> None:
        for row in rows:
            tx.sessions.upsert(row)

    await store.write(insert)
    running = [replace(row, state=SessionState.RUNNING, started_at=NOW, alive_at=NOW) for row in rows]
    await store.write(lambda tx: tx.sessions.observe(running))
    found = await store.read(lambda tx: [tx.sessions.get(HoldId(one)) for one in ids])
    assert [one.state for one in found if one is not None] == [SessionState.RUNNING] * 3


async def _placed(ledger: LedgerStore, *, books: ledgers.Books, hold_id: str) -> object:
    return await ledger.place_hold(books.order(10, hold_id=hold_id))
