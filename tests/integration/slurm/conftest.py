"""One cluster of each release a test session; tests that break daemons put them back up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import SlurmCluster, running_cluster
from tests.integration.slurm.options import Options, Release

LUA = Path(__file__).resolve().parents[3] / "deploy/slurm/job_submit.lua"


@pytest.fixture(scope="session")
def slurm22() -> Iterator[SlurmCluster]:
    """Slurm 22.05 (v0.0.38), the machine's own packages."""
    with running_cluster(Options(release=Release.V22_05, min_job_age_s=5, limits="ALL", submit_lua=LUA)) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm24() -> Iterator[SlurmCluster]:
    """Slurm 24.11 (v0.0.40 to 42), from its own image."""
    # limits="NO": what would wait for ever is accepted, and the client has to see it
    with running_cluster(Options(release=Release.V24_11, min_job_age_s=5, submit_lua=LUA)) as cluster:
        yield cluster


@pytest.fixture(scope="session", params=["slurm22", "slurm24"])
def cluster(request: pytest.FixtureRequest) -> SlurmCluster:
    """Both releases, one after the other."""
    found: SlurmCluster = request.getfixturevalue(request.param)
    return found
