"""A formgrader on a site that executes everything elsewhere: whatever its process became, it gets at its course's folder alone.

Each look is a process that is started as the formgrader is, by who runs this and by an account without any power.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest

from hub import confined
from hub.formgrader import launch_argv
from spawners.local import EXCHANGE
from tests.integration import containers_only
from tests.integration.autograded import opened, pressed, submitted
from tests.people import Person
from tests.portal import Portal
from tests.waiting import PATIENCE_S, eventually

NOBODY = 65_111
LOOK = """
import json, os, signal, sys
def attempt(what, *args):
    try:
        return str(what(*args))
    except OSError as error:
        return type(error).__name__
paths, hub, own, write = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "write"
def read(path):
    with open(path, "rb") as file:
        return file.read(40)
found = {path: attempt(read, path) for path in paths}
found |= {f"list {path}": attempt(os.listdir, os.path.dirname(path)) for path in paths}
found |= {f"/proc/{name}": attempt(read, f"/proc/{hub}/{name}") for name in ("environ", "maps")}
found["/proc/root"] = attempt(read, f"/proc/{hub}/root{paths[0]}")
found["/proc/cwd"] = attempt(os.listdir, f"/proc/{hub}/cwd")
if write:
    found |= {f"write {path}": attempt(open, path, "ab") for path in paths}
    found["make"] = attempt(open, os.path.join(own, "..", "new"), "wb")
    found["link"] = attempt(os.link, paths[0], os.path.join(own, "linked"))
    found["move"] = attempt(os.rename, paths[0], os.path.join(own, "moved"))
    found["remove"] = attempt(os.unlink, paths[0])
    found["device"] = attempt(os.mknod, os.path.join(own, "disk"), 0o60600, os.makedev(8, 0))
print(json.dumps(found))
"""
USE = """
import os, sqlite3, ssl, subprocess, sys, tempfile
import hub.course_files, hub.formgrader_links, nbgrader.api
sys.path.append(sys.argv[1])
import commons_exchange.container_run
with open("source/ps1.txt", "w") as file:
    file.write("mine")
with open("gradebook.db") as file:
    assert file.read() == "secret of courses/ml/gradebook.db"
with tempfile.TemporaryDirectory() as place:
    assert subprocess.run([sys.executable, "-c", "print(7)"], cwd=place, capture_output=True).stdout == b"7\\n"
