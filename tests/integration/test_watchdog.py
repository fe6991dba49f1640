"""The host's watchdog ends what has passed its deadline, whatever else is down; on real processes, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spawners import deadlines, processes
from spawners.deadlines import Deadline
from spawners.watchdog import Watchdog
from tests.integration.test_local_runner import DEAF, FOREVER, ROOT
from tests.waiting import PATIENCE_S, until

Sleeper = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """Starts programs that print once they are set up."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", f"print(1, flush=True); {code}"] if "deaf" not in code else [sys.executable, "-c", code],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def watchdog(tmp_path: Path) -> Iterator[Path]:
    """A running watchdog's folder."""
    process = subprocess.Popen([sys.executable, "-m", "spawners.watchdog", str(tmp_path)], cwd=ROOT)
    yield tmp_path
    process.kill()
    process.wait()


def target(process: subprocess.Popen[str]) -> str:
    stat = processes.stat(process.pid)
    assert stat is not None
    return f"{process.pid}:{stat.started_ticks}:{processes.boot_id()}"


def now_ms() -> int:
    return time.time_ns() // 10**6


def test_a_session_ends_at_its_deadline_and_its_file_goes_once_it_is_gone(watchdog: Path, sleeper: Sleeper) -> None:
    process = sleeper(FOREVER)
    began_ms = now_ms()
    deadlines.write(watchdog, Deadline("hold-1", "process", target(process), began_ms + 500))
    assert process.wait(PATIENCE_S) == -15
    assert now_ms() >= began_ms + 500
    until(lambda: deadlines.read(watchdog, "hold-1") is None, what="the deadline is forgotten")


def test_a_deaf_session_is_killed_after_the_grace_and_not_before(watchdog: Path, sleeper: Sleeper) -> None:
    process = sleeper(DEAF)
    deadline_ms = now_ms()
    deadlines.write(watchdog, Deadline("hold-1", "process", target(process), deadline_ms, grace_s=2))
    assert process.wait(PATIENCE_S) == -9
    assert now_ms() >= deadline_ms + 2000


def test_an_extension_is_followed(watchdog: Path, sleeper: Sleeper) -> None:
    process = sleeper(FOREVER)
    deadlines.write(watchdog, Deadline("hold-1", "process", target(process), now_ms() + 5000))
    deadlines.write(watchdog, Deadline("hold-1", "process", target(process), now_ms() + 3_600_000))
    deadlines.write(watchdog, Deadline("hold-2", "process", target(other := sleeper(FOREVER)), now_ms() + 6500))
    assert other.wait(PATIENCE_S) == -15  # the watchdog has looked since
    assert process.poll() is None


def test_a_watchdog_that_was_killed_goes_on_where_it_was(tmp_path: Path, sleeper: Sleeper) -> None:
    process = sleeper(DEAF)
    deadlines.write(tmp_path, Deadline("hold-1", "process", target(process), now_ms() - 10_000, grace_s=5))
    Watchdog(tmp_path).tick()
    assert process.wait(PATIENCE_S) == -9


def test_a_changed_wall_clock_moves_no_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines.write(tmp_path, Deadline("hold-1", "process", "1:1:x", now_ms() + 60_000))
    deadline = deadlines.read(tmp_path, "hold-1")
    assert deadline is not None
    later = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert 50_000 < deadline.left_ms() <= 60_000


def test_one_unreadable_deadline_keeps_no_other_from_being_met(tmp_path: Path, sleeper: Sleeper) -> None:
    (tmp_path / "hold-0.json").write_text("{}")
    deadlines.write(tmp_path, Deadline("hold-1", "engine", "x", now_ms()))  # a kind that nobody here can end
    process = sleeper(FOREVER)
    deadlines.write(tmp_path, Deadline("hold-2", "process", target(process), now_ms()))
    Watchdog(tmp_path).tick()
    assert process.wait(PATIENCE_S) == -15
    assert set(deadlines.hold_ids(tmp_path)) == {"hold-0", "hold-1", "hold-2"}


def test_a_process_that_took_over_the_pid_is_not_hit(tmp_path: Path, sleeper: Sleeper) -> None:
    process = sleeper(FOREVER)
    pid, started, boot_id = target(process).split(":")
    deadlines.write(tmp_path, Deadline("hold-1", "process", f"{pid}:{int(started) - 1}:{boot_id}", now_ms()))
    Watchdog(tmp_path).tick()
    assert process.poll() is None
    assert deadlines.read(tmp_path, "hold-1") is None
