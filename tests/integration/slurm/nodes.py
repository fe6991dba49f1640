"""What a site installs on its nodes for sessions of courses: the notebook server's environment with nbgrader and the exchange's package."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from tests.integration.slurm.cluster import SlurmCluster
from tests.portal import ROOT

_PROGRAMS: Final = ("jupyterhub-singleuser", "nbgrader", "alembic")


def nodes_environment(cluster: SlurmCluster) -> Path:
    """Make it where the cluster's people can read it, by pip as docs/howto/slurm.md says; the notebook server's program there.

    Everything but the exchange's own package is this Python's.
    """
    place = cluster.base / "nodes"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    own = Path(sys.prefix)
    shutil.copytree(own / "etc/jupyter", place / "etc/jupyter")
    shutil.copytree(own / "share/jupyter", place / "share/jupyter", symlinks=True)
    for name in _PROGRAMS:
        _, _, text = (own / "bin" / name).read_text().partition("\n")
        (place / "bin" / name).write_text(f"#!{place}/bin/python\n{text}")
        (place / "bin" / name).chmod(0o755)
    source = place / "src"  # a build leaves its files beside what it builds
    shutil.copytree(ROOT / "images/nbgrader_exchange", source)
    install = [str(own / "bin/uv"), "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--python", str(place / "bin/python"), str(source)], check=True, timeout=120)
    shutil.rmtree(source)
    return place / "bin/jupyterhub-singleuser"
