"""The test cluster is a real one, and it is gone when it is stopped."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.integration.slurm.cluster import SlurmCluster, running_cluster
from tests.integration.slurm.options import ACCOUNT, ANN, Options


def test_a_job_runs_as_its_owner_with_one_of_the_fake_gpus(cluster: SlurmCluster) -> None:
    script = "echo $(id -u) $CUDA_VISIBLE_DEVICES >$HOME/said"
    cluster.run(
        "sbatch", "--wait", f"--account={ACCOUNT}", "--gres=gpu:h100:1", "--output=/dev/null", f"--chdir={cluster.homes}/{ANN.login}",
        f"--export=HOME={cluster.homes}/{ANN.login},PATH", "--wrap", script, account=ANN,
    )  # fmt: skip
    uid, device = (cluster.homes / ANN.login / "said").read_text().split()
    assert uid == str(ANN.uid)
    assert device in {"0", "1", "2", "3"}


def test_a_stopped_cluster_leaves_no_process_and_no_file() -> None:
    with running_cluster(Options(nodes=1)) as cluster:
        base = cluster.base
        cluster.run(
            "sbatch", f"--account={ACCOUNT}", "--chdir=/", "--output=/dev/null", "--wrap", "sleep 600", account=ANN
        )
        assert _processes_of(base)
    assert not base.exists()
    assert not _processes_of(base)


def _processes_of(base: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_CONF", "").startswith(str(base)):
                found.append(process)
        except psutil.Error:
            continue
    return found
