"""Frames of the wire into a run's container: whole however they are cut, and never larger than they may be."""

from __future__ import annotations

import pytest
from commons_exchange.wires import Frame, Kind, Reader, WireError, packed
from hypothesis import given
from hypothesis import strategies as st

FRAMES = st.lists(
    st.builds(Frame, st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=64)), max_size=8
)


@given(FRAMES, st.integers(1, 50))
def test_frames_come_out_as_they_went_in_however_the_wire_cuts_them(frames: list[Frame], size: int) -> None:
    sent = b"".join(packed(*one) for one in frames)
    reader = Reader(64)
    found = [frame for start in range(0, len(sent), size) for frame in reader.feed(sent[start : start + size])]
    assert found == frames


@pytest.mark.parametrize("wrong", [packed(Kind.DATA, 1, b"x" * 65), b"\0" * 9, b"\xff" * 9])
def test_what_is_no_frame_or_too_large_is_refused_before_it_is_kept(wrong: bytes) -> None:
    with pytest.raises(WireError):
        list(Reader(64).feed(wrong[:9]))
