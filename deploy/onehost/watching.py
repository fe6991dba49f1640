"""Watches the programs while the portal serves.

Invariant: the supervisor restarts programs and the hub gives a new proxy its routes; the watch tells people about it, tries
again what the supervisor gave up on, and never takes a serving portal down because one program is in trouble.
"""

import threading
import time
from collections.abc import Mapping
from typing import Final

from deploy.onehost.console import Progress, last_lines
from deploy.onehost.programs import Site
from deploy.onehost.supervision import ProgramState, Status, Supervisor, SupervisorSilent

LOOK_S: Final = 0.5
# Pause before a program that the supervisor gave up on is tried again, and between two supervisors.
RETRY_S: Final = 30.0
SUPERVISOR_RETRY_S: Final = 2.0


class Watch:
    """What the launcher does between "ready" and the stop."""

    def __init__(self, site: Site, supervisor: Supervisor, progress: Progress) -> None:
        self._site = site
        self._supervisor = supervisor
        self._progress = progress
        self._pids: dict[str, int] = {}
        self._retry_at_s: dict[str, float] = {}

    def until(self, stop: threading.Event) -> None:
        """Look twice a second until a stop is asked for."""
        while not stop.wait(LOOK_S):
            if not self._supervisor.is_running:
                self._progress.say("the supervisor ended unexpectedly; starting another")
                if stop.wait(SUPERVISOR_RETRY_S):
                    return
                self._supervisor.start()
                self._pids.clear()
                continue
            try:
                self._look(self._supervisor.statuses())
            except SupervisorSilent:
                continue

    def _look(self, statuses: Mapping[str, Status]) -> None:
        for name, status in statuses.items():
            if status.state is ProgramState.FATAL:
                self._retry(name)
            elif status.state is ProgramState.RUNNING:
                before = self._pids.get(name, status.pid)
                self._pids[name] = status.pid
                self._retry_at_s.pop(name, None)
                if before != status.pid:
                    self._progress.say(f"{name} ended and runs again")

    def _retry(self, name: str) -> None:
        now_s = time.monotonic()
        if name not in self._retry_at_s:
            self._retry_at_s[name] = now_s + RETRY_S
            log = self._site.data.logs / f"{name}.log"
            for line in last_lines(log):
                print(f"    {line}")
            self._progress.say(f"{name} does not start again; next try in {RETRY_S:.0f} s; its log: {log}")
        elif now_s >= self._retry_at_s[name]:
            del self._retry_at_s[name]
            self._supervisor.start_again(name)
