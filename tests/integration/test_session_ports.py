"""Ports for servers that listen a while after their port was chosen."""

from __future__ import annotations

import socket

from spawners import job_runner
from spawners.ports import CANDIDATES, LOOPBACK, free_port


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


def test_an_ended_connection_keeps_no_job_from_the_port_of_its_server() -> None:
    with socket.create_server((LOOPBACK, free_port())) as server:
        port = server.getsockname()[1]
        client = socket.create_connection((LOOPBACK, port))
        served, _ = server.accept()
        served.close()  # who closes first keeps the connection for a minute (TIME_WAIT)
        assert client.recv(1) == b""
        client.close()
    assert job_runner.free_port(LOOPBACK, port, port) == port


def test_a_job_without_a_range_of_ports_chooses_among_the_same_ones() -> None:
    assert all(job_runner.free_port(LOOPBACK, 0, 0) in CANDIDATES for _ in range(200))
    taken = free_port()
    assert job_runner.free_port(LOOPBACK, taken, taken) == taken
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((LOOPBACK, taken))
        other.listen()
        assert job_runner.free_port(LOOPBACK, taken, taken) == 0
