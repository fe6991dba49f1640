"""What a server reports: believed, or counted by us."""

from __future__ import annotations

import pytest

from quota.gateway.usage import Counts, estimated_tokens, other_bytes, read_report, tokens_of


def test_explicit_zero_is_zero() -> None:
    assert read_report({"prompt_tokens": 0, "completion_tokens": 0}, most=10) == Counts(0, 0)


@pytest.mark.parametrize(
    "report",
    [
        None, 5, [], {}, {"prompt_tokens": 1}, {"completion_tokens": 1}, {"prompt_tokens": None, "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": 1, "completion_tokens": 10**18},
        {"prompt_tokens": float("nan"), "completion_tokens": 1}, {"prompt_tokens": float("inf"), "completion_tokens": 1},
        {"prompt_tokens": 1.0, "completion_tokens": 1}, {"prompt_tokens": "1", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1}, {"total_tokens": 5},
    ],
)  # fmt: skip
def test_what_no_model_can_say_is_missing(report: object) -> None:
    assert read_report(report, most=1000) is None


def test_details_are_kept_where_they_make_sense() -> None:
    report = {
        "prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }  # fmt: skip
    assert read_report(report, most=100) == Counts(10, 5, cached=8, reasoning=3)
    odd = {**report, "prompt_tokens_details": {"cached_tokens": 11}, "completion_tokens_details": []}
    assert read_report(odd, most=100) == Counts(10, 5)


def test_a_total_that_disagrees_is_not_used() -> None:
    found = read_report({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 99}, most=100)
    assert found is not None
    assert found.total == 3


def test_an_estimate_is_the_same_in_pieces() -> None:
    pieces = [b"hello world", b" 12345", "量化".encode(), b"", b"!"]
    size, others = sum(map(len, pieces)), sum(map(other_bytes, pieces))
    assert tokens_of(size, others) == estimated_tokens(b"".join(pieces))


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("abc", 1), ("abcd", 2), ("123", 3), ("量", 3), ("a 1", 2)])
def test_letters_come_three_to_a_token_and_other_bytes_one(text: str, tokens: int) -> None:
    assert estimated_tokens(text.encode()) == tokens
