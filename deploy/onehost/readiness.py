"""Waits until the portal works, program by program, as a browser would find it.

Invariant: "ready" is said after every probe answered, the public address included; a program that cannot start ends the wait
with its name and the last lines of its log.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from deploy.onehost.calls import Answer, Silent, call
from deploy.onehost.console import CannotGoOn, Progress, last_lines
from deploy.onehost.data_folder import DataFolder
from deploy.onehost.programs import Site
from deploy.onehost.supervision import ProgramState, Status, Supervisor, SupervisorSilent

DEADLINE_S: Final = 180.0
POLL_S: Final = 0.2
STILL_WAITING_S: Final = 10.0
# A slow machine lets a program that cannot start live long enough to count as started: then it never becomes FATAL.
MOST_STARTS: Final = 3


@dataclass(frozen=True)
class Probe:
    """One thing that must answer; `program` names whose log explains why it does not.

    `after` is what must answer first: the proxy would log an error for every probe of a program that is not there yet.
    """

    what: str
    program: str
    url: str
    is_good: Callable[[Answer], bool]
    after: str = ""
    host: str = ""  # the Host header, where the proxy routes by it


def _is_ok(answer: Answer) -> bool:
    return answer.status == 200


def _is_healthy(answer: Answer) -> bool:
    return answer.status == 200 and isinstance(answer.json, dict) and answer.json.get("status") == "ok"


def probes(site: Site) -> list[Probe]:
    """What must answer before the portal is ready."""
    health, host = "services/quota/api/health", site.public.host
    found = [
        Probe("hub", "hub", f"{site.inner_url('hub')}/hub/api/", _is_ok),
        Probe("quota service", "quota", f"{site.inner_url('quota')}/{health}", _is_healthy),
        Probe("sign-in page at the public address", "proxy", f"{site.proxy_url}hub/login", _is_ok, "hub", host),
        Probe("quota service at the public address", "proxy", f"{site.proxy_url}{health}", _is_healthy, "hub", host),
    ]
    if site.model:
        found.append(Probe("language model", "model", f"{site.inner_url('model')}/health", _is_healthy))
    return found


def wait_until_ready(site: Site, supervisor: Supervisor, progress: Progress, stop: threading.Event) -> bool:
    """Wait for every probe; False where a stop was asked for meanwhile. Raises CannotGoOn."""
    waiting = probes(site)
    starts = Starts()
    began_s = told_s = time.monotonic()
    while waiting:
        check_programs(supervisor, site.data, starts)
        absent = {probe.what for probe in waiting}
        for probe in [probe for probe in waiting if probe.after not in absent]:
            if _answers(probe):
                progress.say(f"{probe.what} is up")
                waiting.remove(probe)
        now_s = time.monotonic()
        if waiting and now_s - began_s > DEADLINE_S:
            first = waiting[0]
            raise _explained(site.data, first.program, f"the {first.what} did not come up within {DEADLINE_S:.0f} s")
        if waiting and now_s - told_s > STILL_WAITING_S:
            told_s = now_s
            progress.say("waiting for: " + ", ".join(probe.what for probe in waiting))
        if stop.wait(POLL_S if waiting else 0):
            return False
    return True


class Starts:
    """How often each program was started, by the processes that were seen."""

    def __init__(self) -> None:
        self._pids: dict[str, set[int]] = {}

    def failed(self, statuses: Iterable[Status]) -> str | None:
        """The name of a program that does not start, by the supervisor's word or because it keeps ending."""
        for status in statuses:
            pids = self._pids.setdefault(status.name, set())
            if status.pid:
                pids.add(status.pid)
            if status.state is ProgramState.FATAL or len(pids) > MOST_STARTS:
                return status.name
        return None


def check_programs(supervisor: Supervisor, data: DataFolder, starts: Starts) -> None:
    """Raise CannotGoOn where the supervisor has ended or a program does not start."""
    if not supervisor.is_running:
        output = last_lines(data.logs / "supervisord.out")
        raise CannotGoOn(f"the supervisor ended; see {data.logs / 'supervisord.log'}", details=output)
    try:
        failed = starts.failed(supervisor.statuses().values())
    except SupervisorSilent:
        return  # its socket comes a moment after the process
    if failed is not None:
        raise _explained(data, failed, f"{failed} does not start")


def _answers(probe: Probe) -> bool:
    try:
        return probe.is_good(call("GET", probe.url, deadline_s=2.0, host=probe.host))
    except Silent:
        return False


def _explained(data: DataFolder, program: str, text: str) -> CannotGoOn:
    log = data.logs / f"{program}.log"
    return CannotGoOn(f"{text}; its log: {log}", details=last_lines(log))
