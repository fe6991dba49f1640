"""v0.0.40, 41 and 42 (Slurm 23.11 and later): wrapped numbers, an environment as a list, `tres_per_node`. Pure.

A number without `"set": true` is ignored in silence and an unknown key costs a warning only: client.py takes warnings as failures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from spawners.slurmrestd.model import JobRequest

VERSIONS: Final = ("v0.0.42", "v0.0.41", "v0.0.40")
PING: Final = "/slurm/{version}/ping/"
JOBS: Final = "/slurm/{version}/jobs/"
NODES: Final = "/slurm/{version}/nodes/"
ACCOUNTED: Final = "/slurmdb/{version}/jobs/"


def submit_body(request: JobRequest, comment: str) -> dict[str, Any]:
    """The body of `POST …/job/submit`, the same for all three versions."""
    job: dict[str, Any] = {
        "name": request.name,
        "account": request.account,
        "partition": request.partition,
        "time_limit": _set(request.time_limit_min),
        "nodes": "1",
        "tasks": 1,
        "cpus_per_task": request.cpus,
        "memory_per_node": _set(request.memory_mib),
        "current_working_directory": request.working_directory,
        "standard_output": request.standard_output,
        "requeue": False,
        "environment": [f"{name}={value}" for name, value in request.environment.items()],
    }
    if comment:
        job["comment"] = comment
    if request.gpus:
        job["tres_per_node"] = f"gres/{request.gres}"
    if request.qos:
        job["qos"] = request.qos
    return {"script": request.script, "job": job}


def job_ids(ids: Sequence[int]) -> list[tuple[str, str]]:
    """The query that names jobs to slurmdbd: repeated parameters."""
    return [("step", str(one)) for one in ids]


def extend_body(time_limit_min: int) -> dict[str, Any]:
    """The body of `POST …/job/{id}` that sets a time limit."""
    return {"time_limit": _set(time_limit_min)}


def _set(number: int) -> dict[str, Any]:
    return {"set": True, "number": number}
