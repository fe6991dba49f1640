"""A chain's hash notices every way in which rows can be tampered with."""

from __future__ import annotations

from typing import Any

import pytest

from quota.store.chain import audit_hash, link_hash

ROWS = [["a", 1, None], ["b", -1, "x"]]


@pytest.mark.parametrize(
    "rows",
    [
        [["a", 2, None], ["b", -1, "x"]],
        [["b", -1, "x"], ["a", 1, None]],
        [["a", 1, None]],
        [*ROWS, ["c", 0, None]],
        [["a", 1, ""], ["b", -1, "x"]],
        [["a", "1", None], ["b", -1, "x"]],
        [],
    ],
)
def test_any_other_rows_have_another_hash(rows: list[list[Any]]) -> None:
    assert link_hash("head", rows) != link_hash("head", ROWS)


def test_the_hash_covers_the_link_before() -> None:
    assert link_hash("head", ROWS) != link_hash("", ROWS)


def test_rows_cannot_move_from_one_part_to_the_other() -> None:
    assert link_hash("", ROWS, []) != link_hash("", [], ROWS)


def test_an_audit_row_is_hashed_without_its_own_hash() -> None:
    row = {"seq": 1, "prev_hash": "", "actor": "ann"}
    assert audit_hash({**row, "hash": "x"}) == audit_hash(row)
    assert audit_hash({**row, "actor": "eve"}) != audit_hash(row)
