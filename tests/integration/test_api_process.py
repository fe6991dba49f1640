"""The quota service as a process: it serves, ends without losing what waits, and survives kill -9 without charging twice."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.fernet import Fernet

from quota.adapters.spool_file import SpoolFile
from quota.domain.hold import Usage
from quota.domain.ids import HoldId
from quota.service.keys import session_key
from quota.service.ledger_ports import SpooledChange, SpooledVerb
from quota.settings import SECRETS
from quota.store.checkpoints import at_rest, write
from quota.store.database import open_database
from tests.fakes import START
from tests.integration.quota_service import running_service
from tests.portal import ROOT
from tests.ports import free_port
from tests.waiting import PATIENCE_S

START_MS = int(START.timestamp() * 1000)
PORTAL = """
[profiles.gpu1]
title = "GPU"
backend = "local"
hardware = "gpu"
cloud = "here"
applications = [{ id = "lab", title = "JupyterLab" }]
gpus = 1
cpus = 1
memory = "1 GiB"
default_runtime = "1 h"
longest_runtime = "12 h"
[policy]
meter_interval = "1 s"
[[rates]]
hardware = "gpu"
rate = "1"
valid_from = 2026-01-01
"""


@dataclass
class Process:
    """`python -m quota.main` on a data folder; no hub answers it."""

    folder: Path
    port: int
    entering: list[str] = field(default_factory=list)  # what stands before its commands where its data lie elsewhere
    running: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "COMMONS_PORTAL_FILE": str(self.folder / "portal.toml"),
            "COMMONS_DATA": str(self.folder),
            "COMMONS_PUBLIC_URL": "http://127.0.0.1:1/",
            "COMMONS_HUB_PORT": str(free_port()),
            "COMMONS_QUOTA_PORT": str(self.port),
            "COMMONS_WEB_PARTS": str(self.folder / "node_modules"),
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        argv = [*self.entering, sys.executable, "-m", *command]
        return subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def start(self) -> None:
        argv = [*self.entering, sys.executable, "-m", "quota.main", "serve"]
        with (self.folder / "quota.log").open("ab") as log:
            self.running = subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE_S
        while not self._healthy():
            assert self.running.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def end(self, number: int) -> int:
        assert self.running is not None
        if self.running.poll() is None:
            self.running.send_signal(number)
        return self.running.wait(PATIENCE_S)

    def internal(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        credential = (self.folder / "secrets" / "hub_credential").read_text()
        url = f"http://127.0.0.1:{self.port}/services/quota/api/internal{path}"
        headers = {"Authorization": f"Bearer {credential}", **headers}
        return httpx.request(method, url, json=body, headers=headers, timeout=PATIENCE_S, trust_env=False)

    def get(self, path: str, timeout_s: float = PATIENCE_S) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}/services/{path}", timeout=timeout_s, trust_env=False)

    @property
    def log(self) -> str:
        return (self.folder / "quota.log").read_text()

    def _healthy(self) -> bool:
        try:
            return self.get("quota/api/health", timeout_s=5).status_code == 200
        except httpx.TransportError:
            return False


def write_settings(folder: Path, portal: str) -> None:
    """A data folder with secrets and site file."""
    (folder / "secrets").mkdir()
    (folder / "quota").mkdir()
    for name in SECRETS:
        value = Fernet.generate_key().decode() if name == "cookie_key" else secrets.token_hex(32)
        (folder / "secrets" / name).write_text(value)
    (folder / "portal.toml").write_text(portal)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    write_settings(tmp_path, PORTAL)
    one = Process(tmp_path, free_port())
    yield one
    if one.running is not None and one.running.poll() is None:
        one.running.kill()
        one.running.wait()


async def held(folder: Path) -> str:
    """A project of 10 GPU-hours with a session held on it; returns the project's id. Done before the process starts."""
    async with running_service(folder) as service:
        project = await service.award("pi", gpu_hours="10", tokens=0)
        await service.register("admin")
        order = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu1", "application": "lab"}
        body = {**order, "runtime_s": 3600, "server_name": ""}
        assert (await service.hub("PUT", "/internal/holds/hold-0001", body)).status_code == 201
        return project


def runner_wrote(process: Process, alive_ms: int, ended_ms: int | None = None, *, start_ms: int = START_MS) -> None:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    ticks = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    end = "null" if ended_ms is None else str(start_ms + ended_ms)
    folder = process.folder / "sessions" / "hold-0001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "draft").write_text(
        f'{{"hold_id": "hold-0001", "runner_pid": {os.getpid()}, "runner_started": {ticks}, "boot_id": "{boot_id}",'
        f' "started_at_ms": {start_ms}, "last_alive_ms": {start_ms + alive_ms}, "ended_at_ms": {end},'
        f' "end_reason": {"null" if ended_ms is None else chr(34) + "exited" + chr(34)}}}'
    )
    (folder / "draft").replace(folder / "record.json")


