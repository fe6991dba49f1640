"""What a session's container is: the whole body, key by key."""

from __future__ import annotations

import pytest

from spawners import container_spec as spec
from spawners.devices import Device, Grant
from tests.unit.spawners.container_orders import GPU, IMAGE, LIMITS, order

NETWORK = "cc-33112ee14ee4"


def test_a_session_is_shut_in_and_gets_exactly_its_devices() -> None:
    assert spec.container_body(order(), LIMITS) == {
        "Image": IMAGE,
        "User": "20001:20001",
        "Cmd": ["jupyterhub-singleuser", "--log-level=INFO", "--KernelManager.transport=ipc"],
        "Env": [
            "COMMONS_DEVICE_NODES=/dev/nvidia1",
            "COMMONS_GPU_UUIDS=GPU-11111111",
            "HOME=/home/cc-20001",
            "JUPYTER_RUNTIME_DIR=/tmp/jupyter",
        ],
        "Labels": {
            "org.compute-commons.hold": "h1",
            "org.compute-commons.user": "ada",
            "org.compute-commons.server": "work",
            "org.compute-commons.profile": "a100",
            "org.compute-commons.devices": '["nvidia.com/gpu=GPU-11111111"]',
            "org.compute-commons.sharing": "1",
            "org.compute-commons.runtime-s": "3600",
        },
        "NetworkingConfig": {"EndpointsConfig": {NETWORK: {}}},
        "HostConfig": {
            "NetworkMode": NETWORK,
            "Memory": 8 * 2**30,
            "MemorySwap": 8 * 2**30,
            "NanoCpus": 4 * 10**9,
            "PidsLimit": 512,
            "ShmSize": 2**30,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Init": True,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "GroupAdd": ["20000"],
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "Tmpfs": {"/tmp": "rw,nosuid,nodev,exec,mode=1777,size=1024m"},
            "Mounts": [
                {
                    "Type": "volume",
                    "Source": "cc-home-cc-20001",
                    "Target": "/home/cc-20001",
                    "VolumeOptions": {"NoCopy": True},
                },
                {"Type": "volume", "Source": "cc-project-p1", "Target": "/project", "VolumeOptions": {"NoCopy": True}},
            ],
            "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-11111111"]}],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "5m", "max-file": "2"}},
        },
    }


def test_a_session_without_gpus_asks_for_no_device() -> None:
    body = spec.container_body(order(devices=()), LIMITS)
    assert body["HostConfig"]["DeviceRequests"] == []
    assert body["Labels"][spec.DEVICES] == "[]"


def test_the_drivers_uuids_are_asked_of_nvidias_runtime_by_id_and_never_by_count() -> None:
    requests = spec.device_requests((Device("GPU-1", "a100"), Device("MIG-2", "a100")))
    assert requests == [{"Driver": "nvidia", "DeviceIDs": ["GPU-1", "MIG-2"], "Capabilities": [["gpu"]]}]
    assert spec.device_variables((Device("GPU-1", "a100"),))["COMMONS_GPU_UUIDS"] == "GPU-1"


def test_a_network_is_internal_and_its_bridge_has_a_name_that_fits_and_that_the_rules_know() -> None:
    body = spec.network_body("h1")
    assert body == {
        "Name": NETWORK,
        "Driver": "bridge",
        "Internal": True,
        "EnableIPv6": False,
        "Attachable": False,
        "Labels": {"org.compute-commons.hold": "h1"},
        "Options": {
            "com.docker.network.bridge.name": NETWORK,
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "false",
        },
    }
    assert len(NETWORK) <= 15


def test_a_grant_reads_back_from_its_labels() -> None:
    labels = spec.container_body(order(), LIMITS)["Labels"]
    assert spec.grant_of(labels, 7) == Grant(frozenset({GPU.id}), 1, 7)


@pytest.mark.parametrize(
    "labels", [{}, {spec.DEVICES: "x", spec.SHARING: "1"}, {spec.DEVICES: "[1]", spec.SHARING: "1"}]
)
def test_labels_that_say_nothing_are_no_grant_of_nothing(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        spec.grant_of(labels, None)


@pytest.mark.parametrize("hold_id", ["", "../x", "a b", "x" * 65, "-x"])
def test_what_is_no_plain_name_names_no_container(hold_id: str) -> None:
    with pytest.raises(ValueError):
        spec.container_name(hold_id)
