"""The formgrader of a course as a process: started when somebody of the course opens it, started again when it dies, gone with the course.

A single-user server in the course's own folder, under the service's own token and without terminals. It runs as the hub's own account.
Invariants: it dies with the hub (PR_SET_PDEATHSIG with SIGKILL: it would answer SIGTERM only after the autograding that it is at), so that
a restarted hub never meets an old one, and its runs end with it; its environment holds the service's
token, and one of an instructor's that is good for the exchange only: releases and grades are theirs in the audit; where sessions are no
processes of this account it runs nobody's code and writes below `source/` alone (hub.course_files), and where containers execute
submissions, too, it gets at no file of the portal's but its course's own (hub.confined; decision 0029).
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from hub import confined
from hub.settings import LOOPBACK
from spawners.local import EXCHANGE
from spawners.ports import free_port

READY_S: Final = 120.0
_OWN: Final = Path(__file__).resolve().parent
_POLL_S: Final = 0.1
_STOP_S: Final = 10.0
_KEPT: Final = ("LANG", "LC_ALL", "TZ", "PATH", "PYTHONPATH")
_SERVER: Final = """\
c = get_config()  # written by the hub at each start
c.ServerApp.terminals_enabled = False
c.HubOAuth.cache_max_age = 10  # who is no teacher any more is out within seconds
c.ServerApp.jpserver_extensions = {
    "nbgrader.server_extensions.formgrader": True,
    "nbgrader.server_extensions.assignment_list": False,
    "hub.formgrader_links": True,
}
"""
_NO_CODE: Final = """\
from hub.course_files import CourseFiles, NoKernels

c.ServerApp.kernel_manager_class = NoKernels
c.ServerApp.contents_manager_class = CourseFiles
c.ServerApp.jpserver_extensions |= {
    "jupyter_lsp": False,
    "jupyter_server_terminals": False,
    "nbgrader.server_extensions.validate_assignment": False,  # would run a notebook here
    "nbgrader.server_extensions.course_list": False,
}
c.LabApp.extension_manager = "readonly"
"""
_COURSE: Final = """\
# Written once, by the hub; yours to change, but for the two lines that say where the course is.
c = get_config()
c.CourseDirectory.course_id = {slug!r}
c.CourseDirectory.root = {root!r}
"""

log = logging.getLogger("jupyterhub.commons")


class NotReady(Exception):
    """The formgrader did not answer in time."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a formgrader is started with. `credential` is its service's token."""

    slug: str
    credential: str
    folder: Path
    api_url: str
    public_url: str
    base_url: str
    runs_code: bool = False  # whether people may run code in it, as they may in sessions of the local profile
    grading: str = ""  # where submissions are executed, as commons_exchange.runs reads it
    confined: bool = (
        False  # whether it gets at its course's folder alone; a cage for submissions cannot be built inside
    )

    @property
    def prefix(self) -> str:
        """Where the proxy shows it."""
        return f"{self.base_url}services/{self.slug}/"


