"""Holds over HTTP: many clients, each with a connection of its own, against one process of the quota service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from quota.domain.ids import new_id
from tests.bench.hold_server import ACTOR, PROJECT
from tests.integration.quota_service import CREDENTIAL, ROOT
from tests.ports import free_port

_BODY = f'{{"kind":"request","actor":"{ACTOR}","project_id":"{PROJECT}","model":"bench","tokens":100,"lease_s":600}}'


@dataclass(frozen=True)
class HttpRate:
    """What a round measured; `cpu_us` is the server's, a request."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


def measure(url: str, clients: int, seconds: float) -> HttpRate:
    """Start the service on an empty database and place holds for `seconds`; each is authenticated, decided and committed."""
    with _serving(url) as (port, process):
        asyncio.run(_load(port, clients, 0.5))  # the first requests compile statements
        cpu = process.cpu_times()
        times_s, took_s = asyncio.run(_load(port, clients, seconds))
        after = process.cpu_times()
    times_s.sort()
    count = len(times_s)
    used_s = after.user + after.system - cpu.user - cpu.system
    return HttpRate(count / took_s, times_s[count // 2] * 1000, times_s[count * 99 // 100] * 1000, used_s / count * 1e6)


@contextmanager
def _serving(url: str) -> Iterator[tuple[int, psutil.Process]]:
    port = free_port()
    argv = [sys.executable, "-m", "tests.bench.hold_server", url, str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield port, psutil.Process(server.pid)
        finally:
            server.terminate()


async def _load(port: int, clients: int, seconds: float) -> tuple[list[float], float]:
    times_s: list[float] = []
    end_s = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ended_s = 0.0
        while ended_s < end_s:  # once at least, however loaded the machine is
            began_s = time.perf_counter()
            writer.write(_request())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 201"), head
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            ended_s = time.perf_counter()
            times_s.append(ended_s - began_s)
        writer.close()

    began_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return times_s, time.perf_counter() - began_s


def _request() -> bytes:
    lines = (
        f"PUT {ROOT}/internal/request-holds/{new_id()} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {CREDENTIAL}",
        "Content-Type: application/json",
        f"Content-Length: {len(_BODY)}",
        "",
        _BODY,
    )
    return "\r\n".join(lines).encode()
