"""Ports for servers that listen later."""

from __future__ import annotations

import socket
from pathlib import Path

from spawners.ports import CANDIDATES, LOOPBACK, free_port


def test_a_port_is_none_that_an_outgoing_connection_could_get() -> None:
    _, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert last < CANDIDATES.start


def test_ports_that_were_given_come_last_and_taken_ones_not_at_all() -> None:
    first = [free_port() for _ in range(len(CANDIDATES) // 2)]
    with socket.socket() as other:
        taken = free_port()
        other.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # an ended connection of an earlier server's may linger
        other.bind((LOOPBACK, taken))
        other.listen()
        rest = [free_port() for _ in range(len(CANDIDATES) // 2 - 100)]  # others' servers are passed over
        whole_round = [free_port() for _ in range(len(CANDIDATES))]
    assert len(set(first)) == len(first)
    assert set(first).isdisjoint(rest)
    assert taken not in whole_round