class Formgrader:
    """One course's process."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: Path | None = None
        self._starting = asyncio.Lock()
        self.wanted = False
        self.exchange_token = (
            ""  # an instructor's, good for the exchange of courses and nothing else; read at each start
        )

    @property
    def runs(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    async def ensure(self) -> int:
        """Have it run and answer; the port. Raises NotReady."""
        async with self._starting:
            self.wanted = True
            if not self.runs:
                await asyncio.to_thread(self._launch)
            await self._until_it_answers()
            return self.port

    async def stop(self) -> None:
        """End it for good."""
        self.wanted = False
        if self._process is not None:
            await asyncio.to_thread(_end, self._process)
        if self._temporary is not None:
            await asyncio.to_thread(shutil.rmtree, self._temporary, ignore_errors=True)
            self._temporary = None

    def _launch(self) -> None:
        place = self.place
        place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = place.folder / "nbgrader_config.py"
        if not config.exists():
            config.write_text(_COURSE.format(slug=place.slug, root=str(place.folder)), encoding="utf-8")
        home = place.folder / ".home"
        home.mkdir(mode=0o700, exist_ok=True)
        server = home / "formgrader_config.py"
        server.write_text(_SERVER + ("" if place.runs_code else _NO_CODE), encoding="utf-8")
        (place.folder / "source").mkdir(exist_ok=True)
        self.port = free_port()
        program = [str(Path(sys.executable).with_name("jupyterhub-singleuser"))]
        program += [f"--config={server}", f"--ip={LOOPBACK}", f"--port={self.port}"]
        program += ["--allow-root"] if os.geteuid() == 0 else []
        environment = self._environment(home)
        if place.confined and not confined.kernel_abi():
            log.warning("The formgrader of %s gets at the portal's files: this kernel has no Landlock", place.slug)
        elif place.confined:
            self._temporary = self._temporary or _temporary()
            environment |= {"TMPDIR": str(self._temporary), "PYTHONPATH": str(_code(home))}
        with (home / "formgrader.log").open("ab") as output:
            self._process = subprocess.Popen(
                launch_argv(place.folder, self._temporary, program),
                cwd=place.folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        log.info("The formgrader of %s starts as process %s", place.slug, self._process.pid)

    def _environment(self, home: Path) -> dict[str, str]:
        place = self.place
        scopes = json.dumps([f"access:services!service={place.slug}"])
        return {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            "HOME": str(home),
            "JUPYTERHUB_USER": f"course-{place.slug}",  # nbgrader's pages ask for one; nothing is decided by it
            "JUPYTERHUB_API_TOKEN": place.credential,
            "JUPYTERHUB_API_URL": place.api_url,
            "JUPYTERHUB_BASE_URL": place.base_url,
            "JUPYTERHUB_CLIENT_ID": f"service-{place.slug}",
            "JUPYTERHUB_SERVICE_NAME": place.slug,
            "JUPYTERHUB_SERVICE_PREFIX": place.prefix,
            "JUPYTERHUB_SERVICE_URL": f"http://{LOOPBACK}:{self.port}{place.prefix}",
            "JUPYTERHUB_OAUTH_SCOPES": scopes,
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": scopes,
            "JUPYTERHUB_ROOT_DIR": str(place.folder),
            "JUPYTER_CONFIG_PATH": str(EXCHANGE),
            "COMMONS_PUBLIC_URL": place.public_url,
            "COMMONS_EXCHANGE_TOKEN": self.exchange_token,
            "COMMONS_COURSE": place.slug,
            "COMMONS_GRADING": place.grading,
        }

    async def _until_it_answers(self) -> None:
        give_up = time.monotonic() + READY_S
        url = f"http://{LOOPBACK}:{self.port}{self.place.prefix}api"
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
            while time.monotonic() < give_up and self.runs:
                try:
                    if (await http.get(url)).status_code < 500:
                        return
                except httpx.HTTPError:
                    await asyncio.sleep(_POLL_S)
        raise NotReady(f"the formgrader of {self.place.slug} does not answer")


def launch_argv(folder: Path, temporary: Path | None, program: Sequence[str]) -> list[str]:
    """Start `program`, which ends with the hub; with a folder for temporary files it gets at that and the course's alone.

    A root portal's keeps the powers there that its runs' folders take, which belong to an account of their own; the fence holds all the same.
    """
    ends_with_us = ["setpriv", "--pdeathsig", "KILL"]
    if temporary is None:
        return [*ends_with_us, "--", *program]
    powers = ["--inh-caps=-all", "--bounding-set=-all,+chown,+dac_override,+fowner"] if os.geteuid() == 0 else []
    code = [sys.prefix, os.path.realpath(sys.base_prefix), str(_OWN), str(EXCHANGE.parent)]
    inside = confined.argv(code, [str(folder), str(temporary)], program)
    return [*ends_with_us, "--no-new-privs", *powers, "--", *inside]


def _temporary() -> Path:
    """A folder for a formgrader's files, with a short path for the sockets in it; those that hubs before this one left are removed."""
    place = Path(tempfile.gettempdir())
    for old in place.glob("cc-*-*"):
        hub = old.name.split("-")[1]
        with contextlib.suppress(OSError):  # another course's formgrader, which starts at the same time, was quicker
            if hub.isdecimal() and not Path("/proc", hub).exists() and old.lstat().st_uid == os.geteuid():
                shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"cc-{os.getpid()}-", dir=place))


def _code(home: Path) -> Path:
    """Where Python finds this package without listing the checkout, in which the data folder may lie."""
    place = home / "code"
    place.mkdir(exist_ok=True)
    (place / _OWN.name).unlink(missing_ok=True)
    (place / _OWN.name).symlink_to(_OWN)
    return place


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
