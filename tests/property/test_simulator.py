"""Seeded histories with crashes, lost replies, late and repeated usage: every promise holds, and a seed replays exactly."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from quota.store import statements as sql
from quota.store.wire import Statement
from tests.simulator import runs

_POINTS = tuple(
    f"{strike} {call} {when}"
    for strike in ("crash", "cut")
    for call in ("begin", "select", "update", "insert", "send", "commit", "commit with the next")
    for when in ("before", "after")
)
_ENOUGH = 400  # seeds within which a planted bug must show


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What a writer says about each fault is of no interest here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("histories", [500, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(1200)])])
def test_no_history_breaks_a_promise(histories: int) -> None:
    covered = runs.several(0, histories)
    print(covered)
    assert covered.histories == histories
    assert [point for point in _POINTS if not covered.struck[point]] == []


def test_the_same_seed_is_the_same_history() -> None:
    for seed in range(20):
        assert runs.one(seed).trace == runs.one(seed).trace
    assert runs.one(1).digest != runs.one(2).digest


@pytest.mark.parametrize(
    ("statement", "guard", "instead"),
    [
        ("LINK_OF", "l.n = k.n", "l.n = k.n + 1"),
        ("MOVE_HEAD", "head_hash = d.hash", "head_hash = ''"),
        ("MOVE_ACCOUNTS", "charged = account.charged + d.charged", "charged = d.charged"),
        ("MOVE_ACCOUNTS", "(d.takes = 0 OR NOT account.frozen)", "account.id = d.id OR account.held = 0"),
        ("MOVE_LIMITS", "limit_counter.charged + d.charged,", "limit_counter.charged,"),
    ],
)
def test_a_planted_bug_is_caught_and_its_seed_replays_exactly(
    monkeypatch: pytest.MonkeyPatch, statement: str, guard: str, instead: str
) -> None:
    right: Statement = getattr(sql, statement)
    assert guard in right.sql
    monkeypatch.setattr(sql, statement, replace(right, sql=right.sql.replace(guard, instead)))
    with pytest.raises(runs.Failed) as caught:
        runs.some(range(_ENOUGH))
    first = caught.value
    with pytest.raises(runs.Failed) as again:
        runs.one(first.seed)
    assert (again.value.why, again.value.trace) == (first.why, first.trace)
    monkeypatch.undo()
    runs.one(first.seed)
