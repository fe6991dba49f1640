"""A Debian 13 folder with Slurm 24.11 in it, made once a machine and kept outside the source tree.

Invariants: half an image is never used (it is renamed into place when complete); one process makes it at a time; everything
comes from the package mirror that this machine already uses.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.daemons import INSTALL_DEADLINE_S, SLURM_PACKAGES

SUITE: Final = "trixie"
_NAME: Final = f"slurm-{SUITE}-2"  # counts what is in it
_MORE: Final = ("python3",)  # of the nodes: it runs sessions
_POLICY: Final = "#!/bin/sh\nexit 101\n"  # packages start no daemons
_INSIDE: Final = (
    "apt-get -q update && apt-get -yq --no-install-recommends install {packages} && apt-get clean"
    " && rm -f /usr/sbin/policy-rc.d"
)


class ImageError(RuntimeError):
    """The image could not be made; the message ends with what the tools said."""


def image() -> Path:
    """The image's folder; made where it is not there, which takes about half a minute."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compute-commons"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / _NAME
    with (cache / f"{_NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            half = cache / f"{_NAME}.half"
            shutil.rmtree(half, ignore_errors=True)
            _make(half)
            half.rename(folder)
    return folder


def _make(folder: Path) -> None:
    mirror = _run(["apt-get", "indextargets", "--format", "$(SITE)"]).splitlines()
    if not mirror:
        raise ImageError("apt-get names no package mirror")
    _run(["debootstrap", "--variant=minbase", SUITE, str(folder), mirror[0]])
    policy = folder / "usr/sbin/policy-rc.d"
    policy.write_text(_POLICY)
    policy.chmod(0o755)
    shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
    (folder / "etc/hosts").touch()  # a mount point for each cluster's own
    inside = _INSIDE.format(packages=" ".join((*SLURM_PACKAGES, *_MORE)))
    mounts = 'mount --bind /dev "$0/dev"; mount -t proc proc "$0/proc"; exec chroot "$0" sh -ec "$1"'
    # Mounts of a private namespace need no unmounting.
    _run(["unshare", "-m", "--propagation", "private", "sh", "-ec", mounts, str(folder), inside])


def _run(argv: list[str]) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=False, timeout=INSTALL_DEADLINE_S
    )
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ImageError(f"{argv[0]} exited {done.returncode}\n{last}")
    return done.stdout
