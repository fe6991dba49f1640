"""v0.0.38 (Slurm 22.05): plain numbers, an environment as an object, `gres`. Unknown keys and empty objects are refused. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from spawners.slurmrestd.model import JobRequest

VERSIONS: Final = ("v0.0.38",)
PING: Final = "/slurm/{version}/ping"
JOBS: Final = "/slurm/{version}/jobs"
NODES: Final = "/slurm/{version}/nodes"
ACCOUNTED: Final = "/slurmdb/{version}/jobs"


def submit_body(request: JobRequest, comment: str) -> dict[str, Any]:
    """The body of `POST …/job/submit`."""
    job: dict[str, Any] = {
        "name": request.name,
        "account": request.account,
        "partition": request.partition,
        "time_limit": request.time_limit_min,
        "nodes": 1,
        "tasks": 1,
        "cpus_per_task": request.cpus,
        "memory_per_node": request.memory_mib,
        "current_working_directory": request.working_directory,
        "standard_output": request.standard_output,
        "requeue": False,
        "environment": dict(request.environment),
    }
    if comment:
        job["comment"] = comment
    if request.gpus:
        job["gres"] = request.gres
    if request.qos:
        job["qos"] = request.qos
    return {"script": request.script, "job": job}


def job_ids(ids: Sequence[int]) -> list[tuple[str, str]]:
    """The query that names jobs to slurmdbd: one list."""
    return [("step", ",".join(str(one) for one in ids))]


def extend_body(time_limit_min: int) -> dict[str, Any]:
    """The body of `POST …/job/{id}` that sets a time limit."""
    return {"time_limit": time_limit_min}
