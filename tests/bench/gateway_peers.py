"""What `bench gateway` compares: each a process on one core, ready when it answers; ended with the benchmark."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

import psutil
from sqlalchemy import make_url

from quota.store.database import url_for
from tests.integration.postgres import running_postgres
from tests.litellm_environment import litellm_programs
from tests.portal import ROOT
from tests.ports import free_port

_PATH: Final = "/v1/chat/completions"
_READY_S: Final = 120


class Kind(StrEnum):
    """How our gateway runs: on its own server (over SQLite, PostgreSQL, a ledger that writes nothing), or behind the quota service's."""

    GATEWAY = "gateway"
    POSTGRESQL = "postgresql"
    INSTANT = "instant"
    EMBEDDED = "embedded"


@dataclass(frozen=True)
class Peer:
    """Where a round sends its load, and whose CPU time it takes; `start_s` from the start of the process to its first answer.

    `ledger` is the SQLite file of a gateway that has one.
    """

    name: str
    port: int
    path: str
    key: str
    process: psutil.Process
    start_s: float
    ledger: Path | None = None

    def batches(self) -> int:
        """The ledger's commits so far; 0 without a ledger in a file."""
        if self.ledger is None:
            return 0
        with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT max(id) FROM ledger_link").fetchone()[0])

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@contextmanager
def direct(core: int) -> Iterator[Peer]:
    """The stub model server itself."""
    port = free_port()
    with _process([sys.executable, "-m", "tests.bench.gateway_processes", "stub", str(port)], core) as process:
        yield _peer("direct", process, port, _PATH)


@contextmanager
def nginx(folder: Path, upstream: Peer, core: int) -> Iterator[Peer]:
    """Debian's nginx, one worker, connections to the stub kept."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert program is not None, "apt-get install nginx-light, or --without nginx"
    folder.mkdir()
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; user root;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream stub {{ server 127.0.0.1:{upstream.port}; keepalive 256; keepalive_requests 1000000; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
}}
"""
    )
    with _process([program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")], core) as process:
        yield _peer("nginx", process, port, _PATH)


@contextmanager
def bare(upstream: Peer, core: int) -> Iterator[Peer]:
    """An ASGI application of twenty lines under uvicorn, with one shared aiohttp client and no accounting."""
    port = free_port()
    argv = [
        sys.executable,
        "-m",
        "tests.bench.gateway_processes",
        "bare",
        str(port),
        f"http://127.0.0.1:{upstream.port}",
    ]
    with _process(argv, core) as process:
        yield _peer("bare", process, port, _PATH)


@contextmanager
def gateway(folder: Path, upstream: Peer, core: int, kind: Kind) -> Iterator[Peer]:
    """Our gateway; over PostgreSQL it shares nothing with the server, which runs where the benchmark does."""
    port = free_port()
    folder.mkdir()
    upstream_url = f"http://127.0.0.1:{upstream.port}/v1"
    with ExitStack() as stack:
        url = url_for(folder)
        if kind is Kind.POSTGRESQL:
            url = stack.enter_context(running_postgres()).new_database()
        program = [sys.executable, "-m", "tests.bench.gateway_processes"]
        argv = [*program, kind.value, str(port), upstream_url, str(folder), url]
        process = stack.enter_context(_process(argv, core))
        assert process.stdout is not None
        key = process.stdout.readline().decode().strip()
        peer = _peer(kind.value, process, port, f"/services/gateway{_PATH}", key)
        on_sqlite = make_url(url).database if kind in (Kind.GATEWAY, Kind.EMBEDDED) else None
        yield peer if on_sqlite is None else replace(peer, ledger=Path(on_sqlite))


@contextmanager
def litellm(folder: Path, upstream: Peer, core: int) -> Iterator[Peer]:
    """LiteLLM's proxy, pinned, in an environment of its own; without the database that its budgets need."""
    program = litellm_programs() / "litellm"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        f"""
model_list:
  - model_name: stub
    litellm_params: {{model: openai/stub, api_base: "http://127.0.0.1:{upstream.port}/v1", api_key: k}}
litellm_settings: {{telemetry: false}}
general_settings: {{master_key: sk-bench}}
"""
    )
    port = free_port()
    argv = [str(program), "--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}
    with _process(argv, core, offline, said=subprocess.DEVNULL) as process:
        yield _peer("litellm", process, port, _PATH, "sk-bench")


@contextmanager
def _process(
    argv: list[str], core: int, variables: dict[str, str] | None = None, *, said: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """A peer on its core; one that says a line for each request needs `said` elsewhere than in a pipe, which nobody empties."""
    environment = {**os.environ, **(variables or {})}
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *argv],
        cwd=ROOT,
        env=environment,
        stdout=said,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _peer(name: str, process: subprocess.Popen[bytes], port: int, path: str, key: str = "k") -> Peer:
    """Wait until it answers."""
    began = psutil.Process(process.pid).create_time()
    deadline = time.monotonic() + _READY_S
    while True:
        assert process.poll() is None, f"{name} ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, f"{name} does not listen on {port}"
            time.sleep(0.05)
    return Peer(name, port, path, key, psutil.Process(process.pid), time.time() - began)
