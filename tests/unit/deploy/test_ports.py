"""Inner ports."""

from __future__ import annotations

from deploy.onehost.ports import CANDIDATES

LINUX_FIRST_OUTGOING_PORT = 32_768


def test_inner_ports_are_none_that_an_outgoing_connection_may_take() -> None:
    assert CANDIDATES.stop <= LINUX_FIRST_OUTGOING_PORT
    assert CANDIDATES.start > 1024
