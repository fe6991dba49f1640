"""`./commons up`: runs the whole portal on this machine until Ctrl-C.

Invariant: one launcher a data folder (the lock), and a launcher that dies takes the programs down and leaves the sessions
running; the next one finds the same ports and secrets. docs/reference/runtime.md says what runs and where it writes.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from deploy.onehost import ports
from deploy.onehost.bootstrap import Environment
from deploy.onehost.console import CannotGoOn, Progress, report
from deploy.onehost.container_demo import ENGINE_SOCKET, with_containers
from deploy.onehost.containers import HELPER, engine_programs, load_packet_rules
from deploy.onehost.data_folder import (
    DEMO_COURSE_USERS,
    DataFolder,
    forget_holder,
    read_holder,
    try_lock,
    write_holder,
    write_whole,
)
from deploy.onehost.programs import Site, public_address
from deploy.onehost.readiness import wait_until_ready
from deploy.onehost.stopping import CleanStop, live_runners
from deploy.onehost.supervision import Supervisor
from deploy.onehost.watching import Watch

ROOT: Final = Path(__file__).resolve().parents[2]
DEFAULT_PORT: Final = 8000
LOCK_DEADLINE_S: Final = 30.0
PORTS_DEADLINE_S: Final = 15.0
POLL_S: Final = 0.2


@dataclass(frozen=True)
class Options:
    """The command line of `up`."""

    data: Path
    port: int
    ready_file: Path | None
    model: bool
    engine: str = ""  # the container engine's socket; empty: no sessions in containers beside those of portal.toml
    image: str = ""
    demo_course: bool = False


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; argparse exits on a mistake."""
    parser = argparse.ArgumentParser(prog="./commons up", description="Run the portal on this machine until Ctrl-C.")
    parser.add_argument("--data", type=Path, default=ROOT / ".commons" / "data", help="data folder (.commons/data)")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help=f"port on 127.0.0.1 ({DEFAULT_PORT})")
    parser.add_argument(
        "--ready-file", type=Path, help="written when everything answers: JSON with addresses and sign-ins"
    )
    parser.add_argument("--no-model", action="store_true", help="leave out the demo's language model")
    parser.add_argument(
        "--containers",
        nargs="?",
        const=ENGINE_SOCKET,
        default="",
        metavar="SOCKET",
        help=f"also offer sessions in containers of the engine there ({ENGINE_SOCKET}); as root",
    )
    parser.add_argument("--container-image", default="", metavar="ID", help="use this image and build none")
    parser.add_argument(
        "--demo-course",
        action="store_true",
        help="make an example course: an instructor, three students, an assignment",
    )
    found = parser.parse_args(arguments)
    ready_file = found.ready_file and found.ready_file.absolute()
    engine, image = found.containers, found.container_image
    return Options(found.data.absolute(), found.port, ready_file, not found.no_model, engine, image, found.demo_course)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return int(text)


