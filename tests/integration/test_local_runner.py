"""The runner around a local session, with real processes: true start and end, deadline, full disk, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spawners import processes, records
from spawners.records import EndReason, Order, RecordMissing, RecordUnreadable, SessionRecord
from spawners.session_traits import HOLD_VARIABLE
from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).resolve().parents[2]
FOREVER = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
# Starts a process in a session of its own, as Jupyter does with kernels, says its pid and stays.
WITH_KERNEL = (
    "import subprocess, sys, time\n"
    "kernel = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "print(kernel.pid, flush=True); time.sleep(600)"
)
# Says when it was told to end, and goes on.
TELLS = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: print(time.monotonic(), flush=True))\n"
    "while True: time.sleep(0.01)"
)
LATE_MS = 8_000  # of a busy machine; nearer than the ten seconds between two proofs of life
FACTOR = 1 if os.environ.get("COMMONS_FULL") == "1" else 20


def now_ms() -> int:
    return time.time_ns() // 10**6


class Session:
    """A runner over a short program, and what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, code: str, *, runner: tuple[str, ...] = ("-m", "spawners.runner"), **order: Any) -> "Session":
        values: dict[str, Any] = {"argv": (sys.executable, "-c", code), "cwd": str(self.folder), **order}
        records.write_order(self.folder, Order("h1", "ada", "work", "gpu1", port=4321, **values))
        (self.folder / records.ENVIRONMENT).write_text(json.dumps({"PATH": os.defpath, HOLD_VARIABLE: "h1"}))
        command = [sys.executable, *runner, str(self.folder)]
        self.process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        return self

    def record(self) -> SessionRecord | None:
        try:
            return records.read(self.folder)
        except RecordMissing:
            return None

    def running(self) -> SessionRecord:
        return until(self.record, what="the runner writes its record")

    def ended(self) -> SessionRecord:
        def look() -> SessionRecord | None:
            record = self.record()
            return record if record is not None and record.ended else None

        return until(look, what="the session has ended")

    def said(self) -> str:
        """The first line that the program printed."""

        def look() -> str | None:
            path = self.folder / records.LOG
            first, newline, _ = path.read_text().partition("\n") if path.exists() else ("", "", "")
            return first if newline else None

        return until(look, what="the program prints a line")

    def terminate(self) -> None:
        assert self.process is not None
        self.process.terminate()

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        processes.kill_marked(HOLD_VARIABLE, "h1")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    one = Session(tmp_path / "h1")
    yield one
    one.end()


def gone(pid: int) -> bool:
    found = processes.stat(pid)
    return found is None or not found.running


def test_the_true_start_and_end_are_written_down(session: Session) -> None:
    before_ms = now_ms()
    session.start("import time; print(time.time_ns() // 10**6, flush=True); time.sleep(1.5); raise SystemExit(3)")
    record = session.ended()
    child_began_ms = int(session.said())
    assert before_ms <= record.started_at_ms <= child_began_ms
    assert child_began_ms - record.started_at_ms < LATE_MS
    assert record.ended_at_ms is not None
    assert 1500 <= record.ended_at_ms - child_began_ms < 1500 + LATE_MS
    assert (record.exit_status, record.end_reason) == (3, EndReason.EXITED)
    assert record.last_alive_ms == record.ended_at_ms


def test_the_record_names_the_session_and_its_runner(session: Session) -> None:
    record = session.start(FOREVER).running()
    assert session.process is not None
    assert (record.hold_id, record.user, record.server_name, record.port) == ("h1", "ada", "work", 4321)
    assert record.runner_pid == session.process.pid
    assert records.is_alive(record)
    assert not record.ended


def test_the_session_gets_its_environment_and_the_file_is_gone(session: Session) -> None:
    session.start("import json, os; print(json.dumps(dict(os.environ)), flush=True)")
    environment = json.loads(session.said())
    environment.pop("LC_CTYPE", None)  # the interpreter's own, where no locale is set
    assert environment == {"PATH": os.defpath, HOLD_VARIABLE: "h1"}
    assert not (session.folder / records.ENVIRONMENT).exists()