print("usable")
"""
KEPT = ("secrets/hub_cookie_secret", "hub/jupyterhub.sqlite", "quota/quota.sqlite", "courses/art/gradebook.db")
OWN = "courses/ml/gradebook.db"


@dataclass
class Machine:
    """A data folder like a portal's, a process like its hub, and who both belong to."""

    data: Path
    hub: subprocess.Popen[bytes]
    account: list[str]

    @property
    def course(self) -> Path:
        return self.data / "courses" / "ml"

    def look(self, confine: bool, write: bool) -> dict[str, str]:
        """What a process of this account gets at."""
        paths = json.dumps([str(self.data / name) for name in KEPT])
        look = [sys.executable, "-c", LOOK, paths, str(self.hub.pid), str(self.course), "write" if write else "read"]
        found: dict[str, str] = json.loads(self.run(look, confine=confine))
        return found

    def run(self, program: list[str], *, confine: bool = True) -> str:
        """The output of a process that is started as a formgrader is, or as any other of this account's."""
        temporary = self.data / "tmp"
        argv = launch_argv(self.course, temporary if confine else None, program)
        code = self.course / ".home/code"
        environment = {"PYTHONPATH": str(code), "TMPDIR": str(temporary), "HOME": str(self.course), "PATH": os.defpath}
        done = subprocess.run(
            [*self.account, *argv], cwd=self.course, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def python_opened() -> list[str]:
    """Words before a command that let another account run this Python, which may lie in a home that is closed to others."""
    steps = ["kept=$(mktemp -d)"]
    for number, path in enumerate({Path(sys.prefix), Path(os.path.realpath(sys.base_prefix))}):
        closed = next((one for one in reversed(path.parents) if not one.stat().st_mode & 0o001), None)
        if closed is not None:
            steps += [
                f"mkdir $kept/{number}",
                f"mount --bind {path} $kept/{number}",
                f"mount -t tmpfs -o mode=755 tmpfs {closed}",
            ]
            steps += [f"mkdir -p {path}", f"mount --bind $kept/{number} {path}"]
    return ["unshare", "--mount", "bash", "-ec", "; ".join([*steps, 'exec "$@"']), "-"]


@pytest.fixture(params=["our own account", "an account without powers"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    plain = request.param != "our own account" and os.geteuid() == 0
    account = [*python_opened(), "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    account = account if plain else []
    data = Path(tempfile.mkdtemp(prefix="confined-", dir="/tmp"))  # pytest's own folders are closed to others
    for name in (*KEPT, OWN, "courses/ml/source/ps1.txt"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(f"secret of {name}")
    (data / "tmp").mkdir()
    (data / "courses/ml/.home/code").mkdir(parents=True)
    (data / "courses/ml/.home/code/hub").symlink_to(Path(confined.__file__).parent)
    for one in (data, *data.rglob("*")):
        if plain:
            os.chown(one, NOBODY, NOBODY, follow_symlinks=False)
    environment = {"CANARY": "of the hub", "PATH": os.defpath}
    with subprocess.Popen(
        [*account, "cat"], cwd=data, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as hub:
        try:
            echoed(hub)
            yield Machine(data, hub, account)
        finally:
            hub.kill()
            hub.wait()
            shutil.rmtree(data)


def echoed(process: subprocess.Popen[bytes]) -> None:
    """Return once the program runs: until then the process is still who started it, and closed to its account."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"there?\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"there?\n"


def test_a_formgraders_process_gets_at_no_secret_database_or_other_course(machine: Machine) -> None:
    assert confined.kernel_abi() >= 1
    before = machine.look(confine=False, write=False)
    assert all("Error" not in seen for seen in before.values()), before  # an account gets at its own
    after = machine.look(confine=True, write=True)
    assert set(before) < set(after)
    assert {what: seen for what, seen in after.items() if seen not in ("PermissionError", "OSError")} == {}
    assert [(machine.data / name).read_text() for name in KEPT] == [f"secret of {name}" for name in KEPT]


@pytest.mark.skipif(confined.kernel_abi() < 6, reason="kernels before 6.12 do not keep signals in")
def test_it_ends_nothing_of_the_portal(machine: Machine) -> None:
    send = "import os, sys; os.kill(int(sys.argv[1]), int(sys.argv[2]))"
    argv = [sys.executable, "-c", send, str(machine.hub.pid), str(int(signal.SIGKILL))]
    with pytest.raises(AssertionError, match="PermissionError"):
        machine.run(argv)
    assert machine.hub.poll() is None


def test_it_can_do_what_a_formgrader_does(machine: Machine) -> None:
    assert machine.run([sys.executable, "-c", USE, str(EXCHANGE.parent)]) == "usable\n"
    assert (machine.course / "source/ps1.txt").read_text() == "mine"


def formgrader_of(portal: Portal) -> psutil.Process | None:
    """The only one that this portal's hub runs."""
    with contextlib.suppress(AssertionError, psutil.Error):  # the hub is about to start
        below = psutil.Process(portal.pid("jupyterhub -f")).children(recursive=True)
        return next((one for one in below if "jupyterhub-singleuser" in " ".join(one.cmdline())), None)
    return None


def status_of(process: psutil.Process) -> str:
    """What /proc says of it."""
    return Path(f"/proc/{process.pid}/status").read_text()


def are_there(places: list[str]) -> list[bool]:
    return [os.path.exists(one) for one in places]


async def temporary_of_the_next_hubs(portal: Portal, teacher: Person, before: str) -> str:
    """The folder that a formgrader has under another hub."""
    found = before

    async def has_another() -> bool:
        nonlocal found
        with contextlib.suppress(AssertionError, aiohttp.ClientError, TimeoutError, psutil.Error):
            await opened(teacher, "services/example/formgrader")
            formgrader = formgrader_of(portal)
            found = before if formgrader is None else formgrader.environ()["TMPDIR"]
        return found != before

    await eventually(has_another, within_s=240, what="a formgrader runs under another hub")
    return found


async def test_on_a_site_that_executes_elsewhere_the_formgrader_is_confined_and_does_its_work(tmp_path: Path) -> None:
    file = containers_only.portal_file(tmp_path, grading="container")
    portal = Portal(tmp_path / "data", model=False, options=["--demo-course"], portal_file=file).up()
    try:
        async with Person(portal, "instructor") as teacher, Person(portal, "student1") as student:
            assert (await opened(teacher, "services/example/formgrader"))[0] == 200
            formgrader = formgrader_of(portal)
            assert formgrader is not None
            assert "NoNewPrivs:\t1" in status_of(formgrader)
            assert (await pressed(teacher, "example", "assignment/ps1/assign"))["success"]
            again = await pressed(teacher, "example", "assignment/ps1/release")
            assert "is out already" in json.dumps(again), again  # the portal was asked, and the version is there
            await submitted(student, "example", tmp_path / "pending")
            assert (await pressed(teacher, "example", "assignment/ps1/collect"))["success"]
            assert [one.name for one in (portal.data / "courses/example/submitted").glob("*/ps1/line.ipynb")]
            places = [formgrader.environ()["TMPDIR"]]
            os.kill(portal.pid("jupyterhub -f"), signal.SIGKILL)
            places.append(await temporary_of_the_next_hubs(portal, teacher, places[0]))
            assert are_there(places) == [False, True]
    finally:
        assert portal.down() == 0
