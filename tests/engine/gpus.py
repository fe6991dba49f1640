"""Four simulated GPUs: real, harmless character devices outside Docker's default allow list, handed out as CDI devices.

A container that was not given one gets EPERM from the device cgroup, even for a node that it made itself: the proof from the
inside is that of a real GPU. Source: Container Device Interface 0.5.0; device numbers: Linux devices.txt, misc devices.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Final

KIND: Final = "vendor.example/gpu"
COUNT: Final = 4
MISC_MAJOR: Final = 10
# Whatever of these the kernel has. Not tun: runc lets every container have it. loop-control last: homes use loops.
HARMLESS: Final = ("fuse", "btrfs-control", "autofs", "userfaultfd", "vga_arbiter", "cpu_dma_latency", "loop-control")
IDS: Final = tuple(f"{KIND}=GPU-{number:08d}" for number in range(COUNT))


def minors() -> list[int]:
    """The minor numbers of four harmless devices of this kernel."""
    lines = (line.split() for line in Path("/proc/misc").read_text().splitlines())
    known = {name: int(minor) for minor, name in lines}
    found = [known[name] for name in HARMLESS if name in known][:COUNT]
    assert len(found) == COUNT, f"this kernel has too few harmless devices: {sorted(known)}"
    return found


def node(number: int) -> str:
    """Where a container finds device `number`."""
    return f"/dev/simgpu{number}"


def write_cdi(folder: Path, devices: Path) -> None:
    """Make the device nodes and the CDI specification that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    devices.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, minor in enumerate(minors()):
        path = devices / f"simgpu{number}"
        if not path.exists():
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(MISC_MAJOR, minor))
        path.chmod(0o666)
        edits = {
            "env": [f"SIMULATED_GPU_{number}=1"],
            "deviceNodes": [{"path": node(number), "hostPath": str(path), "permissions": "rw"}],
        }
        entries.append({"name": IDS[number].partition("=")[2], "containerEdits": edits})
    spec = {"cdiVersion": "0.5.0", "kind": KIND, "devices": entries}
    (folder / "simulated.json").write_text(json.dumps(spec, indent=1))
