"""What the container of one submission's run is: nothing of it comes from anybody but the site and the hold. Pure.

Invariants: no network, no mount, no device, no capability, no new privileges, a uid that no person has, a read-only root, its own files in
memory, and nothing kept of what it writes; the submission comes in and the results go out over its own input and output. Two such
containers of a site differ in the hold's id only, so the helper compares whole bodies.
Source: Docker Engine API 1.45, ContainerCreate.
"""

from collections.abc import Mapping
from typing import Any, Final

from spawners import container_spec as spec
from spawners.container_settings import MIB
from spawners.grading_settings import GradingTable

PROFILE: Final = "grading"
UID: Final = 65_533  # a number that nobody of this portal has, and no name
COMMAND: Final = "/opt/commons/bin/commons-grade"
FOLDER: Final = "/notebook"


def is_grading(labels: Mapping[str, str]) -> bool:
    """Whether a container of ours is a run and no session; no person has the empty name."""
    return labels.get(spec.PROFILE) == PROFILE and labels.get(spec.USER) == ""


def container_body(hold_id: str, image: str, table: GradingTable) -> dict[str, Any]:
    """The body of ContainerCreate."""
    return {
        "Image": image,
        "User": f"{UID}:{UID}",
        "Entrypoint": [COMMAND],
        "Cmd": [],
        "Env": ["PATH=/opt/commons/bin:/usr/bin:/bin", "LANG=C.UTF-8", "TMPDIR=/tmp"],
        "WorkingDir": FOLDER,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": False,
        "Labels": {
            spec.HOLD: hold_id,
            spec.USER: "",
            spec.SERVER: "",
            spec.PROFILE: PROFILE,
            spec.DEVICES: "[]",
            spec.SHARING: "1",
            spec.RUNTIME: str(table.runtime),
        },
        "HostConfig": {
            "NetworkMode": "none",
            "Memory": table.memory,
            "MemorySwap": table.memory,  # no swap beyond it
            "NanoCpus": table.cpus * 10**9,
            "PidsLimit": table.processes,
            "ShmSize": 16 * MIB,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Init": True,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "Tmpfs": {
                "/tmp": f"rw,nosuid,nodev,exec,mode=1777,size={64 * MIB}",  # noqa: S108
                FOLDER: f"rw,nosuid,nodev,exec,mode=0700,uid={UID},gid={UID},size={table.disk}",
            },
            "LogConfig": {"Type": "none", "Config": {}},
        },
    }
