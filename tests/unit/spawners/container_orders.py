"""One session's order, and the rules of the site that it is made on."""

from __future__ import annotations

from typing import Any

from spawners.container_spec import ContainerOrder, Limits
from spawners.devices import Device
from spawners.engine_rules import Rules
from spawners.profiles import Application, Backend, Profile

IMAGE = "registry.example/base@sha256:" + "a" * 64
GPU = Device("nvidia.com/gpu=GPU-11111111", "a100", ("/dev/nvidia1",))
LIMITS = Limits(processes=512, tmp_bytes=2**30)
PROFILE = Profile(
    id="a100",
    title="A100",
    backend=Backend.CONTAINER,
    hardware="a100",
    cloud="here",
    applications=(Application("lab", "JupyterLab"),),
    gpus=1,
    cpus=4,
    memory_bytes=8 * 2**30,
    default_runtime_s=3600,
    longest_runtime_s=7200,
    shared_memory_bytes=2**30,
)
RULES = Rules(
    images=frozenset({IMAGE}),
    devices=frozenset({GPU.id, "nvidia.com/gpu=GPU-22222222"}),
    homes_folder="/srv/homes",
    limits=LIMITS,
    memory_max_bytes=8 * 2**30,
    cpus_max=4,
    runtime_max_s=7200,
)


def order(**changes: Any) -> ContainerOrder:
    values: dict[str, Any] = {
        "hold_id": "h1",
        "user": "ada",
        "server_name": "work",
        "login": "cc-20001",
        "uid": 20_001,
        "project": "p1",
        "profile": PROFILE,
        "image": IMAGE,
        "devices": (GPU,),
        "runtime_s": 3600,
        "environment": {"HOME": "/home/cc-20001"},
        "arguments": ("--log-level=INFO",),
    }
    return ContainerOrder(**{**values, **changes})
