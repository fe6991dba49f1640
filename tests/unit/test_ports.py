"""Ports of tests: never one that somebody listens on, and never the same for two processes side by side."""

from __future__ import annotations

import fcntl
import socket
import subprocess
import sys
from pathlib import Path

from tests import ports

ROOT = Path(__file__).resolve().parent.parent.parent


def block_of(port: int) -> int:
    return port - (port - ports.BLOCKS.start) % ports.BLOCKS.step


def test_a_port_that_somebody_listens_on_is_passed_over() -> None:
    given = [ports.free_port() for _ in range(3)]
    with socket.socket() as server:
        server.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # ended connections of the block's holder before may linger
        server.bind(("127.0.0.1", given[1]))
        server.listen()
        again = {ports.free_port() for _ in range(ports.BLOCKS.step)}
    assert len(set(given)) == 3
    assert given[0] in again
    assert given[1] not in again


def test_another_process_has_a_block_of_its_own_and_leaves_it_when_it_ends() -> None:
    own = block_of(ports.free_port())
    program = "from tests.ports import free_port; print(free_port(), flush=True); input()"
    argv = [sys.executable, "-c", program]
    # The second one is in a network namespace of its own, as who works with the engine is, and may come back from there.
    others = [
        subprocess.Popen([*before, *argv], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for before in ((), ("unshare", "--map-current-user", "--net"))
    ]
    blocks = []
    for one in others:
        assert one.stdout is not None
        blocks.append(block_of(int(one.stdout.readline())))
    assert len({own, *blocks}) == 3
    for one, block in zip(others, blocks, strict=True):
        one.kill()
        one.communicate()
        with ports.claim_of(block).open() as claim:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
