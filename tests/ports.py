"""Ports for the servers of tests: each process has a block of its own, so that suites side by side never choose the same one.

The blocks are below Linux's range for outgoing connections (ip_local_port_range, 32768 up) and below the portal's own candidates
(deploy/onehost/ports.py): a port stays its server's while that is still starting, or down between two starts. A block belongs to who
holds its file's lock, which the kernel gives back when the process ends, however it ends; no socket, which another process would
not see while this one is in the engine's network namespace.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

BLOCKS: Final = range(9_000, 18_000, 250)
_PLACE: Final = Path("/tmp")


def claim_of(first: int) -> Path:
    """The file whose lock is the claim on a block."""
    return _PLACE / f"commons-test-ports-{os.getuid()}-{first}"


@cache
def _turns() -> tuple[int, Iterator[int]]:
    """This process's claim on its block, and the block's ports over and over."""
    for first in BLOCKS:
        claim = os.open(claim_of(first), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            continue
        return claim, itertools.cycle(range(first, first + BLOCKS.step))
    raise RuntimeError(f"{len(BLOCKS)} processes that run tests hold every block of ports")


def free_port() -> int:
    """A port of this process's block that nobody listens on, at any address; it comes again after the block's others."""
    _, turns = _turns()
    for port in itertools.islice(turns, BLOCKS.step):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port of this process's block is taken")
