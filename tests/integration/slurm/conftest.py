"""One cluster of each release a test session; tests that break daemons put them back up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.hub_process import Browser, HubProcess
from tests.integration.slurm.cluster import SlurmCluster, running_cluster
from tests.integration.slurm.cut_in import Proxy, proxied
from tests.integration.slurm.hub_sessions import running_hub
from tests.integration.slurm.options import Options, Release

LUA = Path(__file__).resolve().parents[3] / "deploy/slurm/job_submit.lua"


@pytest.fixture(scope="session")
def slurm22() -> Iterator[SlurmCluster]:
    """Slurm 22.05 (v0.0.38), the machine's own packages; private and strict as deploy/slurm sets a site up."""
    options = Options(release=Release.V22_05, min_job_age_s=5, limits="ALL", private=True, submit_lua=LUA)
    with running_cluster(options) as cluster:
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


@pytest.fixture(scope="session")
def before_slurmrestd(slurm22: SlurmCluster) -> Iterator[Proxy]:
    """The proxy that is in the hub's and its signer's way; it tells the truth until a test says otherwise."""
    with proxied(slurm22) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def hub(
    slurm22: SlurmCluster, before_slurmrestd: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubProcess]:
    """A hub whose sessions are jobs of the older release."""
    with running_hub(slurm22, tmp_path_factory.mktemp("slurmhub"), before_slurmrestd.url) as one:
        yield one


@pytest.fixture
def pi(hub: HubProcess) -> Browser:
    """Somebody whose sessions run as ANN."""
    return Browser(hub, "pi").sign_in()
