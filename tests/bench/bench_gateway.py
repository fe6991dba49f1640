"""What the gateway costs: CPU a request and a stream, latency that it adds, throughput beside the stub model server itself.

The gateway has one core to itself; stub and load share the other. Full accounting on a real SQLite ledger: a durable hold before each
request is forwarded, a durable settlement before its last byte. Rounds with and without the gateway are interleaved.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil
import uvloop

from tests.bench.result import BenchResult, Better, Goal
from tests.portal import ROOT, free_port

GATEWAY_PATH = "/services/gateway/v1/chat/completions"
STUB_PATH = "/v1/chat/completions"
_PLAIN = '{"model":"stub","messages":[{"role":"user","content":"How many tokens has this?"}],"max_tokens":100}'
_STREAM = _PLAIN[:-1] + ',"stream":true}'


@dataclass
class Round:
    """What one round of load measured."""

    requests: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.requests * 1e6

    def percentile_ms(self, share: float) -> float:
        return sorted(self.latencies_s)[int(len(self.latencies_s) * share)] * 1000


@dataclass(frozen=True)
class Target:
    """Where a round sends its load, and whose CPU time it takes."""

    port: int
    path: str
    key: str
    process: psutil.Process


def main(arguments: Sequence[str]) -> BenchResult:
    """Run all rounds."""
    parser = argparse.ArgumentParser(prog="./commons bench gateway")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, _targets(Path(folder), cores) as (direct, gateway):
        os.sched_setaffinity(0, {cores[-1]})
        try:
            return uvloop.run(_measure(direct, gateway, options.seconds, options.rounds))
        finally:
            os.sched_setaffinity(0, cores)


async def _measure(direct: Target, gateway: Target, seconds: float, rounds: int) -> BenchResult:
    found: dict[str, list[Round]] = {}
    for target in (direct, gateway):
        await _round(target, _PLAIN, 8, 1.0)
    for _ in range(rounds):
        for name, body, connections in (("json_c1", _PLAIN, 1), ("json_c32", _PLAIN, 32), ("sse_c16", _STREAM, 16)):
            for kind, target in (("direct", direct), ("gateway", gateway)):
                found.setdefault(f"{name}_{kind}", []).append(await _round(target, body, connections, seconds))
    middle = {name: sorted(some, key=lambda one: one.rate)[len(some) // 2] for name, some in found.items()}
    cpu_us = statistics.median(one.cpu_us for one in found["json_c32_gateway"])
    share = middle["sse_c16_gateway"].rate / middle["sse_c16_direct"].rate
    figures: dict[str, float | int | str] = {}
    for name, one in middle.items():
        figures[f"{name}_per_s"] = one.rate
        figures[f"{name}_p50_ms"] = one.percentile_ms(0.5)
        figures[f"{name}_p99_ms"] = one.percentile_ms(0.99)
    for name in ("json_c1", "sse_c16"):
        figures[f"{name}_gateway_cpu_us"] = statistics.median(one.cpu_us for one in found[f"{name}_gateway"])
    figures["gateway_rss_mb"] = gateway.process.memory_info().rss / 2**20
    figures["http_parser"] = "httptools" if find_spec("httptools") else "h11"
    goals = [
        Goal("cpu_per_request_us", cpu_us, 150, Better.LOWER),
        Goal("sse_share_of_direct", share, 0.5, Better.HIGHER),
    ]
    return BenchResult("gateway", goals, figures)


async def _round(target: Target, body: str, connections: int, seconds: float) -> Round:
    request = (
        f"POST {target.path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {target.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    end = b"0\r\n\r\n" if body is _STREAM else b""
    done = Round()
    before, began = sum(target.process.cpu_times()[:2]), time.perf_counter()
    await asyncio.gather(*[_connection(target.port, request, end, began + seconds, done) for _ in range(connections)])
    done.seconds = time.perf_counter() - began
    done.cpu_s = sum(target.process.cpu_times()[:2]) - before
    return done


async def _connection(port: int, request: bytes, end: bytes, until: float, done: Round) -> None:
    """One client: a request after the other over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (began := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        if end:
            await reader.readuntil(end)
        else:
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
        done.latencies_s.append(time.perf_counter() - began)
        done.requests += 1
    writer.close()


@contextmanager
def _targets(folder: Path, cores: list[int]) -> Iterator[tuple[Target, Target]]:
    stub_port, port = free_port(), free_port()
    upstream = f"http://127.0.0.1:{stub_port}/v1"
    with _process(["stub", str(stub_port)], cores[-1]) as stub:
        arguments = ["gateway", str(port), upstream, str(folder / "data")]
        with _process(arguments, cores[0]) as gateway:
            assert gateway.stdout is not None
            key = gateway.stdout.readline().decode().strip()
            for one in (stub_port, port):
                _wait(one)
            yield (
                Target(stub_port, STUB_PATH, "k", psutil.Process(stub.pid)),
                Target(port, GATEWAY_PATH, key, psutil.Process(gateway.pid)),
            )


@contextmanager
def _process(arguments: list[str], core: int) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "tests.bench.gateway_processes", *arguments]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
    os.sched_setaffinity(process.pid, {core})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nothing listens on {port}")
