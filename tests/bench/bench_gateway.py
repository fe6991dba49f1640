"""What the gateway costs: CPU a request and a stream, latency that it adds, throughput beside others that do less.

Each proxy has one core to itself; stub and load share the other. The gateway runs with full accounting on a real SQLite ledger: a durable
hold before each request is forwarded, a durable settlement behind its last byte (before it, where it is `embedded`). Rounds are
interleaved: direct, nginx (no accounting), bare ASGI with a shared aiohttp client (none), the gateway on a ledger that writes nothing, the
gateway, the gateway on PostgreSQL (whose server shares the other core with stub and load), the gateway behind the quota service's server
(as one process on SQLite has it), and LiteLLM (pinned, in an environment of its own, without its database). `times_litellm_postgresql` is
beside the goal, which counts SQLite: one core for all that a request needs.
`…_requests_a_batch` says how large the ledger's batches were on SQLite: the fewer share one, the more CPU a request costs.
`--without litellm nginx …` leaves some out. Three rounds of three seconds take about six minutes on an idle machine, start-ups included;
a round ends by itself, half a minute late at most. Of the gateway's requests none may stay without an answer; LiteLLM's that do
(`litellm_unanswered`), or that are answered with an error, are counted out. A table by load and proxy comes before the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.bench.gateway_peers import Kind, Peer, bare, direct, gateway, litellm, nginx
from tests.bench.result import BenchResult, Better, Goal

PLAIN = '{"model":"stub","messages":[{"role":"user","content":"How many tokens has this?"}],"max_tokens":100}'
STREAM = PLAIN[:-1] + ',"stream":true}'
PACED = STREAM[:-1] + ',"user":"paced"}'
ANSWER_S = 30.0  # after the end of a round
OPTIONAL = ("nginx", "bare", "instant", "postgresql", "embedded", "litellm")
LOADS = (("json_c1", PLAIN, 1), ("json_c32", PLAIN, 32), ("sse_c16", STREAM, 16), ("paced_c64", PACED, 64))


@dataclass
class Round:
    """What one round of load measured."""

    requests: int = 0
    seconds: float = 0.0  # to the last answer
    unanswered: int = 0
    failure: str = ""  # the last one
    cpu_s: float = 0.0
    batches: int = 0  # of the gateway's ledger, where it is on SQLite
    latencies_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.requests / self.seconds if self.requests else 0.0

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.requests * 1e6 if self.requests else 0.0

    def percentile_ms(self, share: float) -> float:
        return sorted(self.latencies_s)[int(len(self.latencies_s) * share)] * 1000 if self.latencies_s else 0.0


def main(arguments: Sequence[str]) -> BenchResult:
    """Run all rounds."""
    parser = argparse.ArgumentParser(prog="./commons bench gateway")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="*", default=[], choices=OPTIONAL)
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})  # and with it the database, which is given no core of its own
    try:
        with tempfile.TemporaryDirectory() as folder, _peers(Path(folder), cores, options.without) as peers:
            return uvloop.run(_measure(peers, options.seconds, options.rounds))
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def _peers(folder: Path, cores: list[int], without: Sequence[str]) -> Iterator[list[Peer]]:
    with ExitStack() as stack:
        first = stack.enter_context(direct(cores[-1]))
        others: dict[str, Callable[[], AbstractContextManager[Peer]]] = {
            "nginx": lambda: nginx(folder / "nginx", first, cores[0]),
            "bare": lambda: bare(first, cores[0]),
            "instant": lambda: gateway(folder / "instant", first, cores[0], Kind.INSTANT),
            "gateway": lambda: gateway(folder / "gateway", first, cores[0], Kind.GATEWAY),
            "postgresql": lambda: gateway(folder / "postgresql", first, cores[0], Kind.POSTGRESQL),
            "embedded": lambda: gateway(folder / "embedded", first, cores[0], Kind.EMBEDDED),
            "litellm": lambda: litellm(folder / "litellm", first, cores[0]),
        }
        yield [first, *[stack.enter_context(make()) for name, make in others.items() if name not in without]]


async def _measure(peers: list[Peer], seconds: float, rounds: int) -> BenchResult:
    found: dict[str, list[Round]] = {}
    for peer in peers:
        await _round(peer, PLAIN, 8, 1.0)
    for _ in range(rounds):
        for load, body, connections in LOADS:
            for peer in peers:
                found.setdefault(f"{load}_{peer.name}", []).append(await _round(peer, body, connections, seconds))
    return _result(peers, found)


def _result(peers: list[Peer], found: dict[str, list[Round]]) -> BenchResult:
    middle = {name: sorted(some, key=lambda one: one.rate)[len(some) // 2] for name, some in found.items()}
    cpu_us = {name: statistics.median(one.cpu_us for one in some) for name, some in found.items()}
    figures: dict[str, float | int | str] = {}
    for name, one in middle.items():
        figures[f"{name}_per_s"] = one.rate
        figures[f"{name}_p50_ms"] = one.percentile_ms(0.5)
        figures[f"{name}_p99_ms"] = one.percentile_ms(0.99)
        figures[f"{name}_cpu_us"] = cpu_us[name]
        if one.batches:
            figures[f"{name}_requests_a_batch"] = one.requests / one.batches
    for load, _, _ in LOADS:
        before = middle[f"{load}_direct"]
        for peer in peers[1:]:
            after = middle[f"{load}_{peer.name}"]
            for share, label in ((0.5, "p50"), (0.99, "p99")):
                added = after.percentile_ms(share) - before.percentile_ms(share)
                figures[f"{load}_{peer.name}_added_{label}_ms"] = added
    for peer in peers:
        figures[f"{peer.name}_rss_mb"] = sum(one.memory_info().rss for one in peer.family()) / 2**20
        figures[f"{peer.name}_start_s"] = peer.start_s
    goals = [
        Goal("cpu_per_request_us", cpu_us["json_c32_gateway"], 150, Better.LOWER),
        Goal("sse_share_of_direct", middle["sse_c16_gateway"].rate / middle["sse_c16_direct"].rate, 0.5, Better.HIGHER),
    ]
    if "json_c32_litellm" in middle:
        goals.append(Goal("times_litellm", _times(found, "gateway"), 40, Better.HIGHER))
        if "json_c32_postgresql" in middle:
            figures["times_litellm_postgresql"] = _times(found, "postgresql")
        figures["litellm_unanswered"] = sum(
            one.unanswered for name, some in found.items() if name.endswith("_litellm") for one in some
        )
        figures["times_litellm_by_cpu"] = cpu_us["json_c32_litellm"] / cpu_us["json_c32_gateway"]
    print(_by_load(peers, figures), flush=True)
    return BenchResult("gateway", goals, figures)


def _times(found: dict[str, list[Round]], name: str) -> float:
    """A peer's throughput over LiteLLM's at 32 connections."""
    pairs = zip(found[f"json_c32_{name}"], found["json_c32_litellm"], strict=True)
    return statistics.median(ours.rate / theirs.rate for ours, theirs in pairs if theirs.rate)


def _by_load(peers: list[Peer], figures: dict[str, float | int | str]) -> str:
    """A row a proxy and load; what is added is against direct."""
    lines = [f"{'':22}{'per s':>10}{'p50 ms':>9}{'p99 ms':>9}{'+p50':>9}{'+p99':>9}{'CPU µs':>9}"]
    for load, _, _ in LOADS:
        for peer in peers:
            row = f"{load}_{peer.name}"
            names = [
                f"{row}_{what}" for what in ("per_s", "p50_ms", "p99_ms", "added_p50_ms", "added_p99_ms", "cpu_us")
            ]
            cells = [figures.get(name, 0.0) for name in names]
            lines.append(
                f"{row:22}" + "".join(f"{cell:>{10 if number == 0 else 9}.2f}" for number, cell in enumerate(cells))
            )
    lines += [
        f"{one.name:22}{figures[f'{one.name}_rss_mb']:>10.0f} MB{figures[f'{one.name}_start_s']:>8.1f} s to start"
        for one in peers
    ]
    return "\n".join(lines)


async def _round(peer: Peer, body: str, connections: int, seconds: float) -> Round:
    request = (
        f"POST {peer.path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {peer.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    done = Round()
    batches, before, began = peer.batches(), _cpu_s(peer), time.perf_counter()
    await asyncio.gather(
        *[_until(peer.port, request, body is not PLAIN, began + seconds, done) for _ in range(connections)]
    )
    done.seconds -= began
    assert not done.unanswered or peer.name == "litellm", (peer.name, done.unanswered, done.failure)
    done.cpu_s = _cpu_s(peer) - before
    done.batches = peer.batches() - batches
    return done


def _cpu_s(peer: Peer) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in peer.family())


async def _until(port: int, request: bytes, streamed: bool, until: float, done: Round) -> None:
    try:
        async with asyncio.timeout(until - time.perf_counter() + ANSWER_S):
            await _connection(port, request, streamed, until, done)
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
        done.unanswered, done.failure = done.unanswered + 1, repr(error)[:200]


async def _connection(port: int, request: bytes, streamed: bool, until: float, done: Round) -> None:
    """One client: a request after the other over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while (began := time.perf_counter()) < until:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise ConnectionError(head)
            if b"content-length:" in head:
                await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
            else:
                assert streamed or b"chunked" in head, head
                await reader.readuntil(b"0\r\n\r\n")
            done.seconds = time.perf_counter()
            done.latencies_s.append(done.seconds - began)
            done.requests += 1
    finally:
        writer.close()
