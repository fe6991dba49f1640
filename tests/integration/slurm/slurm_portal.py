"""A whole portal whose GPU sessions are jobs of a real Slurm, with the signer and the steward as the processes that they are."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.integration.slurm.cluster import SlurmCluster, running_cluster
from tests.integration.slurm.offices import running_signer, signer_settings
from tests.integration.slurm.options import Options
from tests.integration.slurm.portal_file import as_owner, open_python, slurm_portal
from tests.integration.slurm.test_steward import running_steward
from tests.integration.slurm.test_steward import settings as steward_settings
from tests.portal import ROOT, Portal


class SlurmPortal:
    """One portal on one cluster; `stop` takes both away. Its researchers have no account before their first start."""

    told_later_ms: Final = 0  # charged by slurmdbd's own elapsed seconds

    def __init__(self, access: str) -> None:
        self._all = ExitStack()
        lua = ROOT / "deploy/slurm/job_submit.lua"
        self.cluster: SlurmCluster = self._all.enter_context(running_cluster(Options(min_job_age_s=5, submit_lua=lua)))
        self._folder = Path(self._all.enter_context(tempfile.TemporaryDirectory()))
        self._folder.chmod(0o755)
        open_python(self.cluster)
        self._access = access
        self.portal: Portal | None = None

    def up(self, data: Path) -> Portal:
        """Start signer, steward and portal."""
        signer, steward = signer_settings(self.cluster, self._folder), steward_settings(self.cluster, self._folder)
        self._all.enter_context(running_signer(signer, self._folder))
        self._all.enter_context(running_steward(steward, self._folder))
        words = {"steward": f'"{steward.socket}"'}
        if self._access == "sbatch":
            words["sudo"] = f'["{as_owner(self.cluster, self._folder)}", "{{login}}"]'
            words["commands"] = f'["{as_portal(self.cluster, self._folder)}"]'
        file = slurm_portal(self.cluster, self._folder, signer, access=self._access, **words)
        self.portal = Portal(data, portal_file=file).up()
        return self.portal

    def stop(self) -> None:
        """Stop the portal where it still runs, and everything behind it."""
        if self.portal is not None:
            self.portal.down()
        self._all.close()

    def lived_ms(self) -> int:
        """What slurmdbd says that the only session used."""
        listed = self.cluster.run("sacct", "-n", "-X", "-P", "-o", "elapsedraw", "--allusers", "-S", "now-1hours")
        (elapsed,) = listed.split()
        return 1000 * int(elapsed)


def as_portal(cluster: SlurmCluster, folder: Path) -> Path:
    """Where the portal's own commands run, on a host that is a login node of the cluster."""
    path = folder / "as-portal"
    pid = cluster.namespace.pid
    path.write_text(f'#!/bin/sh\nexport SLURM_CONF={cluster.conf}\nexec nsenter -t {pid} -m -p -u -r -w "$@"\n')
    path.chmod(0o755)
    return path
