"""What tests need from the machine: found, or installed with apt where this may be done.

Invariant: nothing is skipped in silence. What is missing and cannot be installed fails the command on CI and is named elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INSTALL_DEADLINE_S = 900
_LOCK: Final = "DPkg::Lock::Timeout=600"
_SLURM_PARTS: Final = frozenset({"integration", "browser", "security"})


@dataclass(frozen=True)
class Need:
    """One Debian package, the parts of the tests that need it, and how to see that it is there."""

    package: str
    parts: frozenset[str]
    is_there: Callable[[], bool]


def _has_postgresql() -> bool:
    return any(Path("/usr/lib/postgresql").glob("*/bin/postgres")) or shutil.which("postgres") is not None


def _has_chromium() -> bool:
    return shutil.which("chromium") is not None


def _has_chinese_font() -> bool:
    return any(Path("/usr/share/fonts").rglob("NotoSansCJK*"))


SLURM_PACKAGES: Final = (
    "slurmctld",
    "slurmd",
    "slurmdbd",
    "slurmrestd",
    "slurm-client",
    "slurm-wlm-jwt-plugin",
    "slurm-wlm-mysql-plugin",
    "mariadb-server",
    "munge",
    "libnss-extrausers",
)


def _installed(package: str) -> Callable[[], bool]:
    """Whether dpkg knows the package as installed: plugins have no program on the PATH."""
    known = Path("/var/lib/dpkg/info")
    return lambda: (known / f"{package}.list").exists() or any(known.glob(f"{package}:*.list"))


def missing_slurm() -> list[str]:
    """The packages of a Slurm cluster that the machine lacks."""
    return [package for package in (*SLURM_PACKAGES, "debootstrap") if not _installed(package)()]


def _has_program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") is not None


ENGINE_PARTS = frozenset({"integration", "browser"})
# The engine itself is fetched by tests/engine/debs.py and installed nowhere.
ENGINE_PROGRAMS = {
    "iproute2": "ip",
    "iptables": "iptables",
    "nftables": "nft",
    "runc": "runc",
    "e2fsprogs": "mkfs.ext4",
}

NEEDS = (
    Need("postgresql", frozenset({"integration"}), _has_postgresql),
    *(Need(package, _SLURM_PARTS, _installed(package)) for package in (*SLURM_PACKAGES, "debootstrap")),
    Need("systemd", frozenset({"integration"}), _has_program("systemd-analyze")),
    Need("chromium", frozenset({"browser"}), _has_chromium),
    Need("libnss3-tools", frozenset({"browser"}), _has_program("certutil")),
    Need("nginx-light", frozenset({"browser"}), _has_program("nginx")),
    Need("fonts-noto-cjk", frozenset({"browser"}), _has_chinese_font),
    *(Need(package, ENGINE_PARTS, _has_program(name)) for package, name in ENGINE_PROGRAMS.items()),
)


def missing(parts: Sequence[str], needs: Sequence[Need] = NEEDS) -> list[str]:
    """The packages that these parts need and the machine lacks."""
    return [need.package for need in needs if need.parts & set(parts) and not need.is_there()]


def ensure(parts: Sequence[str]) -> bool:
    """Install what is missing; False where the tests must not go on without it."""
    packages = missing(parts)
    if not packages:
        return True
    if os.geteuid() == 0 and shutil.which("apt-get") is not None:
        install(packages)
        packages = missing(parts)
    for package in packages:
        print(f"missing: {package} (apt-get install {package})", flush=True)
    return not packages or "CI" not in os.environ


def install(packages: Sequence[str]) -> None:
    """Install Debian packages, telling how long it took; what is still missing afterwards shows by itself."""
    began_s = time.monotonic()
    print(f"installing {', '.join(packages)} …", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (
        ["apt-get", "-q", "-o", _LOCK, "update"],
        ["apt-get", "-qy", "-o", _LOCK, "--no-install-recommends", "install", *packages],
    ):
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, check=False, timeout=INSTALL_DEADLINE_S
        )
        if done.returncode != 0:
            print("\n".join((done.stdout + done.stderr).splitlines()[-10:]))
    print(f"installed ({time.monotonic() - began_s:.1f} s)", flush=True)
