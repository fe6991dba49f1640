"""The clean stop: settles what runs before the programs go.

Invariant: every loop is bounded, and nothing here decides an amount. Sessions are stopped through the hub; where the hub is
down, or has forgotten one, through the session's own runner, whose record is the evidence. What could not be settled in time
is settled by the next start's reconciliation.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from deploy.onehost.calls import Silent, call
from deploy.onehost.console import Progress
from deploy.onehost.programs import Site
from spawners import processes, records

SESSIONS_DEADLINE_S: Final = 90.0
SETTLE_DEADLINE_S: Final = 20.0
STOP_CALL_DEADLINE_S: Final = 15.0
POLL_S: Final = 0.5
PARALLEL_STOPS: Final = 8


@dataclass(frozen=True)
class Server:
    """One server that the hub lists as active."""

    user: str
    name: str
    stopping: bool

    @property
    def path(self) -> str:
        """Its address under the hub's API."""
        user = quote(self.user, safe="")
        return f"/users/{user}/servers/{quote(self.name, safe='')}" if self.name else f"/users/{user}/server"


class HubUnavailable(Exception):
    """The hub does not answer, or not with a list of servers."""


class CleanStop:
    """One stop of one site; `hurry` ends every wait at once."""

    def __init__(self, site: Site, progress: Progress, hurry: threading.Event) -> None:
        self._site = site
        self._progress = progress
        self._hurry = hurry

    def run(self) -> None:
        """Stop every session, then have the quota service settle them."""
        sessions = len(live_runners(self._site.data.sessions))
        self._progress.say(f"stopping: settling {sessions} session{'' if sessions == 1 else 's'}")
        self._say_why()
        try:
            self._wait(self._no_server_left, SESSIONS_DEADLINE_S)
        except HubUnavailable as error:
            self._progress.say(f"the hub does not answer ({error}); stopping the sessions directly")
        if not self._wait(self._no_runner_left, SESSIONS_DEADLINE_S):
            left = len(live_runners(self._site.data.sessions))
            self._progress.say(f"{left} session(s) still end; their runners record when")
        self._settle()

    def _say_why(self) -> None:
        """So that their owners read that the portal was shut down, and not that somebody stopped them."""
        try:
            call(
                "POST",
                f"{self._site.inner_url('quota')}/services/quota/api/internal/stopping",
                credential=self._site.data.secret("hub_credential"),
                deadline_s=STOP_CALL_DEADLINE_S,
            )
        except Silent:
            return  # they are stopped all the same

    def _wait(self, done: Callable[[], bool], deadline_s: float) -> bool:
        for _ in range(int(deadline_s / POLL_S)):
            if done():
                return True
            if self._hurry.wait(POLL_S):
                return done()
        return False

    def _no_server_left(self) -> bool:
        servers = active_servers(self._site.inner_url("hub"), self._site.data.secret("launcher_api_token"))
        with ThreadPoolExecutor(PARALLEL_STOPS) as pool:
            list(pool.map(self._stop_server, (server for server in servers if not server.stopping)))
        return not servers

    def _stop_server(self, server: Server) -> None:
        try:
            call(
                "DELETE",
                f"{self._site.inner_url('hub')}/hub/api{server.path}",
                credential=self._site.data.secret("launcher_api_token"),
                deadline_s=STOP_CALL_DEADLINE_S,
            )
        except Silent:
            return  # the next look at the list tells whether it worked

    def _no_runner_left(self) -> bool:
        runners = live_runners(self._site.data.sessions)
        for record in runners:
            processes.send_signal(record.runner_pid, record.runner_started, signal.SIGTERM)
        return not runners

    def _settle(self) -> None:
        try:
            settled = self._wait(self._nothing_open, SETTLE_DEADLINE_S)
        except Silent:
            self._progress.say("the quota service does not answer: what is open is settled at the next start")
            return
        self._progress.say("settled" if settled else "some sessions are not settled yet: the next start settles them")

    def _nothing_open(self) -> bool:
        answer = call(
            "POST",
            f"{self._site.inner_url('quota')}/services/quota/api/internal/reconcile",
            credential=self._site.data.secret("hub_credential"),
            deadline_s=STOP_CALL_DEADLINE_S,
        )
        return answer.status == 200 and isinstance(answer.json, dict) and answer.json.get("open_session_holds") == 0


def active_servers(hub_url: str, credential: str) -> list[Server]:
    """The servers that the hub lists as active, at most one page. Raises HubUnavailable."""
    try:
        answer = call("GET", f"{hub_url}/hub/api/users?state=active&limit=200", credential=credential)
    except Silent as error:
        raise HubUnavailable("no answer") from error
    if answer.status != 200 or not isinstance(answer.json, list):
        raise HubUnavailable(f"status {answer.status}")
    return [server for user in answer.json for server in servers_of(user)]


def servers_of(user: dict[str, Any]) -> Iterator[Server]:
    """What one user of the hub's answer has that is not ended."""
    for name, server in user.get("servers", {}).items():
        if server.get("ready") or server.get("pending"):
            yield Server(str(user["name"]), str(name), stopping=server.get("pending") == "stop")


def live_runners(sessions: Path) -> list[records.SessionRecord]:
    """The records of local sessions whose runner still runs."""
    live = []
    for folder in sorted(sessions.iterdir()) if sessions.is_dir() else ():
        try:
            record = records.read(folder)
        except records.RecordError:
            continue  # a folder without a whole record has nothing that could be signalled
        if not record.ended and records.is_alive(record):
            live.append(record)
    return live
