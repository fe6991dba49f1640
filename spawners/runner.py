"""The small process around each local session: starts it, keeps it to its deadline and writes down when it really began and ended.

`python -m spawners.runner FOLDER`, in a session of its own, so that it outlives the hub. Standard library only.

Invariants: nothing of the session runs before the record of its start is on disk; nothing of it that a SIGKILL ends runs after the
recorded end; a record that cannot be written later (disk full) never ends a session, it is retried. Instants are the start's wall clock
plus what passed on CLOCK_BOOTTIME (clock_gettime(2)), so that a changed wall clock changes no charge.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Final

from spawners import processes, records
from spawners.records import EndReason, Order, SessionRecord

# How much of a session's last minute can be missing from its charge when the machine loses power: one heartbeat.
HEARTBEAT_NS: Final = 10 * 10**9
# How late a new deadline or the end of a grace period may be noticed; a look costs one stat().
TICK_S: Final = 1.0
# Between SIGTERM and SIGKILL at the deadline; inside the stop margin of two minutes that the hold covers.
DEADLINE_GRACE_S: Final = 60
# A killed process that is still there after this long hangs in the kernel; waiting longer frees nothing.
SWEEP_NS: Final = 10 * 10**9
# The log of a session that prints without end is cut to its last part: looked at each tick.
LOG_MAX_BYTES: Final = 8 * 2**20
LOG_KEPT_BYTES: Final = 2**20
# How long an ended session's record is retried on a full disk before its last heartbeat has to do as the end.
LAST_WRITE_NS: Final = 3600 * 10**9

_SIGNALS: Final = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_EXEC_FAILED: Final = 127


class Runner:
    """One session from its record's first write to its last."""

    def __init__(self, folder: Path, order: Order) -> None:
        self._folder = folder
        self._order = order
        self._started_ns = _boottime_ns()
        self._started_at_ms = time.time_ns() // 10**6
        self._record: SessionRecord | None = None
        self._deadline_ms: int | None = None
        self._deadline_seen: tuple[int, int] | None = None
        self._end_reason: EndReason | None = None
        self._stop_reason: str | None = None
        self._kill_at_ns: int | None = None
        self._exit_status: int | None = None
        self._next_heartbeat_ns = self._started_ns + HEARTBEAT_NS

    def run(self, environment: dict[str, str]) -> int:
        """Run the session to its end; returns the runner's exit status."""
        if not self._start(environment):
            return 1
        while self._exit_status is None:
            self._follow_deadline()
            self._kill_when_due()
            self._heartbeat_when_due()
            _cut_log(self._folder / records.LOG)
            received = signal.sigtimedwait(_SIGNALS, TICK_S)
            if received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT):
                self._stop_as_told()
            self._reap()
        self._sweep()
        self._write_end(self._end_reason or EndReason.EXITED)
        return 0

    def _start(self, environment: dict[str, str]) -> bool:
        """Fork the child held back, record it, then let it go. False where nothing was started."""
        go_read, go_write = os.pipe()
        failed_read, failed_write = os.pipe()
        parent_pid = os.getpid()
        child_pid = os.fork()
        if child_pid == 0:
            os.close(go_write)
            _become_session(self._order, environment, parent_pid, go_read, failed_write)
        os.close(go_read)
        os.close(failed_write)
        self._record = self._first_record(child_pid)
        try:
            records.write_record(self._folder, self._record)
        except OSError as error:
            # Without evidence of a start there is no session: the child reads the closed pipe and leaves.
            _say(f"the record cannot be written, nothing was started: {error}")
            os.close(go_write)
            os.waitpid(child_pid, 0)
            return False
        self._publish_deadline()  # before the session begins: whoever sees it run may set another, which has to stand
        os.write(go_write, b"1")
        os.close(go_write)
        reason = os.read(failed_read, 4096)
        os.close(failed_read)
        if reason:
            _say(f"cannot run {self._order.argv[0]}: {reason.decode(errors='replace')}")
            self._exit_status = os.waitstatus_to_exitcode(os.waitpid(child_pid, 0)[1])
            self._write_end(EndReason.NEVER_STARTED)
            return False
        return True

    def _first_record(self, child_pid: int) -> SessionRecord:
        own = processes.stat(os.getpid())
        assert own is not None
        return SessionRecord(
            hold_id=self._order.hold_id,
            user=self._order.user,
            server_name=self._order.server_name,
            runner_pid=os.getpid(),
            runner_started=own.started_ticks,
            boot_id=processes.boot_id(),
            child_pid=child_pid,
            port=self._order.port,
            started_at_ms=self._started_at_ms,
            last_alive_ms=self._started_at_ms,
        )

    def _now_ms(self) -> int:
        return self._started_at_ms + (_boottime_ns() - self._started_ns) // 10**6

    def _publish_deadline(self) -> None:
        """Set the deadline from the chosen runtime where the file names none, counted from the true start."""
        if self._order.runtime_ms is None or records.read_deadline_ms(self._folder) is not None:
            return
        self._deadline_ms = self._started_at_ms + self._order.runtime_ms
        try:
            records.write_deadline(self._folder, self._deadline_ms)
        except OSError as error:
            _say(f"the deadline cannot be written, it is kept in memory: {error}")

    def _follow_deadline(self) -> None:
        """Read the deadline again when its file changed; a file without sense changes nothing."""
        try:
            found = os.stat(self._folder / records.DEADLINE)
        except OSError:
            found = None
        if found is not None and (found.st_mtime_ns, found.st_ino) != self._deadline_seen:
            self._deadline_seen = (found.st_mtime_ns, found.st_ino)
            deadline_ms = records.read_deadline_ms(self._folder)
            self._deadline_ms = self._deadline_ms if deadline_ms is None else deadline_ms
        if self._end_reason is None and self._deadline_ms is not None and self._now_ms() >= self._deadline_ms:
            self._stop(EndReason.DEADLINE, DEADLINE_GRACE_S)

    def _stop_as_told(self) -> None:
        reason, grace_s = records.read_stop(self._folder)
        self._stop_reason = self._stop_reason or reason
        self._stop(EndReason.STOPPED, self._order.stop_grace_s if grace_s is None else max(grace_s, 0))

    def _stop(self, reason: EndReason, grace_s: int) -> None:
        """Ask the session to end; the first reason stands, the earliest kill counts."""
        assert self._record is not None
        kill_at_ns = _boottime_ns() + grace_s * 10**9
        self._kill_at_ns = kill_at_ns if self._kill_at_ns is None else min(self._kill_at_ns, kill_at_ns)
        self._end_reason = self._end_reason or reason
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._record.child_pid, signal.SIGTERM)

    def _kill_when_due(self) -> None:
        assert self._record is not None
        if self._kill_at_ns is not None and _boottime_ns() >= self._kill_at_ns:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._record.child_pid, signal.SIGKILL)

    def _reap(self) -> bool:
        """Collect what ended, orphans included; returns whether any child is left."""
        assert self._record is not None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._record.child_pid:
                self._exit_status = os.waitstatus_to_exitcode(status)

    def _sweep(self) -> None:
        """Kill what the session left behind: as subreaper this process is the ancestor of all of it."""
        give_up_ns = _boottime_ns() + SWEEP_NS
        while self._reap() and _boottime_ns() < give_up_ns:
            for pid in processes.descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)

    def _heartbeat_when_due(self) -> None:
        if _boottime_ns() < self._next_heartbeat_ns:
            return
        self._next_heartbeat_ns = _boottime_ns() + HEARTBEAT_NS
        assert self._record is not None
        self._record = dataclasses.replace(self._record, last_alive_ms=self._now_ms())
        try:
            records.write_record(self._folder, self._record)
        except OSError as error:
            _say(f"the heartbeat cannot be written, the session goes on: {error}")

    def _write_end(self, reason: EndReason) -> None:
        assert self._record is not None
        ended_at_ms = self._now_ms()
        record = dataclasses.replace(
            self._record,
            last_alive_ms=ended_at_ms,
            ended_at_ms=ended_at_ms,
            exit_status=self._exit_status,
            end_reason=reason,
            stop_reason=self._stop_reason if reason is EndReason.STOPPED else None,
        )
        give_up_ns = _boottime_ns() + LAST_WRITE_NS
        while True:
            try:
                records.write_record(self._folder, record)
                return
            except OSError as error:
                _say(f"the end cannot be written, trying again: {error}")
                if _boottime_ns() >= give_up_ns:
                    return
                time.sleep(TICK_S)


