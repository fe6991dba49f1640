"""What is special in a stream is found by words first: as the pattern alone finds it, only faster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.gateway.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect

_WORDS = (
    b"[DONE]", b'"error"', b'"usage"', b":", b" ", b"null", b"{", b"0", b"response.", b"completed", b"incomplete", b"failed",
    b"message_", b"start", b"delta", b"stop", b"data: ", b"\n\n", b'"delta"',
)  # fmt: skip


@pytest.mark.parametrize("dialect", [OPENAI, RESPONSES, ANTHROPIC])
@given(events=st.lists(st.sampled_from(_WORDS), max_size=40).map(b"".join))
def test_what_is_special_is_where_the_pattern_finds_it(dialect: Dialect, events: bytes) -> None:
    found = dialect.special.search(events)
    assert dialect.first_special(events) == (-1 if found is None else found.start())