class Launcher:
    """One run of `up`, from the lock to the last process."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self._data = DataFolder(options.data)
        self._stop = threading.Event()
        self._hurry = threading.Event()

    def run(self) -> int:
        """Serve until a signal; raises CannotGoOn where the portal cannot run."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup asks to stay
                signal.signal(number, self._on_signal)
        # A crash must not write keys to disk; what is started here inherits it.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        portal_file = Path(os.environ.get("COMMONS_PORTAL_FILE", ROOT / "portal.toml")).absolute()
        check_portal_file(portal_file)
        self._data.make()
        if self._options.demo_course:
            self._data.add_demo_users(DEMO_COURSE_USERS)
        if self._options.engine:
            portal_file = with_containers(
                self._data, portal_file, self._options.engine, self._options.image, self._progress
            )
            check_portal_file(portal_file)
        lock = self._take_lock()
        try:
            if self._stop.is_set():
                return 130
            site = self._site(portal_file)
            write_holder(lock, site.url)
            self._remove_ready_file()
            self._serve(site, lock)
            forget_holder(lock)
        finally:
            self._remove_ready_file()
        return 0

    def _remove_ready_file(self) -> None:
        if self._options.ready_file is not None:
            self._options.ready_file.unlink(missing_ok=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _take_lock(self) -> int:
        """Take the lock; waits for the programs of a launcher that was killed. Raises CannotGoOn where one runs."""
        told = False
        for _ in range(int(LOCK_DEADLINE_S / POLL_S)):
            lock = try_lock(self._data.lock_file)
            if lock is not None:
                return lock
            holder = read_holder(self._data.lock_file)
            if holder is not None and holder.is_running:
                raise CannotGoOn(f"already running at {holder.url} (process {holder.pid})")
            if not told:
                told = True
                self._progress.say("waiting: the programs of the last launcher are still ending")
            if self._stop.wait(POLL_S):
                raise CannotGoOn("interrupted")
        raise CannotGoOn(f"another process still holds {self._data.lock_file}; end it, then run this again")

    def _site(self, portal_file: Path) -> Site:
        inner = ports.read(self._data.ports_file)
        if inner is not None and self._options.port in inner.values():
            raise CannotGoOn(
                f"port {self._options.port} is one of this portal's inner ports; choose another with --port"
            )
        if not ports.is_allowed(self._options.port):
            raise CannotGoOn(
                f"port {self._options.port}: only root may listen there; choose one from 1024 up with --port"
            )
        crashed = read_holder(self._data.lock_file) is not None
        wanted = {"public": self._options.port, **(inner or {})}
        busy = ports.wait_until_free(wanted, PORTS_DEADLINE_S if crashed else 0)
        if "public" in busy:
            raise CannotGoOn(f"port {self._options.port} is in use by another program; choose another with --port")
        if inner is None or (busy and not live_runners(self._data.sessions)):
            inner = ports.choose(self._data.ports_file, self._options.port, random.SystemRandom())
        elif busy:
            names = ", ".join(f"{port} ({name})" for name, port in busy.items())
            raise CannotGoOn(
                f"inner port {names} is in use by another program; running notebooks need it: end that program"
            )
        engine = engine_programs(portal_file)
        return Site(
            Environment(ROOT), self._data, portal_file, self._options.port, inner, self._options.model, engine,
            public_address(portal_file),
        )  # fmt: skip

    def _serve(self, site: Site, lock: int) -> None:
        supervisor = Supervisor(site, lock)
        if HELPER in site.engine:
            load_packet_rules(site, self._progress)
        self._progress.say("starting " + ", ".join(program_names(site)))
        supervisor.start()
        try:
            if wait_until_ready(site, supervisor, self._progress, self._stop):
                if self._options.demo_course:
                    from deploy.onehost import (
                        demo_course,  # its HTTP client is not there yet when the command line is read
                    )

                    demo_course.make(site, self._progress)
                self._announce(site)
                Watch(site, supervisor, self._progress).until(self._stop)
            CleanStop(site, self._progress, self._hurry).run()
        finally:
            supervisor.stop()
            ports.wait_until_free({"public": site.public_port, **site.ports}, PORTS_DEADLINE_S)
        self._progress.say("stopped; nothing runs any more")

    def _announce(self, site: Site) -> None:
        users = self._data.demo_users()
        width = max(len(user.user) for user in users)
        self._progress.say(f"ready: {site.url}")
        print(f"\n  {'sign-in':{width + 2}}password")
        for user in users:
            print(
                f"  {user.user:{width + 2}}{user.password}{'   (' + ', '.join(user.roles) + ')' if user.roles else ''}"
            )
        print("\n  For this machine only. Ctrl-C settles what runs and stops everything.\n", flush=True)
        if self._options.ready_file is not None:
            content = {
                "url": site.url,
                "api": f"{site.url}services/quota/api",
                "gateway": f"{site.url}services/gateway/v1",
                "demo": [asdict(user) for user in users],
            }
            self._options.ready_file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._options.ready_file, json.dumps(content))


def program_names(site: Site) -> list[str]:
    """What is started, as people call it."""
    engine = [f"engine {name}" for name in site.engine]
    return ["proxy", "hub", "quota service"] + (["language model"] if site.model else []) + engine


def check_portal_file(portal_file: Path) -> None:
    """Raise CannotGoOn with `file: key: reason` lines where portal.toml has a mistake. In a process of its own: the
    launcher itself loads neither hub nor quota service."""
    argv = [sys.executable, "-m", "deploy.onehost.portal_check", str(portal_file)]
    checked = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    if checked.returncode == 0:
        return
    lines = checked.stderr.strip().splitlines() or [f"{portal_file}: could not be checked"]
    raise CannotGoOn(lines[-1], details=lines[:-1])


def main(arguments: Sequence[str]) -> int:
    """Run the portal; 0 after a clean stop."""
    options = parse(arguments)
    try:
        return Launcher(options, Progress.resumed()).run()
    except CannotGoOn as error:
        report(error)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