def _become_session(
    order: Order, environment: dict[str, str], parent_pid: int, go_read: int, failed_write: int
) -> None:
    """In the forked child: wait for the word, then become the session's program. Never returns."""
    try:
        os.setpgid(0, 0)
        processes.die_with_parent()
        if os.getppid() != parent_pid or os.read(go_read, 1) != b"1":
            os._exit(_EXEC_FAILED)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.chdir(order.cwd)
        os.execvpe(order.argv[0], order.argv, environment)  # noqa: S606
    except BaseException as error:  # the edge of a process that must not run its parent's code
        os.write(failed_write, str(error).encode()[:4000])
    finally:
        os._exit(_EXEC_FAILED)


def _cut_log(path: Path) -> None:
    """Keep the last part of a log that grew beyond its size; its writers append (O_APPEND), so that they go on behind it."""
    try:
        if os.stat(path).st_size <= LOG_MAX_BYTES:
            return
        with path.open("r+b") as log:
            log.seek(-LOG_KEPT_BYTES, os.SEEK_END)
            kept = log.read(LOG_KEPT_BYTES)
            log.truncate(0)
        with path.open("ab") as log:
            log.write(b"runner: what stood here was cut: the log had grown too long\n" + kept)
    except OSError as error:  # a full disk: tried again at the next tick
        _say(f"the log cannot be cut: {error}")


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _say(message: str) -> None:
    print(f"runner: {message}", file=sys.stderr, flush=True)


def _take_environment(folder: Path) -> dict[str, str]:
    """Read the session's environment and remove the file: it holds the session's credentials."""
    path = folder / records.ENVIRONMENT
    content = json.loads(path.read_bytes())
    path.unlink()
    return {str(name): str(value) for name, value in content.items()}


def main() -> int:
    """Run the session whose folder the command line names."""
    folder = Path(sys.argv[1]).resolve()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    log = os.open(folder / records.LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    processes.become_subreaper()
    order = records.read_order(folder)
    try:
        return Runner(folder, order).run(_take_environment(folder))
    finally:
        shutil.rmtree(order.kernels_folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
