"""Which GPUs the host has: CDI specifications, the driver's list, what the site states."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spawners.container_settings import GpuTable
from spawners.devices import Device
from spawners.gpu_inventory import InventoryError, from_driver, read

LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 3g.20gb     Device  0: (UUID: MIG-7089d0f3-293f-58c9-8f8c-5ea666eedbde)
  MIG 2g.10gb     Device  1: (UUID: MIG-56c30729-347f-5dd6-8da0-c3cc59e969e0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-4ec8f5a4-7a1e-4f2b-9d0c-6c5f2a8c1b22)
"""


def table(**keys: object) -> GpuTable:
    return GpuTable.model_validate({"hardware": "a100", **keys})


def test_cdi_gives_each_device_once_by_its_stable_name_with_its_nodes(tmp_path: Path) -> None:
    devices = [
        {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
        {"name": "GPU-aaaa1111", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
        {"name": "all", "containerEdits": {}},
    ]
    (tmp_path / "nvidia.json").write_text(
        json.dumps({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices})
    )
    (tmp_path / "other.json").write_text(
        json.dumps({"cdiVersion": "0.5.0", "kind": "x.example/nic", "devices": devices})
    )
    found = read([table(source="cdi")], [tmp_path, tmp_path / "absent"])
    assert found == (Device("nvidia.com/gpu=GPU-aaaa1111", "a100", ("/dev/nvidia0",)),)


def test_cdi_in_yaml_as_nvidias_tool_writes_it(tmp_path: Path) -> None:
    text = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: GPU-aaaa1111\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n"
    (tmp_path / "nvidia.yaml").write_text(text)
    assert [one.id for one in read([table(source="cdi")], [tmp_path])] == ["nvidia.com/gpu=GPU-aaaa1111"]


def test_a_gpu_in_mig_mode_is_its_slices() -> None:
    whole, *rest = reversed(from_driver(LISTED, "a100"))
    assert whole == Device("GPU-4ec8f5a4-7a1e-4f2b-9d0c-6c5f2a8c1b22", "a100")
    assert [one.parent for one in rest] == ["GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"] * 2


@pytest.mark.parametrize("text", ["NVIDIA-SMI has failed because it couldn't communicate with the driver.", "x"])
def test_a_driver_that_says_something_else_is_an_error_and_not_no_gpus(text: str) -> None:
    with pytest.raises(InventoryError):
        from_driver(text, "a100")


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_broken_specification_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(InventoryError):
        read([table(source="cdi")], [tmp_path])


def test_stated_devices_are_taken_as_they_are_and_none_twice() -> None:
    found = read([table(source="stated", ids=["GPU-1", "GPU-2"])], [])
    assert [one.id for one in found] == ["GPU-1", "GPU-2"]
    with pytest.raises(InventoryError, match="GPU-1"):
        read([table(source="stated", ids=["GPU-1"]), table(source="stated", ids=["GPU-1"])], [])
    with pytest.raises(ValueError):
        table(source="stated")


def test_ids_narrow_what_a_source_lists(tmp_path: Path) -> None:
    devices = [{"name": f"GPU-aaaa000{number}"} for number in range(3)]
    (tmp_path / "n.json").write_text(json.dumps({"kind": "nvidia.com/gpu", "devices": devices}))
    found = read([table(source="cdi", ids=["nvidia.com/gpu=GPU-aaaa0001"])], [tmp_path])
    assert [one.id for one in found] == ["nvidia.com/gpu=GPU-aaaa0001"]
