"""`./commons up` where it must not run: one line that says why, exit 1, nothing started."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.onehost import ports
from deploy.onehost.data_folder import SECRETS, DataFolder, forget_holder, read_holder, try_lock, write_holder
from spawners import processes, records
from spawners.records import SessionRecord
from tests.portal import ROOT
from tests.ports import free_port
from tests.waiting import PATIENCE_S


def up(data: Path, port: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher itself (what it needs is installed: these tests run in it)."""
    argv = [sys.executable, "-m", "deploy.onehost.up", "--data", str(data), "--port", str(port), "--no-model"]
    return subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.make()
    return folder


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def live_runner(data: DataFolder) -> Iterator[SessionRecord]:
    """A session whose runner is a real process."""
    with subprocess.Popen(["sleep", "300"]) as process:
        stat = processes.stat(process.pid)
        assert stat is not None
        record = SessionRecord(
            hold_id="hold-1",
            user="researcher",
            server_name="",
            runner_pid=process.pid,
            runner_started=stat.started_ticks,
            boot_id=processes.boot_id(),
            child_pid=process.pid,
            port=1,
            started_at_ms=1,
            last_alive_ms=1,
        )
        (data.sessions / "hold-1").mkdir()
        records.write_record(data.sessions / "hold-1", record)
        yield record
        process.kill()


def test_a_busy_public_port_is_named_in_one_line_and_nothing_starts(data: DataFolder, taken_port: int) -> None:
    done = up(data.path, taken_port)
    assert done.returncode == 1
    assert done.stderr == f"commons: port {taken_port} is in use by another program; choose another with --port\n"
    assert not (data.run / "supervisord.conf").exists()


def test_a_busy_inner_port_is_named_while_a_notebook_knows_it(
    data: DataFolder, taken_port: int, live_runner: SessionRecord
) -> None:
    inner = {name: free_port() for name in ports.NAMES} | {"quota": taken_port}
    data.ports_file.write_text(json.dumps(inner))
    done = up(data.path, free_port())
    assert done.returncode == 1
    assert done.stderr.startswith(f"commons: inner port {taken_port} (quota) is in use by another program")
    assert done.stderr.count("\n") == 1
    assert json.loads(data.ports_file.read_text()) == inner


def test_a_table_that_nobody_owns_is_named_with_its_file(tmp_path: Path) -> None:
    portal_file = tmp_path / "portal.toml"
    portal_file.write_text((ROOT / "portal.toml").read_text() + '\n[mistake]\nkey = "value"\n')
    done = up(tmp_path / "data", free_port(), COMMONS_PORTAL_FILE=str(portal_file))
    assert done.returncode == 1
    assert done.stderr == f"commons: {portal_file}: mistake: unknown table\n"
    assert not (tmp_path / "data").exists()


def test_a_portal_file_that_is_no_toml_is_named_with_its_line(tmp_path: Path) -> None:
    portal_file = tmp_path / "portal.toml"
    portal_file.write_text("[hub\n")
    done = up(tmp_path / "data", free_port(), COMMONS_PORTAL_FILE=str(portal_file))
    assert done.returncode == 1
    assert done.stderr.startswith(f"commons: {portal_file}: line 1")
    assert done.stderr.count("\n") == 1


def test_a_launcher_that_runs_is_named_with_its_address(data: DataFolder) -> None:
    lock = try_lock(data.lock_file)
    assert lock is not None
    write_holder(lock, "http://127.0.0.1:1234/")
    done = up(data.path, free_port())
    os.close(lock)
    assert done.returncode == 1
    assert done.stderr == f"commons: already running at http://127.0.0.1:1234/ (process {os.getpid()})\n"


def test_a_data_folder_too_deep_for_a_socket_is_refused_in_one_line(tmp_path: Path) -> None:
    done = up(tmp_path / ("deep" * 30), free_port())
    assert done.returncode == 1
    assert "the path is too long for the supervisor's socket" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_lock_excludes_others_and_remembers_an_unclean_end(data: DataFolder) -> None:
    lock = try_lock(data.lock_file)
    assert lock is not None
    assert try_lock(data.lock_file) is None
    write_holder(lock, "http://127.0.0.1:1/")
    holder = read_holder(data.lock_file)
    assert holder is not None
    assert holder.is_running
    forget_holder(lock)
    assert read_holder(data.lock_file) is None
    os.close(lock)


def test_secrets_are_made_once_and_for_the_owner_only(data: DataFolder) -> None:
    before = {name: data.secret(name) for name in SECRETS}
    (data.path / "secrets" / "proxy_token").chmod(0o644)
    data.make()
    assert {name: data.secret(name) for name in SECRETS} == before
    for name in SECRETS:
        assert (data.path / "secrets" / name).stat().st_mode & 0o777 == 0o600
    assert (data.path / "secrets").stat().st_mode & 0o777 == 0o700
    assert not any(text.endswith("\n") for text in before.values())


def test_demo_passwords_differ_from_one_data_folder_to_the_next(data: DataFolder, tmp_path: Path) -> None:
    other = DataFolder(tmp_path / "other")
    other.make()
    assert [user.user for user in data.demo_users()] == ["admin", "pi", "researcher"]
    assert {user.password for user in data.demo_users()}.isdisjoint(user.password for user in other.demo_users())
    assert [user.roles for user in data.demo_users()] == [["admin"], [], []]


def test_ports_are_kept_over_restarts(data: DataFolder) -> None:
    chosen = ports.choose(data.ports_file, 8000, random.Random(1))
    assert ports.read(data.ports_file) == chosen
    assert len(set(chosen.values())) == len(ports.NAMES)
