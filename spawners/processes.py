"""What Linux says about processes: identity, descendants, leftovers of a session. Standard library only.

Invariant: a process is identified by (boot id, pid, start ticks), never by its pid alone, and a signal is sent through a pidfd
after that identity was checked, so that a recycled pid is never hit. Source: proc(5), pidfd_open(2), prctl(2).
"""

import ctypes
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_DEAD_STATES: Final = frozenset("ZXx")  # a zombie runs nothing any more: only its parent has not looked yet


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The fields of /proc/PID/stat that tell processes apart."""

    state: str
    parent_pid: int
    started_ticks: int

    @property
    def running(self) -> bool:
        """Whether the process can still run code."""
        return self.state not in _DEAD_STATES


def stat(pid: int) -> ProcessStat | None:
    """Read a process's identity; None where there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold spaces and parentheses
    return ProcessStat(state=fields[0], parent_pid=int(fields[1]), started_ticks=int(fields[19]))


def boot_id() -> str:
    """Name this boot of the machine."""
    return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def is_running(pid: int, started_ticks: int) -> bool:
    """Whether exactly this process of this boot still runs."""
    found = stat(pid)
    return found is not None and found.running and found.started_ticks == started_ticks


def send_signal(pid: int, started_ticks: int, number: signal.Signals) -> bool:
    """Signal exactly this process; False where it has gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_running(pid, started_ticks):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def descendants(ancestor_pid: int) -> set[int]:
    """List the pids under a process, zombies included; one look, so a caller that kills looks again."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        found = stat(pid)
        if found is not None:
            children.setdefault(found.parent_pid, []).append(pid)
    below: set[int] = set()
    waiting = [ancestor_pid]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in below:
                below.add(pid)
                waiting.append(pid)
    return below


def environment(pid: int) -> dict[str, str]:
    """Read the environment that a process started with; empty where that cannot be read."""
    try:
        raw = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def any_marked(variable: str, value: str) -> bool:
    """Whether any process that runs was started with `variable=value`."""
    for pid in _pids() - {os.getpid()}:
        found = stat(pid)
        if found is not None and found.running and environment(pid).get(variable) == value:
            return True
    return False


def kill_marked(variable: str, value: str) -> int:
    """Kill every process that was started with `variable=value`; returns how many there were."""
    killed = 0
    for pid in _pids() - {os.getpid()}:
        found = stat(pid)
        if found is None or not found.running or environment(pid).get(variable) != value:
            continue
        killed += send_signal(pid, found.started_ticks, signal.SIGKILL)
    return killed


def become_subreaper() -> None:
    """Make orphaned descendants children of this process instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _pids() -> set[int]:
    return {int(name) for name in os.listdir(PROC) if name.isdigit()}


_libc: Final = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: a forked child must not load libraries


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
