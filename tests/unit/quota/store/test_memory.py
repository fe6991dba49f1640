"""What the ledger's writer remembers: only what has no further rows, only what is open, and nothing while it is in doubt."""

from __future__ import annotations

from quota.domain.hold import LimitUse
from quota.domain.ids import HoldId
from quota.store import operations as ops
from quota.store.memory import Memory
from quota.store.working_set import HoldRow, fresh_hold
from tests.unit.quota.store.test_operations import ORDER


def _row(hold_id: str, *limits: LimitUse) -> HoldRow:
    return fresh_hold(ops.place_hold(ORDER._replace(id=HoldId(hold_id), limits=limits)), None, 1)


def test_an_open_hold_is_remembered_until_a_batch_takes_it() -> None:
    memory, row = Memory(), _row("hold-0001")
    memory.keep([row])
    assert "hold-0001" in memory
    taken = memory.take("hold-0001")
    assert (taken.fresh, taken.seen_amount, taken.seen_line_count) == (False, row.amount, 1)
    assert "hold-0001" not in memory


def test_what_is_closed_counts_against_limits_or_has_further_lines_is_not_remembered() -> None:
    memory, closed, topped = Memory(), _row("hold-0001"), _row("hold-0002")
    closed.state, topped.line_count = "settled", 2
    memory.keep([closed, topped, _row("hold-0003", LimitUse("member-1", 1))])
    assert not any(f"hold-000{number}" in memory for number in (1, 2, 3))


def test_the_oldest_are_forgotten_first() -> None:
    memory = Memory(holds_max=2)
    memory.keep([_row(f"hold-000{number}") for number in range(3)])
    assert "hold-0000" not in memory
    assert "hold-0002" in memory


def test_a_doubt_lasts_for_some_batches() -> None:
    memory = Memory(doubted_batches=2)
    memory.doubt()
    assert not memory.serves
    memory.keep([])
    memory.keep([])
    assert memory.serves
