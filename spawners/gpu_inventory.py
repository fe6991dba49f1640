"""Which GPUs this host has: from CDI specifications, from NVIDIA's driver, or as portal.toml states them.

Invariant: each device appears once, under a name that stays the same over reboots (UUIDs; indexes and `all` are passed over). What
cannot be read is an error and never "no GPUs". Sources: CDI specification 0.5–0.8 (`/etc/cdi`, `/var/run/cdi`, JSON or YAML);
`nvidia-smi -L` as of driver 550: a GPU in MIG mode lists its slices below it and cannot be used whole.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from spawners.container_settings import GpuSource, GpuTable
from spawners.devices import Device

DRIVER_DEADLINE_S: Final = 20
KEPT_S: Final = 60.0
_STABLE_NAME: Final = re.compile(r"(?:GPU|MIG)-[A-Za-z0-9/-]{4,80}")
_GPU_LINE: Final = re.compile(r"GPU \d+: .*\(UUID: (GPU-[0-9A-Za-z-]+)\)")
_MIG_LINE: Final = re.compile(r"\s+MIG .*\(UUID: (MIG-[0-9A-Za-z/-]+)\)")

_kept: Final[dict[tuple[tuple[GpuTable, ...], tuple[Path, ...]], tuple[float, tuple[Device, ...]]]] = {}


class InventoryError(Exception):
    """The host's GPUs cannot be told; the text says why."""


def read(tables: Iterable[GpuTable], cdi_folders: Sequence[Path]) -> tuple[Device, ...]:
    """Every device that portal.toml's `[[containers.gpus]]` name, in their order. Raises InventoryError."""
    found: list[Device] = []
    for table in tables:
        if table.source is GpuSource.STATED:
            devices = tuple(Device(one, table.hardware) for one in table.ids)
        elif table.source is GpuSource.CDI:
            devices = from_cdi(cdi_folders, table.kind, table.hardware)
        else:
            devices = from_driver(_ask_driver(), table.hardware)
        found += [one for one in devices if not table.ids or one.id in table.ids]
    twice = {one.id for one in found if sum(other.id == one.id for other in found) > 1}
    if twice:
        raise InventoryError(f"containers.gpus name {', '.join(sorted(twice))} more than once")
    return tuple(found)


def read_kept(tables: tuple[GpuTable, ...], cdi_folders: tuple[Path, ...]) -> tuple[Device, ...]:
    """As `read`, not again within a minute: asking the driver takes a second. An error is not kept."""
    now_s = time.monotonic()
    kept = _kept.get((tables, cdi_folders))
    if kept is None or now_s - kept[0] > KEPT_S:
        kept = _kept[tables, cdi_folders] = (now_s, read(tables, cdi_folders))
    return kept[1]


def from_cdi(folders: Sequence[Path], kind: str, hardware: str) -> tuple[Device, ...]:
    """The devices of one kind in CDI specifications, with the nodes that a container gets. Raises InventoryError."""
    devices: dict[str, Device] = {}
    for folder in folders:
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix not in (".json", ".yaml", ".yml"):
                continue
            spec = _load(path)
            if spec.get("kind") != kind:
                continue
            for entry in spec.get("devices") or ():
                name = str(entry.get("name"))
                if _STABLE_NAME.fullmatch(name):
                    devices[name] = Device(f"{kind}={name}", hardware, _own_nodes(entry))
    return tuple(devices.values())


def from_driver(text: str, hardware: str) -> tuple[Device, ...]:
    """Read `nvidia-smi -L`: whole GPUs, and instead of a GPU in MIG mode its slices. Raises InventoryError on unknown lines."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if gpu := _GPU_LINE.fullmatch(line.rstrip()):
            found.append((gpu[1], []))
        elif (mig := _MIG_LINE.fullmatch(line.rstrip())) and found:
            found[-1][1].append(mig[1])
        elif line.strip():
            raise InventoryError(f"nvidia-smi -L said something unknown: {line.strip()[:100]}")
    devices: list[Device] = []
    for uuid, slices in found:
        devices += [Device(one, hardware, parent=uuid) for one in slices] or [Device(uuid, hardware)]
    return tuple(devices)


def _own_nodes(entry: dict[str, Any]) -> tuple[str, ...]:
    edits = entry.get("containerEdits") or {}
    return tuple(str(node["path"]) for node in edits.get("deviceNodes") or () if node.get("path"))


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        spec = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InventoryError(f"{path} cannot be read: {type(error).__name__}") from error
    if not isinstance(spec, dict):
        raise InventoryError(f"{path} is no CDI specification")
    return spec


def _ask_driver() -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=DRIVER_DEADLINE_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise InventoryError(f"nvidia-smi -L: {error}") from error
    return done.stdout
