"""How long a process of a session lived, by the kernel's word only: nothing that the session's runner wrote is read.

Invariant: start and end are instants of one clock, CLOCK_BOOTTIME: the start from /proc/PID/stat (in clock ticks, 10 ms), the end
from the pidfd, which the kernel makes readable when the process ends (pidfd_open(2)).
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Final

from spawners import processes

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


def oldest_marked(variable: str, value: str) -> int:
    """The pid of the oldest process that was started with `variable=value`: a session's first one."""
    found: list[tuple[int, int]] = []
    for pid in (int(name) for name in os.listdir(processes.PROC) if name.isdigit()):
        stat = processes.stat(pid)
        if stat is not None and stat.running and processes.environment(pid).get(variable) == value:
            found.append((stat.started_ticks, pid))
    return min(found)[1]


class Lifetime:
    """Watches one running process from now to its end."""

    def __init__(self, pid: int) -> None:
        stat = processes.stat(pid)
        assert stat is not None, f"process {pid} has gone"
        self._started_ms = stat.started_ticks * 1000 / _TICKS_A_SECOND
        self._ended_ms: float | None = None
        self._handle = os.pidfd_open(pid)
        self._watch = threading.Thread(target=self._await_end, daemon=True)
        self._watch.start()

    @property
    def age_ms(self) -> float:
        """Milliseconds since the process began."""
        return _now_ms() - self._started_ms

    def wait_ms(self, within_s: float) -> float:
        """Milliseconds from start to end, once it has ended."""
        self._watch.join(within_s)
        assert self._ended_ms is not None, f"the process did not end within {within_s} s"
        return self._ended_ms - self._started_ms

    def _await_end(self) -> None:
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        poll.poll()
        self._ended_ms = _now_ms()
        os.close(self._handle)


def _now_ms() -> float:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6
