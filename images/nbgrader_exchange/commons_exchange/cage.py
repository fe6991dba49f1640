"""A cage for a student's code: a Jupyter kernel that sees Python, a copy of one notebook's folder, and nothing else of the machine.

Fresh mount, pid, network and IPC namespaces and a root of its own (caged.py), a uid or user namespace of its own, no capability, no
network, limits on memory, processes, file sizes and time. The kernel talks through Unix sockets only; whoever executes the notebook
stays outside. Where the machine does not let namespaces be made nothing is executed. For demos and small courses: nothing limits all cages together.
Sources: user_namespaces(7), pivot_root(2), setrlimit(2) (RLIMIT_NPROC is counted in each user namespace since Linux 5.14).
"""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROGRAM = Path(__file__).resolve().with_name("caged.py")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
_NAMESPACES = ("--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child")
_PLACES = Path(os.environ.get("TMPDIR", "/tmp"))  # noqa: S108  (each place is a fresh folder of ours)
_PREFIX = "cage-"
_FREE_UIDS = (2_000_000, 60_000)  # beyond every person's and every account's
# What the kernel gets of the environment: no token, no address, no name.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ")


@dataclass(frozen=True)
class CageLimits:
    memory_mib: int = 2048  # address space of one process
    disk_mib: int = 256  # everything that the notebook writes, in memory
    file_mib: int = 64
    processes: int = 128
    seconds: int = 180  # of one notebook, kernel start included


class NoCage(RuntimeError):
    """Namespaces cannot be made here, so a student's code is not executed."""


@dataclass(frozen=True)
class Place:
    """Where one notebook's files and sockets lie outside, and who its kernel is (None: ourselves)."""

    folder: Path
    uid: int | None

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def sockets(self) -> Path:
        return self.folder / "s"


def make_place(source: Path) -> Place:
    """A copy of `source` without its notebooks, and a folder for the kernel's sockets."""
    _sweep()
    uid = _FREE_UIDS[0] + secrets.randbelow(_FREE_UIDS[1]) if os.geteuid() == 0 else None
    place = Place(Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_PLACES)), uid)
    shutil.copytree(source, place.work, symlinks=True, ignore=shutil.ignore_patterns("*.ipynb"))
    place.sockets.mkdir(mode=0o700)
    if uid is not None:
        os.chown(place.sockets, uid, uid)
    return place


def _sweep() -> None:
    """Remove the copies that graders left who were killed. Another's folder of such a name is not touched."""
    for one in _PLACES.glob(f"{_PREFIX}*-*"):
        grader = one.name.removeprefix(_PREFIX).partition("-")[0]
        if not grader.isdecimal() or Path("/proc", grader).exists():
            continue
        with contextlib.suppress(OSError):
            if one.lstat().st_uid == os.geteuid():
                shutil.rmtree(one)  # takes no link for a folder


def command(place: Place, kernel: Sequence[str], limits: CageLimits) -> list[str]:
    """What to start instead of `kernel`. Raises NoCage."""
    apart = _apart(as_root=place.uid is not None)
    visible = dict.fromkeys([*_SYSTEM, *_python()])
    uid = "-" if place.uid is None else str(place.uid)
    order = [str(place.work), str(place.sockets), str(limits.disk_mib), uid, *visible, "--", *kernel]
    inside = [*apart, sys.executable, "-I", "-S", str(_PROGRAM), *order]
    return ["timeout", "--foreground", "--signal=KILL", str(limits.seconds), *inside]


@cache
def _apart(*, as_root: bool) -> tuple[str, ...]:
    """What starts a program in namespaces of its own; that it can is found out once a process. Raises NoCage."""
    apart = ("unshare", *(() if as_root else ("--user", "--map-root-user")), *_NAMESPACES)
    check = subprocess.run([*apart, "true"], capture_output=True, text=True, timeout=30)
    if check.returncode != 0:
        raise NoCage(
            f"A student's code runs in namespaces of its own only, and here none can be made: {check.stderr.strip()}"
        )
    return apart


def environment() -> dict[str, str]:
    """What the kernel may know."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def limit(limits: CageLimits) -> None:
    """Runs in the child before the cage is built; what is limited here stays limited inside."""
    mib = 1024 * 1024
    for what, value in (
        (resource.RLIMIT_AS, limits.memory_mib * mib),
        (resource.RLIMIT_FSIZE, limits.file_mib * mib),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 512),
    ):
        resource.setrlimit(what, (value, value))


def _python() -> list[str]:
    """Where this Python and its packages lie."""
    found = [sys.prefix, sys.exec_prefix, os.path.realpath(sys.base_prefix), *site.getsitepackages()]
    return [path for path in found if not path.startswith("/usr/")]
