"""Each guard of the ledger is load-bearing: taken away, one of the scenarios fails; in place, all of them hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import psycopg
import pytest

from quota.domain.errors import QuotaError
from quota.domain.hold import HoldState
from quota.store import persist, plan, wire, writer
from quota.store import statements as sql
from quota.store.database import Database
from quota.store.refunds import SqlRefunds
from quota.store.wire import Insert, PostgresWire, Row, Statement
from quota.store.working_set import AccountRow, HoldRow, UsageRow, WorkingSet
from tests import ledgers
from tests.integration.store import guard_scenarios as guards
from tests.integration.store.guard_scenarios import SCENARIOS
from tests.ledgers import Books


@dataclass(frozen=True)
class Mutant:
    """A guard taken out: `owner.name` becomes what `change` makes of it."""

    title: str
    owner: object
    name: str
    noticed_by: Callable[[Books], None]
    change: Callable[[object], object]
    engine: str | None = None  # "sqlite" or "postgresql", where it says anything on one of them only


def _without(*parts: str, by: str = "1 = 1") -> Callable[[object], object]:
    def change(statement: object) -> object:
        assert isinstance(statement, Statement)
        text = statement.sql
        for part in parts:
            assert part in text, part
            text = text.replace(part, by)
        return replace(statement, sql=text)

    return change


MUTANTS = (
    Mutant("any amount fits", sql, "MOVE_ACCOUNTS", guards.takes_what_another_took,
           _without("account.awarded - account.charged - account.held >= d.held + d.charged")),
    Mutant("frozen accounts pay", sql, "MOVE_ACCOUNTS", guards.takes_from_what_was_frozen,
           _without("(d.takes = 0 OR NOT account.frozen)")),
    Mutant("overruns skip the version", sql, "MOVE_ACCOUNTS", guards.overruns_an_account_that_another_used,
           _without("account.version = d.version")),
    Mutant("a limit is never full", sql, "MOVE_LIMITS", guards.counts_against_a_limit_that_another_filled,
           _without("limit_counter.cap - limit_counter.charged - limit_counter.held >= d.held + d.charged")),
    Mutant("a closed hold can change", sql, "CHANGE_HOLDS", guards.charges_a_hold_that_another_closed,
           _without("hold.state || '' = 'held'")),
    Mutant("a charge goes unseen", sql, "CHANGE_HOLDS", guards.releases_a_hold_that_another_charged,
           _without("hold.next_seq = d.seen_next_seq")),
    Mutant("a top-up goes unseen", sql, "CHANGE_HOLDS", guards.releases_a_hold_that_another_topped_up,
           _without("hold.line_count = d.seen_line_count")),
    Mutant("a closed hold is settled", sql, "SETTLE_HOLDS", guards.settles_a_hold_that_another_settled,
           _without("hold.state || '' = 'held'")),
    Mutant("a charge is settled over", sql, "SETTLE_HOLDS", guards.settles_a_hold_that_another_charged,
           _without("hold.next_seq = d.seen_next_seq")),
    Mutant("a top-up is settled over", sql, "SETTLE_HOLDS", guards.settles_a_hold_that_another_topped_up,
           _without("hold.line_count = 1")),
    Mutant("a withdrawal goes unseen", sql, "CHANGE_HOLDS", guards.settles_a_hold_whose_top_up_another_took_back,
           _without("hold.amount = d.seen_amount")),
    Mutant("a refund of a limit goes unseen", sql, "CHANGE_HOLD_LIMITS", guards.charges_a_limit_of_which_another_gave_back,
           _without("hold_limit.charged = d.seen_charged", "hold_limit.amount = d.seen_amount")),
    Mutant("an error rests on what was remembered", writer, "_has_error",
           guards.a_stored_refusal_is_replayed_where_no_more_are_stored, lambda _: lambda outcomes: False),
    Mutant("what is remembered is believed", sql, "SETTLE_HOLDS",
           guards.what_another_writer_did_to_a_remembered_hold_that_is_free_is_seen,
           _without("hold.state || '' = 'held' AND hold.next_seq = d.seen_next_seq")),
    Mutant("a remembered account is believed", sql, "MOVE_ACCOUNTS", guards.no_answer_rests_on_a_remembered_account,
           _without("(d.strict = 0 OR account.version = d.version)")),
    Mutant("a refusal looks at no account", AccountRow, "touched", guards.no_answer_rests_on_a_remembered_account,
           lambda _: property(lambda account: account.changed)),
    Mutant("a batch that failed is built on", writer.Writer, "_undo",
           guards.what_was_planned_on_a_batch_that_failed_is_planned_again, lambda old: _building_on(old), engine="postgresql"),
    Mutant("refusals on their way do not count", WorkingSet, "keep_refusal", guards.refusals_on_their_way_count,
           lambda _: _keeping_a_refusal, engine="postgresql"),
    Mutant("nobody counts what changed", wire, "demand", guards.takes_what_another_took, lambda _: lambda *_: None),
    Mutant("COMMIT goes out unconfirmed", PostgresWire, "confirm", guards.what_was_planned_on_a_batch_that_failed_is_planned_again,
           lambda _: _unconfirmed, engine="postgresql"),
    Mutant("a hold goes in twice", wire, "demand", guards.places_an_id_that_another_placed,
           lambda _: lambda *_: None, engine="sqlite"),
    Mutant("usage goes in twice", wire, "demand", guards.records_usage_that_another_recorded,
           lambda _: lambda *_: None, engine="sqlite"),
    Mutant("a hold's key may exist", PostgresWire, "insert", guards.places_an_id_that_another_placed,
           lambda old: _passing_over(old), engine="postgresql"),
    Mutant("usage's key may exist", PostgresWire, "insert", guards.records_usage_that_another_recorded,
           lambda old: _passing_over(old), engine="postgresql"),
    Mutant("locks in another order", sql, "LOCK_ACCOUNTS", guards.accounts_are_locked_in_id_order,
           _without("ORDER BY id", by="ORDER BY id DESC"), engine="postgresql"),
    Mutant("remembered accounts are locked in another order", persist, "_in_lock_order",
           guards.remembered_accounts_are_locked_in_id_order, lambda _: _backwards, engine="postgresql"),
    Mutant("no locks", sql, "LOCK_ACCOUNTS", guards.accounts_are_locked_in_id_order,
           _without("{lock}", by=""), engine="postgresql"),
    Mutant("bodies are not compared", plan, "_recorded", guards.an_id_with_another_body_is_a_conflict,
           lambda _: lambda ws, op: ws.usages.get((op.usage.source, op.usage.event_id))),
    Mutant("intervals are not compared", WorkingSet, "intervals", guards.an_interval_is_charged_once,
           lambda _: lambda ws, hold_id: ()),
    Mutant("a replaced hub writes", plan, "_must_be_in_force", guards.a_replaced_hub_is_refused, lambda _: lambda ws, fence: None),
    Mutant("refunds have no end", SqlRefunds, "_refundable", guards.refunds_end_with_what_was_charged, lambda _: lambda one, hold_id: 10**9),
    Mutant("overruns are clamped", plan, "_spend", guards.overruns_are_charged_whole, lambda old: _clamped(old)),
    Mutant("the rest stays held", plan, "_close", guards.what_is_left_returns, lambda _: _close_without_release),
)  # fmt: skip


def _passing_over(old: object) -> object:
    """Keys that exist are left out and nobody counts."""

    def insert(
        one: PostgresWire, insert: Insert, rows: Sequence[Row], shared: Row = (), dumped: bytes | None = None
    ) -> None:
        assert callable(old)
        old(one, insert, rows, shared, dumped)
        if insert.once:
            run = one._planned.pop()
            one._planned.append(replace(run, text=run.text + b" ON CONFLICT DO NOTHING", rows=None))

    return insert


def _building_on(old: object) -> object:
    """What is in the wire for the next batch goes as it was planned."""

    def undo(one: writer.Writer, failed: wire.Wire) -> None:
        assert callable(old)
        ahead = one._ahead
        old(one, failed)
        one._ahead = ahead

    return undo


def _keeping_a_refusal(ws: WorkingSet, actor: str) -> None:
    ws.refusals.admit(actor, ws.refused[actor])
    ws.refused[actor] += 1


def _backwards(accounts: Iterable[AccountRow]) -> list[AccountRow]:
    return sorted(accounts, key=lambda account: account.id, reverse=True)


def _unconfirmed(one: PostgresWire) -> None:
    """The answers are read and not looked at."""
    if not one._unconfirmed:
        one.send()
    one._pipeline.receive()
    one._unconfirmed = []


def _clamped(old: object) -> object:
    def spend(ws: WorkingSet, hold: HoldRow, usage: UsageRow, at_us: int) -> None:
        assert callable(old)
        old(ws, hold, usage._replace(amount=usage.amount - usage.overrun, overrun=0), at_us)

    return spend


def _close_without_release(ws: WorkingSet, hold: HoldRow, state: HoldState, at_us: int, txn_id: str, kind: str) -> None:
    hold.state, hold.closed_us, hold.changed = state.value, at_us, True


@pytest.fixture
def books(database: Database) -> Books:
    return ledgers.open_books(database, 100, 100)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_every_guard_holds(books: Books, scenario: Callable[[Books], None]) -> None:
    scenario(books)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.title)
def test_a_missing_guard_is_noticed(books: Books, mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant.engine not in (None, books.database.url.get_backend_name()):
        return  # SQLite has one lock on the whole database, with no order to get wrong; each has its own way to see a key twice
    monkeypatch.setattr(mutant.owner, mutant.name, mutant.change(getattr(mutant.owner, mutant.name)))
    # Either the scenario sees the wrong outcome, or the database's CHECK stands behind the guard.
    with pytest.raises((AssertionError, QuotaError, sqlite3.IntegrityError, psycopg.IntegrityError)):
        mutant.noticed_by(books)
