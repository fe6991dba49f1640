"""Ports of 127.0.0.1 for servers that listen a while after their port was chosen: a notebook's, a formgrader's.

The system's own choice is a port of the range from which outgoing connections take theirs: on a busy machine one of these had it before
the server listened, which then ended. Invariants: the ports are above Linux's default range (a host that widens ip_local_port_range keeps
them out of it by ip_local_reserved_ports); one process gives the same port again only after all the others.
"""

import contextlib
import itertools
import random
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"
CANDIDATES: Final = range(61_000, 65_000)
_first: Final = random.SystemRandom().randrange(len(CANDIDATES))  # another process begins elsewhere
_turns: Final = itertools.cycle([*CANDIDATES[_first:], *CANDIDATES[:_first]])


def free_port() -> int:
    """A port on which nobody listens. Raises OSError where there is none."""
    for port in itertools.islice(_turns, len(CANDIDATES)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
            return port
    raise OSError(f"every port from {CANDIDATES.start} to {CANDIDATES.stop - 1} is taken")
