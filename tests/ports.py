"""Ports for the servers of tests: each process has a block of its own, so that suites side by side never choose the same one.

The blocks are below Linux's range for outgoing connections (ip_local_port_range, 32768 up) and below the portal's own candidates
(deploy/onehost/ports.py): a port stays its server's while that is still starting, or down between two starts. A block belongs to who
holds its name as an abstract Unix socket, which the kernel gives back when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Iterator
from functools import cache
from typing import Final

BLOCKS: Final = range(9_000, 18_000, 250)


@cache
def _turns() -> tuple[socket.socket, Iterator[int]]:
    """This process's claim on its block, and the block's ports over and over."""
    for first in BLOCKS:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0commons-test-ports-{first}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
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
