"""What the ledger's writer remembers: only what has no further rows, only what is open, and nothing while it is in doubt."""

from __future__ import annotations

from quota.domain.hold import LimitUse
from quota.domain.ids import HoldId
from quota.store import operations as ops
from quota.store.memory import Memory
from quota.store.working_set import AccountRow, HoldRow, WorkingSet, fresh_hold
from tests.unit.quota.store.test_operations import ORDER


def _row(hold_id: str, *limits: LimitUse) -> HoldRow:
    return fresh_hold(ops.place_hold(ORDER._replace(id=HoldId(hold_id), limits=limits)), None, 1)


def _left(*rows: HoldRow) -> WorkingSet:
    return WorkingSet(holds={row.id: row for row in rows})


def _account(account_id: str) -> AccountRow:
    return AccountRow(account_id, "gpu_ms", "project-1", 0, 100, 1000, 20, 10, False, 3)


def test_an_open_hold_is_remembered_until_a_batch_takes_it() -> None:
    memory, row = Memory(), _row("hold-0001")
    memory.keep(_left(row))
    assert "hold-0001" in memory.holds
    taken = memory.holds["hold-0001"]
    assert (taken.fresh, taken.seen_amount, taken.seen_line_count) == (False, row.amount, 1)
    memory.taken(_left(taken))
    assert "hold-0001" not in memory.holds


def test_what_is_closed_counts_against_limits_or_has_further_lines_is_not_remembered() -> None:
    memory, closed, topped = Memory(), _row("hold-0001"), _row("hold-0002")
    closed.state, topped.line_count = "settled", 2
    memory.keep(_left(closed, topped, _row("hold-0003", LimitUse("member-1", 1))))
    assert not any(f"hold-000{number}" in memory.holds for number in (1, 2, 3))


def test_the_oldest_are_forgotten_first() -> None:
    memory = Memory(holds_max=2)
    memory.keep(_left(*(_row(f"hold-000{number}") for number in range(3))))
    assert "hold-0000" not in memory.holds
    assert "hold-0002" in memory.holds


def test_a_doubt_lasts_for_some_batches() -> None:
    memory = Memory(doubted_batches=2)
    memory.doubt()
    assert not memory.serves
    memory.keep(_left(_row("hold-0001")))
    memory.committed()
    assert not memory.serves
    memory.committed()
    assert memory.serves
    assert "hold-0001" not in memory.holds


def test_an_account_is_remembered_as_the_batch_leaves_it() -> None:
    memory, ws = Memory(), WorkingSet()
    moved, looked_at, untouched = (_account(f"account-{number}") for number in range(3))
    moved.move(held=7, charged=2)
    looked_at.judged = looked_at.remembered = untouched.remembered = True
    ws.accounts = {one.id: one for one in (moved, looked_at, untouched)}
    memory.keep(ws)
    assert memory.accounts([*ws.accounts, "account-9"]) is None
    found = memory.accounts(ws.accounts)
    assert found is not None
    taken = list(found.values())
    assert [one.version for one in taken] == [4, 4, 3]
    assert [(one.held, one.charged, one.d_held, one.d_charged) for one in taken[:1]] == [(17, 22, 0, 0)]
    assert all(one.remembered and not one.touched for one in taken)
    memory.taken(ws)
    assert memory.accounts(["account-0"]) is None


def test_a_doubt_about_accounts_leaves_holds_remembered() -> None:
    memory = Memory(doubted_batches=1)
    memory.doubt_accounts()
    assert (memory.serves, memory.serves_accounts) == (True, False)
    ws = _left(_row("hold-0001"))
    ws.accounts["account-0"] = _account("account-0")
    memory.keep(ws)
    assert "hold-0001" in memory.holds
    assert memory.accounts(["account-0"]) is None
    memory.committed()
    assert memory.serves_accounts


def test_what_is_forgotten_is_gone() -> None:
    memory = Memory(accounts_max=1)
    ws = _left(_row("hold-0001"))
    ws.accounts["account-0"] = _account("account-0")
    memory.keep(ws)
    memory.clear()
    assert "hold-0001" not in memory.holds
    assert memory.accounts(["account-0"]) is None
    for number in range(2):
        ws = WorkingSet(accounts={f"account-{number}": _account(f"account-{number}")})
        memory.keep(ws)
    assert memory.accounts(["account-1"])
    assert memory.accounts(["account-0"]) is None
