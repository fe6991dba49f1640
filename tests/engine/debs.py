"""The engine's programs: Debian 13's docker.io and containerd, unpacked beside the machine's own packages and never installed.

Invariant: nothing of the machine's apt is changed: sources, state and cache are folders of our own; the mirror is the one that the
machine's own Debian sources name, and packages are checked against the Debian archive's keys. dockerd, containerd and the shim
need glibc 2.34 only, so that they run on Debian 12 beside its own runc.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SUITE: Final = "trixie"
PACKAGES: Final = ("docker.io", "containerd", "tini")
DEADLINE_S: Final = 300
_KEYS: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class NoEngine(Exception):
    """The engine's programs cannot be had on this machine; the text says why."""


def cache() -> Path:
    """Where programs, images and the engine's data lie between runs, outside the clone: shared by every clone of this person."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "compute-commons" / "engine"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of this file; others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def programs(home: Path) -> Path:
    """The folder with dockerd and its companions, fetched on first use. Raises NoEngine."""
    folder = home / f"programs-{SUITE}"
    with locked(home / "programs.lock"):
        if not (folder / "stamp").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _fetch(folder)
            (folder / "stamp").write_text(" ".join(PACKAGES))
    return folder


def _fetch(folder: Path) -> None:
    apt = folder / "apt"
    for name in ("lists/partial", "archives/partial", "empty"):
        (apt / name).mkdir(parents=True)
    source = apt / "sources.list"
    source.write_text(f"deb [signed-by={_KEYS}] {debian_mirror()} {SUITE} main\n")
    options = {
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "-",
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": apt,
        "Dir::Cache::archives": apt / "archives",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    _run(["apt-get", "-q", *flags, "update"], apt)
    _run(["apt-get", "-q", *flags, "download", *PACKAGES], apt)
    for deb in sorted(apt.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(deb), str(folder)], apt)
    shutil.rmtree(apt)
    init = folder / "usr/bin/tini-static"
    if init.exists() and not (folder / "usr/bin/docker-init").exists():
        (folder / "usr/bin/docker-init").symlink_to(init.name)
    if not (folder / "usr/sbin/dockerd").exists():
        raise NoEngine("the package docker.io brought no dockerd")


def debian_mirror() -> str:
    """The mirror of the machine's own apt sources. Raises NoEngine where it has none."""
    line = "$(REPO_URI)|$(ORIGIN)|$(LABEL)"
    argv = ["apt-get", "indextargets", "--format", line, "Created-By: Packages"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    for found in done.stdout.splitlines():
        uri, origin, label = found.split("|")
        if (origin, label) == ("Debian", "Debian"):
            return uri
    raise NoEngine("the machine's apt sources name no Debian mirror: apt-get update, then run this again")


def _run(argv: Sequence[str], folder: Path) -> None:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    if done.returncode != 0:
        raise NoEngine(f"{argv[0]} failed: {(done.stdout + done.stderr)[-800:]}")