def test_a_wall_clock_that_jumps_changes_no_duration(session: Session) -> None:
    jumping = (
        "import sys, time; real = time.time_ns; calls = []\n"
        "time.time_ns = lambda: real() - (3600 * 10**9 if calls else calls.append(1) or 0)\n"
        "from spawners import runner; sys.exit(runner.main())"
    )
    record = session.start("import time; time.sleep(1)", runner=("-c", jumping)).ended()
    assert record.ended_at_ms is not None
    assert 1000 <= record.ended_at_ms - record.started_at_ms < 60_000


def test_a_stopped_runner_leaves_no_process_behind(session: Session) -> None:
    record = session.start(WITH_KERNEL).running()
    kernel_pid = int(session.said())
    session.terminate()
    record = session.ended()
    assert record.end_reason is EndReason.STOPPED
    assert record.exit_status == -signal.SIGTERM
    assert gone(kernel_pid)
    assert gone(record.child_pid)


def test_a_session_that_will_not_stop_is_killed_after_its_grace(session: Session) -> None:
    session.start(DEAF, stop_grace_s=1).said()
    asked_ms = now_ms()
    session.terminate()
    record = session.ended()
    assert (record.exit_status, record.end_reason) == (-signal.SIGKILL, EndReason.STOPPED)
    assert record.ended_at_ms is not None
    assert 900 <= record.ended_at_ms - asked_ms < 50_000  # far from the default of 60 s


def test_a_session_whose_runner_is_killed_dies_and_its_record_keeps_the_last_proof_of_life(session: Session) -> None:
    record = session.start(FOREVER).running()
    assert session.process is not None
    session.process.kill()
    until(lambda: gone(record.child_pid), what="the program is gone")
    until(
        lambda: not records.is_alive(record), what="the runner is gone"
    )  # it is a zombie of this test until it is waited for
    session.process.wait()
    assert not records.is_alive(record)
    left = session.running()
    assert not left.ended
    assert left.last_alive_ms >= left.started_at_ms


def test_at_the_end_of_its_runtime_a_session_is_told_and_has_a_whole_minute_before_it_is_killed(
    session: Session,
) -> None:
    """With --full on the real clock, else on one that runs twenty times as fast."""
    hasty = ("-m", "tests.integration.hasty_runner", str(FACTOR))
    # It has to listen by then, also on a busy machine.
    record = session.start(TELLS, runner=hasty, runtime_ms=5000 * FACTOR).running()
    told_s = float(session.said())
    until(lambda: gone(record.child_pid), what="the program is gone")
    gone_s = time.monotonic()
    over, deadline_ms = session.ended(), records.read_deadline_ms(session.folder)
    assert (over.end_reason, over.exit_status) == (EndReason.DEADLINE, -signal.SIGKILL)
    assert deadline_ms is not None
    assert over.ended_at_ms is not None
    assert over.ended_at_ms - deadline_ms >= 60_000
    assert (gone_s - told_s) * FACTOR >= (
        59 if FACTOR == 1 else 10
    )  # however late a busy machine lets it read the signal
    assert FACTOR > 1 or over.ended_at_ms - deadline_ms < 120_000  # inside the margin that its hold covers


def test_the_chosen_runtime_counts_from_the_true_start(session: Session) -> None:
    record = session.start(FOREVER, runtime_ms=1000).ended()
    assert record.end_reason is EndReason.DEADLINE
    assert record.ended_at_ms is not None
    assert 1000 <= record.ended_at_ms - record.started_at_ms < 1000 + LATE_MS
    assert records.read_deadline_ms(session.folder) == record.started_at_ms + 1000


def test_a_deadline_that_was_written_before_goes_over_the_runtime(session: Session) -> None:
    records.write_deadline(session.folder, now_ms())
    assert session.start(FOREVER, runtime_ms=600_000).ended().end_reason is EndReason.DEADLINE


