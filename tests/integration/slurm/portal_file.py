"""A portal.toml whose first GPU profile is a job of a test cluster, and what such a job needs to find there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

from spawners.signer.settings import SignerSettings
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.options import GPU_TYPE, PARTITION
from tests.portal import ROOT

PROJECT: Final = "ocean"  # its account is PORTAL_ACCOUNT


def slurm_portal(
    cluster: SlurmCluster, folder: Path, signer: SignerSettings, *, access: str = "rest", **more: str
) -> Path:
    """Write it; `more` are further keys of `[slurm.test]`, as TOML values."""
    text = (ROOT / "portal.toml").read_text()
    profile = re.search(r"\[profiles\.gpu1\].*?(?=\n\[)", text, re.DOTALL)
    assert profile
    place = f'\n[profiles.gpu1.slurm]\ncluster = "test"\npartition = "{PARTITION}"\ngpu_type = "{GPU_TYPE}"\n'
    there = profile[0].replace('backend = "local"', 'backend = "slurm"').replace('memory = "2 GiB"', 'memory = "1 GiB"')
    keys = {
        "access": f'"{access}"', "url": f'"{cluster.url}"', "signer": f'"{signer.socket}"',
        "home": f'"{cluster.homes}/{{login}}"', "python": f'"{sys.executable}"', "listen": '"127.0.0.1"', "look": '"1 s"',
        "program": f'"{Path(sys.executable).with_name("jupyterhub-singleuser")}"', "stop_wait": '"40 s"', **more,
    }  # fmt: skip
    table = "\n[slurm.test]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items())
    path = folder / "portal.toml"
    text = text.replace("named_servers = 4", "named_servers = 0")  # one hub serves many tests
    path.write_text(text.replace(profile[0], there + place) + table)
    return path


def open_python(cluster: SlurmCluster) -> None:
    """Let the cluster's people run this Python: on a developer's machine it may lie in a home that is closed to others.

    Seen inside the cluster's own mount namespace only: the closed folder is covered there, and what is needed shows through. Once is enough.
    """
    for path in {Path(sys.prefix), Path(sys.base_prefix)}:
        closed = next((one for one in reversed(path.parents) if not one.stat().st_mode & 0o001), None)
        if closed is not None:
            shown = cluster.base / f"run/shown{abs(hash(path))}"
            script = f"! [ -d {shown} ] || exit 0; mkdir {shown} && mount --bind {path} {shown} && mount -t tmpfs -o mode=755 tmpfs {closed}"
            cluster.run("bash", "-ec", f"{script} && mkdir -p {path} && mount --bind {shown} {path}")
    assert os.access(sys.executable, os.X_OK)


def as_owner(cluster: SlurmCluster, folder: Path) -> Path:
    """What `sudo -n -E -u LOGIN --` is on a login node: the environment goes along, and the cluster's own names are known."""
    path = folder / "as-owner"
    pid, conf = cluster.namespace.pid, cluster.conf
    path.write_text(
        "#!/bin/sh\n"
        f"export SLURM_CONF={conf}\n"
        "login=$1; shift\n"
        f'exec nsenter -t {pid} -m -p -u -r -w setpriv --reuid "$login" --regid "$login" --clear-groups "$@"\n'
    )
    path.chmod(0o755)
    return path
