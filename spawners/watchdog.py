"""The host's watchdog: ends sessions at their deadline while hub, quota service or engine helper may be away.

`python -m spawners.watchdog FOLDER` follows the files of `spawners.deadlines`. Standard library only. It keeps nothing in memory
that matters: killed and started again it does the same. Invariant: SIGTERM at the deadline, SIGKILL not before the grace has passed;
a target that cannot be reached is tried again every tick; a file is removed only once its target is provably gone.
"""

import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from spawners import deadlines, processes
from spawners.deadlines import Deadline

TICK_S: Final = 1.0


class Ender(Protocol):
    """Ends one kind of target. All may raise OSError where the target cannot be reached; nothing is concluded from that."""

    def terminate(self, target: str) -> None:
        """SIGTERM; a watchdog that was restarted sends it again, so it has to be harmless when repeated."""

    def kill(self, target: str) -> None:
        """SIGKILL."""

    def gone(self, target: str) -> bool:
        """Whether it is provably over."""


class ProcessEnder:
    """Targets "PID:START TICKS:BOOT ID": a process, which a recycled pid never is."""

    def terminate(self, target: str) -> None:
        self._signal(target, signal.SIGTERM)

    def kill(self, target: str) -> None:
        self._signal(target, signal.SIGKILL)

    def gone(self, target: str) -> bool:
        pid, started, boot_id = target.split(":")
        return boot_id != processes.boot_id() or not processes.is_running(int(pid), int(started))

    def _signal(self, target: str, number: signal.Signals) -> None:
        pid, started, boot_id = target.split(":")
        if boot_id == processes.boot_id():
            processes.send_signal(int(pid), int(started), number)


# By `Deadline.kind`; a backend on this host adds its own.
ENDERS: Final[Mapping[str, Ender]] = {"process": ProcessEnder()}


class Watchdog:
    """Looks at every deadline once a tick."""

    def __init__(self, folder: Path, enders: Mapping[str, Ender] = ENDERS) -> None:
        self._folder = folder
        self._enders = enders
        self._told: set[tuple[str, int]] = set()  # (hold, deadline) that got its SIGTERM from this process

    def run(self) -> None:
        """Watch until killed."""
        while True:
            self.tick()
            time.sleep(TICK_S)

    def tick(self) -> None:
        """One look; a deadline that cannot be read or met hurts no other."""
        for hold_id in deadlines.hold_ids(self._folder):
            try:
                deadline = deadlines.read(self._folder, hold_id)
                if deadline is not None and deadline.left_ms() <= 0:
                    self._end(deadline)
            except (OSError, ValueError, KeyError) as error:
                _say(f"session {hold_id} could not be ended, trying again: {type(error).__name__}: {error}")

    def _end(self, deadline: Deadline) -> None:
        ender = self._enders[deadline.kind]
        if ender.gone(deadline.target):
            deadlines.remove(self._folder, deadline.hold_id)
            return
        if deadline.left_ms() <= -deadline.grace_s * 1000:
            _say(f"session {deadline.hold_id} is killed: it did not end within {deadline.grace_s} s")
            ender.kill(deadline.target)
        elif (deadline.hold_id, deadline.deadline_ms) not in self._told:
            _say(f"session {deadline.hold_id} is told to end: its runtime is over")
            ender.terminate(deadline.target)
            self._told.add((deadline.hold_id, deadline.deadline_ms))


def _say(message: str) -> None:
    print(f"watchdog: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    Watchdog(Path(sys.argv[1])).run()