def test_an_extended_deadline_is_followed_and_nonsense_changes_nothing(session: Session) -> None:
    old_ms = now_ms() + LATE_MS
    records.write_deadline(session.folder, old_ms)
    record = session.start(FOREVER).running()
    records.write_deadline(session.folder, now_ms() + 600_000)
    until(lambda: now_ms() > old_ms + 500, what="the old deadline is over")
    for nonsense in ("", "soon", "-1", "１", "1e3", "9" * 30):
        (session.folder / records.DEADLINE).write_text(nonsense)
        assert records.read_deadline_ms(session.folder) is None
    time.sleep(1.2)  # the runner looks once a second
    assert records.is_alive(record)
    assert not session.running().ended
    records.write_deadline(session.folder, now_ms() - 1)
    assert session.ended().end_reason is EndReason.DEADLINE


def test_a_start_that_cannot_be_recorded_starts_nothing(session: Session) -> None:
    (session.folder / "record.json.tmp").mkdir()  # in the way of every write, as a full disk is
    marker = session.folder / "ran"
    session.start(f"open({str(marker)!r}, 'w')")
    assert session.process is not None
    assert session.process.wait(timeout=PATIENCE_S) == 1
    assert not marker.exists()


def test_a_full_disk_ends_no_session_and_its_end_is_written_once_there_is_room(session: Session) -> None:
    gate, obstacle = session.folder / "gate", session.folder / "record.json.tmp"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)"
    record = session.start(wait).running()
    obstacle.mkdir()
    ends_ms = now_ms()
    gate.touch()
    until(lambda: gone(record.child_pid), what="the program is gone")
    log = session.folder / records.LOG
    until(lambda: "the end cannot be written" in log.read_text(), what="the runner says so")
    assert records.is_alive(record)
    room_ms = now_ms()
    obstacle.rmdir()
    ended = session.ended()
    assert ended.ended_at_ms is not None
    assert ends_ms <= ended.ended_at_ms <= room_ms


def test_a_program_that_cannot_be_run_never_started(session: Session) -> None:
    record = session.start("", argv=("/nowhere/program",)).ended()
    assert record.end_reason is EndReason.NEVER_STARTED
    assert "/nowhere/program" in session.said()


GARBAGE = ["", "{", "[]", "null", '"x"', "{}", '{"hold_id": "h1"}', "\xff\x00"]


@pytest.mark.parametrize("content", [*GARBAGE, "[" * 100_000])
def test_a_broken_record_is_unreadable_and_never_an_end(tmp_path: Path, content: str) -> None:
    (tmp_path / records.RECORD).write_text(content, encoding="latin-1")
    with pytest.raises(RecordUnreadable):
        records.read(tmp_path)


@pytest.mark.parametrize(
    "change", [{"runner_pid": True}, {"ended_at_ms": "1"}, {"end_reason": "bored"}, {"port": None}]
)
def test_a_record_with_one_wrong_value_is_unreadable(session: Session, change: dict[str, object]) -> None:
    record = json.loads((session.start(FOREVER).running(), session.folder / records.RECORD)[1].read_text())
    (session.folder / records.RECORD).write_text(json.dumps({**record, **change}))
    with pytest.raises(RecordUnreadable):
        records.read(session.folder)


def test_a_record_of_another_boot_or_of_a_recycled_pid_is_dead(session: Session) -> None:
    record = session.start(FOREVER).running()
    values = {name: getattr(record, name) for name in SessionRecord.__slots__}
    assert not records.is_alive(SessionRecord(**{**values, "boot_id": "another"}))
    assert not records.is_alive(SessionRecord(**{**values, "runner_started": record.runner_started + 1}))


def test_the_log_of_a_session_that_prints_without_end_keeps_its_last_part(session: Session) -> None:
    code = "import time; print('x' * 9 * 2**20); print('the last', flush=True); time.sleep(600)"
    session.start(code)
    log = session.folder / records.LOG
    until(
        lambda: log.exists() and log.stat().st_size < 2 * 2**20 and b"the last\n" in log.read_bytes(),
        what="the log is cut",
    )
    assert log.read_bytes().startswith((b"runner: what stood here was cut", b"x"))
    assert session.running().ended is False
