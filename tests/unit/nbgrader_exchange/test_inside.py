"""The first program of a run's container: whatever order its streams end in, it goes on until its kernel, its time or its grader ends."""

from __future__ import annotations

import os
import selectors
import socket
from pathlib import Path

from commons_exchange.inside import Inside
from commons_exchange.wires import Kind, packed


def test_a_stream_that_its_client_closes_while_the_kernel_answers_ends_nothing_else(tmp_path: Path) -> None:
    """As the heartbeat of a client who waited for a second: the kernel answers on the old stream when that is closed."""
    wire_in, grader = os.pipe()
    inside = Inside(wire_in, os.open(os.devnull, os.O_WRONLY), tmp_path, tmp_path)
    kernel, inside._streams[1] = socket.socketpair()
    inside._selector.register(inside._streams[1], selectors.EVENT_READ, lambda: inside._pass_on(1))
    os.write(grader, packed(Kind.CLOSE, 1))
    kernel.send(b"pong")
    os.close(grader)
    assert inside.run() == 0
    assert inside._streams == {}
