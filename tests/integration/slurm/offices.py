"""A signer for a test cluster: in the test's own process, or as the process that it is in production."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spawners.signer.__main__ import open_office
from spawners.signer.client import SignerClient
from spawners.signer.office import Office
from spawners.signer.settings import SignerSettings
from spawners.slurmrestd import JobRequest, SlurmClient
from spawners.slurmrestd.wire import Deadlines, Http
from spawners.steward.settings import StewardSettings
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.options import PARTITION, PORTAL_ACCOUNT
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[3]
ALL_VERBS = ("submit_as", "cancel", "extend", "read")


def signer_settings(cluster: SlurmCluster, folder: Path, *, url: str = "", **more: object) -> SignerSettings:
    """signer.toml for this cluster, asked by root: the test itself."""
    return SignerSettings.model_validate(
        {
            "socket": str(folder / "signer.sock"),
            "url": url or cluster.url,
            "key_file": str(cluster.key_file),
            "tickets": str(cluster.tickets),
            "audit_file": str(folder / "audit.jsonl"),
            "check_accounts": False,  # the cluster's people exist inside its namespace only
            "peers": {"root": list(ALL_VERBS)},
            **more,
        }
    )


def office(cluster: SlurmCluster, folder: Path, *, url: str = "", **more: object) -> Office:
    """The signer's verbs in this process."""
    return open_office(signer_settings(cluster, folder, url=url, **more))


def client(cluster: SlurmCluster, folder: Path, *, url: str = "", deadlines: Deadlines = Deadlines()) -> SlurmClient:  # noqa: B008
    """A client whose signer is in this process; both go through `url` where it is given."""
    settings = signer_settings(cluster, folder, url=url)
    signer = open_office(settings)
    return SlurmClient(Http(url or cluster.url, deadlines), signer, signer)


def toml(settings: SignerSettings | StewardSettings) -> str:
    """Settings as the file that they would be."""
    values = settings.model_dump(mode="json")
    peers = values.pop("peers")
    for name in {"token_life", "longest_limit"} & set(values):
        values[name] = f"{values[name]} s"
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\n".join([*lines, "[peers]", *(f"{name} = {json.dumps(verbs)}" for name, verbs in peers.items())]) + "\n"


@contextmanager
def running_signer(settings: SignerSettings, folder: Path) -> Iterator[SignerClient]:
    """`python -m spawners.signer`, until the end of the block."""
    file = folder / "signer.toml"
    file.write_text(toml(settings))
    with (folder / "signer.out").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "spawners.signer", str(file)],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        give_up = time.monotonic() + PATIENCE_S
        while not Path(settings.socket).exists():
            assert process.poll() is None, (folder / "signer.out").read_text()
            assert time.monotonic() < give_up, "the signer did not come up"
            time.sleep(0.02)
        yield SignerClient(settings.socket)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def job(name: str, script: str = "sleep 300", **more: object) -> JobRequest:
    """A job on the portal's account, of one GPU."""
    values: dict[str, object] = {
        "name": name,
        "script": f"#!/bin/bash\n{script}\n",
        "account": PORTAL_ACCOUNT,
        "partition": PARTITION,
        "time_limit_min": 10,
        "working_directory": "/",
        "environment": {"PATH": "/usr/bin:/bin", "ANSWER": "42"},
        "gpus": 1,
        "gpu_type": "h100",
        "memory_mib": 128,
    }
    return JobRequest(**{**values, **more})  # type: ignore[arg-type]