def charged(process: Process, project: str) -> int:
    answer = process.internal("GET", f"/admin/projects/{project}", **{"X-Commons-Actor": "admin"})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["project"]["balances"][0]["charged"])


def until_charged(process: Process, project: str, amount: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while charged(process, project) != amount:
        assert time.monotonic() < end, process.log
        time.sleep(0.1)


async def test_a_session_is_charged_exactly_once_over_kill_9_and_a_restart(process: Process) -> None:
    project = await held(process.folder)
    runner_wrote(process, 10_000)
    process.start()
    until_charged(process, project, 10_000)  # by the loop, nobody asked
    process.end(signal.SIGKILL)
    runner_wrote(process, 95_123, ended_ms=95_123)
    process.start()
    until_charged(process, project, 95_123)
    assert process.internal("POST", "/reconcile").json()["open_session_holds"] == 0
    assert process.end(signal.SIGTERM) == 0
    verified = process.run("quota.cli", "verify")
    assert (verified.returncode, verified.stdout) == (0, "the ledger verifies\n")


async def test_what_waits_in_the_spool_is_charged_by_the_next_process_once(process: Process) -> None:
    project = await held(process.folder)
    used = Usage("session", "hold-0001:0", HoldId("hold-0001"), START, START + timedelta(seconds=12), 12_000, 12_000)
    spool = SpoolFile(process.folder / "spool")
    await spool.keep(SpooledChange(SpooledVerb.SETTLE, used.hold_id, used.to_at, used))
    spool.close()  # as a killed process leaves it
    process.start()
    assert charged(process, project) == 12_000  # before anything is served
    process.end(signal.SIGKILL)
    process.start()
    assert charged(process, project) == 12_000
    assert process.end(signal.SIGTERM) == 0
    left = SpoolFile(process.folder / "spool")
    assert left.pending() == []
    left.close()


async def test_a_rate_that_was_published_is_never_edited(process: Process) -> None:
    await held(process.folder)
    (process.folder / "portal.toml").write_text(PORTAL.replace('rate = "1"', 'rate = "2"'))
    refused = process.run("quota.main", "serve")
    assert refused.returncode == 2
    assert "rates[0].rate: another rate of gpu was published for 2026-01-01" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_cleanly_and_its_log_holds_no_secret(process: Process, number: int) -> None:
    process.start()
    assert process.get("gateway/v1/models?key=hush").status_code == 401
    assert process.get("quota/?key=hush").status_code == 303
    assert process.end(number) == 0
    for name in SECRETS:
        assert (process.folder / "secrets" / name).read_text() not in process.log
    assert "hush" not in process.log
    assert "Traceback" not in process.log


async def test_check_names_file_key_and_reason(process: Process) -> None:
    assert process.run("quota.main", "check").returncode == 0
    (process.folder / "portal.toml").write_text(PORTAL + "\n[quota]\ndatabase = 5\ncolour = 1\n")
    (process.folder / "secrets" / "cookie_key").unlink()
    wrong = process.run("quota.main", "check")
    path = process.folder / "portal.toml"
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == [
        f"{path}: quota.database: Input should be a valid string",
        f"{path}: quota.colour: unknown key",
    ]


async def test_the_command_line_shows_balances_and_exports_every_line(process: Process) -> None:
    project = await held(process.folder)
    balance = process.run("quota.cli", "balance")
    assert "a-project  awarded 10.00 GPU-h  charged 0.00 GPU-h  held 1.03 GPU-h  available 8.97 GPU-h" in balance.stdout
    lines = process.run("quota.cli", "export").stdout.splitlines()
    assert len(lines) == 2
    assert all(project in line for line in lines)
    table = process.run("quota.cli", "export", "--csv").stdout.splitlines()
    assert table[0].startswith("project,seq,at,kind")
    assert len(table) == 3


async def test_a_tampered_balance_is_named_and_exits_1(process: Process) -> None:
    project = await held(process.folder)
    with sqlite3.connect(process.folder / "quota" / "quota.sqlite") as connection:
        connection.execute("UPDATE account SET charged = charged + 1 WHERE id = ?", (f"{project}-gpu",))
    found = process.run("quota.cli", "verify")
    assert found.returncode == 1
    assert f"{project}-gpu" in found.stderr


async def test_a_checkpoint_is_signed_with_a_key_of_the_data_folder(process: Process) -> None:
    project = await held(process.folder)
    made = process.run("quota.cli", "checkpoint")
    assert (made.returncode, made.stdout) == (0, "checkpoint 1 is made and signed\n")
    key = process.folder / "secrets" / "checkpoint_key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert process.run("quota.cli", "verify").stdout == "the ledger verifies, from checkpoint 1 on\n"
    assert process.run("quota.cli", "verify", "--all").stdout == "the ledger verifies\n"
    kept = key.read_text()
    key.unlink()
    assert process.run("quota.cli", "verify").returncode == 1  # somebody else's checkpoint: read all, and say so
    key.write_text(kept)
    with sqlite3.connect(process.folder / "quota" / "quota.sqlite") as connection:
        connection.execute("UPDATE account SET charged = charged + 1 WHERE id = ?", (f"{project}-gpu",))
    for command in (("verify",), ("verify", "--all"), ("checkpoint",)):
        found = process.run("quota.cli", *command)
        assert (found.returncode, f"{project}-gpu" in found.stderr) == (1, True)
    key.write_text("short")
    assert process.run("quota.cli", "verify").returncode == 2


async def test_a_new_checkpoint_key_leaves_the_old_checkpoint_explained_and_no_start(process: Process) -> None:
    """docs/howto/secrets.md: `checkpoint --new-key`. A row changed before the old checkpoint is found, since nobody starts from it any more."""
    project = await held(process.folder)
    assert process.run("quota.cli", "checkpoint").returncode == 0
    key, retired = (process.folder / "secrets" / name for name in ("checkpoint_key", "checkpoint_keys_retired"))
    old = key.read_text()
    with sqlite3.connect(process.folder / "quota" / "quota.sqlite") as connection:
        connection.execute("UPDATE account SET charged = charged + 1 WHERE id = ?", (f"{project}-gpu",))
    refused = process.run("quota.cli", "checkpoint", "--new-key")  # nothing is signed anew over books that differ
    assert (refused.returncode, key.read_text(), retired.exists()) == (1, old, False)
    with sqlite3.connect(process.folder / "quota" / "quota.sqlite") as connection:
        connection.execute("UPDATE account SET charged = charged - 1 WHERE id = ?", (f"{project}-gpu",))
    made = process.run("quota.cli", "checkpoint", "--new-key")
    assert (made.returncode, made.stdout) == (0, "checkpoint 2 is made and signed\n"), made.stderr
    assert key.read_text() != old
    assert retired.read_text().split() == [old]
    assert {one.stat().st_mode & 0o777 for one in (key, retired)} == {0o600}
    assert process.run("quota.cli", "verify").stdout == "the ledger verifies, from checkpoint 2 on\n"
    assert process.run("quota.cli", "verify", "--all").stdout == "the ledger verifies\n"
    # Whoever has a copy of the old key signs nothing that is a start.
    database = open_database(f"sqlite:///{process.folder / 'quota' / 'quota.sqlite'}")
    with at_rest(database) as connection:
        assert write(database, connection, old.encode(), datetime.now(UTC)).id == 3
    database.close()
    assert process.run("quota.cli", "verify").stdout == "the ledger verifies, from checkpoint 2 on\n"


async def test_a_database_that_was_turned_back_is_noticed_by_its_anchor(process: Process) -> None:
    await held(process.folder)
    path = process.folder / "quota" / "quota.sqlite"
    earlier = path.read_bytes()
    assert process.run("quota.cli", "checkpoint").returncode == 0
    assert process.run("quota.cli", "verify").returncode == 0
    path.write_bytes(earlier)  # consistent in itself: as it was before the checkpoint
    for left in path.parent.glob("quota.sqlite-*"):
        left.unlink()
    found = process.run("quota.cli", "verify")
    assert found.returncode == 1
    assert "checkpoint 1: is anchored outside the database" in found.stderr
    (process.folder / "anchors.jsonl").write_text("nonsense\n")
    assert process.run("quota.cli", "verify").returncode == 2


async def test_the_command_line_needs_its_settings(process: Process) -> None:
    (process.folder / "portal.toml").write_text("[quota\n")
    assert process.run("quota.cli", "balance").returncode == 2


async def test_a_notebooks_stream_tells_the_last_minutes_in_time_and_does_not_hold_up_a_stop(process: Process) -> None:
    """Over the real clock: a session of an hour of which 123 s are left; its 2-minute notice is due 3 s later."""
    await held(process.folder)
    secret = (process.folder / "secrets" / "session_key_secret").read_text()
    key = session_key(secret.encode(), HoldId("hold-0001"))
    process.start()
    ends_s = time.time() + 123
    runner_wrote(process, 3_477_000, start_ms=int((ends_s - 3600) * 1000))
    url = f"http://127.0.0.1:{process.port}/services/quota/api/events"
    steps: dict[int, float] = {}
    with httpx.stream(
        "GET", url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S, trust_env=False
    ) as answer:
        assert answer.status_code == 200, answer.read()
        lines = answer.iter_lines()
        while 120 not in steps:  # bounded by the stream's own silence, which httpx times out
            line = next(lines)
            if line.startswith("data: "):
                event = json.loads(line[6:])
                assert event["kind"] == "ending", event
                steps[event["params"]["step_s"]] = time.time()
        assert 1800 not in steps  # of what was missed before, the nearest at most
        assert -0.1 <= steps[120] - (ends_s - 120) <= 60
        assert process.end(signal.SIGTERM) == 0
        # uvicorn's word where an open stream cost the 10 s that it waits
        assert "graceful shutdown exceeded" not in process.log
