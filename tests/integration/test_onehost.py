"""`./commons up` for real: kills, restarts, the clean stop. The portal runs without the model; sessions are in other tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.onehost.ports import is_free
from spawners import processes
from tests.portal import ROOT, Portal, free_port

BACK_WITHIN_S = 15.0
ALL_BACK_WITHIN_S = 30.0  # a supervisor comes back with everything that it supervises


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    running = Portal(tmp_path_factory.mktemp("onehost") / "data", model=False).up()
    yield running
    running.down()


def wait_for(done: Callable[[], bool], within_s: float) -> float:
    """Seconds until `done`; fails after `within_s`."""
    began_s = time.monotonic()
    while not done():
        assert time.monotonic() - began_s < within_s, f"not within {within_s} s"
        time.sleep(0.05)
    return time.monotonic() - began_s


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def serves(portal: Portal) -> bool:
    """Whether hub and quota service answer at the public address."""
    return answers(f"{portal.url}hub/login") and answers(f"{portal.api}/health")


def processes_of(data: Path) -> dict[int, str]:
    """Every live process that was started for this data folder, by its environment or its command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        stat = processes.stat(pid)
        if stat is None or not stat.running or pid == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if processes.environment(pid).get("COMMONS_DATA") == str(data) or str(data) in command:
            found[pid] = command
    return found


def program(portal: Portal, words: str) -> int:
    """The one process whose command line holds `words`."""
    found = [pid for pid, command in processes_of(portal.data).items() if words in command]
    assert len(found) == 1, found
    return found[0]


def inner_ports(portal: Portal) -> dict[str, int]:
    ports: dict[str, int] = json.loads((portal.data / "ports.json").read_text())
    return ports


def test_the_ready_file_names_addresses_and_sign_ins(portal: Portal) -> None:
    assert set(portal.ready) == {"url", "api", "gateway", "demo"}
    assert portal.url == f"http://127.0.0.1:{portal.port}/"
    assert (portal.data.parent / "ready.json").stat().st_mode & 0o777 == 0o600
    assert serves(portal)


def test_no_secret_is_in_an_argument_or_the_environment(portal: Portal) -> None:
    secrets = {path.name: path.read_text() for path in (portal.data / "secrets").iterdir()}
    for pid, command in processes_of(portal.data).items():
        environment = processes.environment(pid)
        own = {"proxy_token"} if "configurable-http-proxy" in command else set()
        for name, secret in secrets.items():
            assert secret not in command
            assert name in own or secret not in environment.values(), (name, command)


def test_only_the_loopback_is_listened_on(portal: Portal) -> None:
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    for port in (portal.port, *inner_ports(portal).values()):
        for line in listening.splitlines():
            local = line.split()[3]
            assert not local.endswith(f":{port}") or local == f"127.0.0.1:{port}"


def test_a_second_up_on_the_same_data_says_where_the_first_runs(portal: Portal) -> None:
    argv = [
        sys.executable,
        "-m",
        "deploy.onehost.up",
        "--data",
        str(portal.data),
        "--port",
        str(free_port()),
        "--no-model",
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"commons: already running at {portal.url}")
    assert done.stderr.count("\n") == 1
    assert serves(portal)


@pytest.mark.parametrize("words", ["configurable-http-proxy", "-m jupyterhub", "-m quota.main", "supervisord -n"])
def test_a_killed_program_is_back_within_15_seconds(portal: Portal, words: str) -> None:
    victim = program(portal, words)
    os.kill(victim, signal.SIGKILL)

    def is_back() -> bool:
        others = [pid for pid, command in processes_of(portal.data).items() if words in command]
        return bool(others) and victim not in others and serves(portal)

    wait_for(is_back, ALL_BACK_WITHIN_S if words.startswith("supervisord") else BACK_WITHIN_S)


def test_up_after_a_killed_launcher_resumes_on_the_same_ports(portal: Portal) -> None:
    before = inner_ports(portal)
    portal.kill_launcher()
    portal.up()
    assert inner_ports(portal) == before
    assert serves(portal)


def test_ctrl_c_leaves_no_process_and_no_port_and_a_later_up_resumes(portal: Portal) -> None:
    before = inner_ports(portal)
    secrets = {path.name: path.read_text() for path in (portal.data / "secrets").iterdir()}
    assert portal.down() == 0
    assert processes_of(portal.data) == {}
    assert [port for port in (portal.port, *before.values()) if not is_free(port)] == []
    assert not (portal.data.parent / "ready.json").exists()
    portal.up()
    assert inner_ports(portal) == before
    assert {path.name: path.read_text() for path in (portal.data / "secrets").iterdir()} == secrets


def test_a_program_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    broken = Portal(tmp_path / "data", model=False)
    (broken.data / "quota" / "quota.sqlite").mkdir(parents=True)
    try:
        with pytest.raises(AssertionError, match="quota does not start; its log:"):
            broken.up()
        assert broken.launcher is not None
        assert broken.launcher.wait(30) == 1
    finally:
        broken.down()
    assert processes_of(broken.data) == {}
