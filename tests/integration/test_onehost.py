"""`./commons up` for real, from outside: what it writes, listens on and says. Kills and restarts: test_survival."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from spawners import processes
from tests.portal import ROOT, Portal
from tests.ports import free_port
from tests.waiting import PATIENCE_S


def test_the_ready_file_names_addresses_and_sign_ins(portal: Portal) -> None:
    assert set(portal.ready) == {"url", "api", "gateway", "demo"}
    assert portal.url == f"http://127.0.0.1:{portal.port}/"
    assert (portal.data.parent / "ready.json").stat().st_mode & 0o777 == 0o600
    assert portal.serves()


def test_no_secret_is_in_an_argument_or_the_environment(portal: Portal) -> None:
    secrets = {path.name: path.read_text() for path in (portal.data / "secrets").iterdir()}
    found = portal.processes()
    assert len(found) >= 4
    for pid, command in found.items():
        environment = processes.environment(pid)
        own = {"proxy_token"} if "configurable-http-proxy" in command else set()
        for name, secret in secrets.items():
            assert secret not in command
            assert name in own or secret not in environment.values(), (name, command)


def test_only_the_loopback_is_listened_on(portal: Portal) -> None:
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    for port in (portal.port, *portal.inner_ports.values()):
        for line in listening.splitlines():
            local = line.split()[3]
            assert not local.endswith(f":{port}") or local == f"127.0.0.1:{port}"


def test_a_connection_that_was_idle_longer_than_clients_keep_one_still_takes_a_request(portal: Portal) -> None:
    """Who uses it lets go after 5 s (Python) or 60 s (nginx); where this side closed then, a request sent in that moment was lost."""
    kept = [
        HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S) for port in (portal.port, portal.inner_ports["quota"])
    ]
    with contextlib.ExitStack() as ends:
        for _ in range(2):
            for one in kept:
                ends.callback(one.close)
                one.request("GET", f"{urlsplit(portal.api).path}/health")
                with one.getresponse() as answer:
                    assert answer.status == 200
                    answer.read()
                one.auto_open = 0  # from now on this connection or none
            time.sleep(6)  # what is tested is that time alone ends nothing


def test_a_second_up_on_the_same_data_says_where_the_first_runs(portal: Portal) -> None:
    argv = [sys.executable, "-m", "deploy.onehost.up", "--data", str(portal.data)]
    argv += ["--port", str(free_port()), "--no-model"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"commons: already running at {portal.url}")
    assert done.stderr.count("\n") == 1
    assert portal.serves()


def test_a_program_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    broken = Portal(tmp_path / "data", model=False)
    (broken.data / "quota" / "quota.sqlite").mkdir(parents=True)
    try:
        with pytest.raises(AssertionError, match="quota does not start; its log:"):
            broken.up()
        assert broken.launcher is not None
        assert broken.launcher.wait(PATIENCE_S) == 1
    finally:
        broken.down()
    assert broken.processes() == {}
