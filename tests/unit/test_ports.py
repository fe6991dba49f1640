"""Ports of tests: never one that somebody listens on, and never the same for two processes side by side."""

from __future__ import annotations

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
        server.bind(("127.0.0.1", given[1]))
        server.listen()
        again = {ports.free_port() for _ in range(ports.BLOCKS.step)}
    assert len(set(given)) == 3
    assert given[0] in again
    assert given[1] not in again


def test_another_process_has_a_block_of_its_own_and_leaves_it_when_it_ends() -> None:
    own = block_of(ports.free_port())
    program = "from tests.ports import free_port; print(free_port(), flush=True); input()"
    others = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    blocks = []
    for one in others:
        assert one.stdout is not None
        blocks.append(block_of(int(one.stdout.readline())))
        one.kill()
        one.communicate()
    assert len({own, *blocks}) == 3
    for block in blocks:
        with socket.socket(socket.AF_UNIX) as claim:
            claim.bind(f"\0commons-test-ports-{block}")
