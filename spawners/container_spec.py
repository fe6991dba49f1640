"""What a session's container is, as the engine's JSON: hardened by default, tested by equality. Pure.

Invariants: nothing in here comes from the person's options but ids that were looked up in the catalogue; the person's uid runs it,
without capabilities, without new privileges, under the engine's seccomp profile, on a read-only root, in namespaces of its own, on
a network of its own. Names and labels follow from the hold's id, so that what runs is found again after anything.
Source: Docker Engine API 1.45, ContainerCreate and NetworkCreate.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from spawners.container_settings import MIB, PROJECT_GID
from spawners.devices import Device, Grant
from spawners.kernel_sockets import FOLDER_VARIABLE, IN_CONTAINER, ON_SOCKETS
from spawners.profiles import Profile
from spawners.session_view import INSTALLED, with_view

LABEL: Final = "org.compute-commons."
HOLD, USER, SERVER, PROFILE = (f"{LABEL}{name}" for name in ("hold", "user", "server", "profile"))
DEVICES, SHARING, RUNTIME = (f"{LABEL}{name}" for name in ("devices", "sharing", "runtime-s"))
LABELS: Final = frozenset({HOLD, USER, SERVER, PROFILE, DEVICES, SHARING, RUNTIME})

PORT: Final = 8888
COMMAND: Final = "jupyterhub-singleuser"
PROJECT_FOLDER: Final = "/project"
PREFIX: Final = "/opt/commons"  # the notebook server's environment in images/base
LOGIN: Final = re.compile(r"cc-[1-9][0-9]{4,5}")
PROBE_CONFIRMED: Final = "commons-session: devices confirmed"
PROBE_MISSING: Final = "commons-session: device missing"
DEVICE_MISSING_STATUS: Final = 78  # what images/base/commons-session exits with

_INNER: Final = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_CDI: Final = re.compile(r"[a-z0-9.-]+/[a-z0-9._-]+=.+")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the site sets for all containers."""

    processes: int
    tmp_bytes: int


@dataclass(frozen=True, slots=True)
class ContainerOrder:
    """One session. `environment` is complete; `arguments` follow the notebook server's program."""

    hold_id: str
    user: str
    server_name: str
    login: str
    uid: int
    project: str
    profile: Profile
    image: str
    devices: tuple[Device, ...]
    runtime_s: int
    environment: Mapping[str, str]
    arguments: tuple[str, ...]


def container_name(hold_id: str) -> str:
    """Name a session's container; raises ValueError for an id that is no plain name."""
    if not _ID.fullmatch(hold_id):
        raise ValueError("a hold's id is 1 to 64 letters, digits, hyphens or underscores")
    return f"cc-{hold_id}"


def network_name(hold_id: str) -> str:
    """Name a session's network and its bridge: a Linux interface has at most 15 characters."""
    return f"cc-{hashlib.sha256(hold_id.encode()).hexdigest()[:12]}"


def home_volume(login: str) -> str:
    """Name the volume of a person's home."""
    return f"cc-home-{login}"


def project_volume(project: str) -> str:
    """Name the volume of a project's shared folder."""
    return f"cc-project-{project}"


def network_body(hold_id: str) -> dict[str, Any]:
    """The session's own bridge: no way out, no neighbours; the firewall knows it by its prefix."""
    name = network_name(hold_id)
    return {
        "Name": name,
        "Driver": "bridge",
        "Internal": True,
        "EnableIPv6": False,
        "Attachable": False,
        "Labels": {HOLD: hold_id},
        "Options": {
            "com.docker.network.bridge.name": name,
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "false",
        },
    }


def volume_body(name: str, folder: str) -> dict[str, Any]:
    """A named volume over a folder that the home keeper has made: its size limit and owner are the folder's."""
    return {
        "Name": name,
        "Driver": "local",
        "DriverOpts": {"type": "none", "o": "bind", "device": folder},
        "Labels": {f"{LABEL}volume": name},
    }


def container_body(order: ContainerOrder, limits: Limits) -> dict[str, Any]:
    """The body of ContainerCreate."""
    network = network_name(order.hold_id)
    variables = {**order.environment, FOLDER_VARIABLE: IN_CONTAINER, **device_variables(order.devices)}
    return {
        "Image": order.image,
        "User": f"{order.uid}:{order.uid}",
        "Cmd": [COMMAND, *order.arguments, ON_SOCKETS],
        "Env": [f"{name}={value}" for name, value in sorted(variables.items())],
        "Labels": _labels(order),
        "NetworkingConfig": {"EndpointsConfig": {network: {}}},
        "HostConfig": {
            "NetworkMode": network,
            "Memory": order.profile.memory_bytes,
            "MemorySwap": order.profile.memory_bytes,  # no swap beyond it
            "NanoCpus": order.profile.cpus * 10**9,
            "PidsLimit": limits.processes,
            "ShmSize": order.profile.shared_memory_bytes,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Init": True,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "GroupAdd": [str(PROJECT_GID)],
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "Tmpfs": {"/tmp": f"rw,nosuid,nodev,exec,mode=1777,size={limits.tmp_bytes // MIB}m"},  # noqa: S108
            "Mounts": [
                _mount(home_volume(order.login), home_folder(order.login)),
                _mount(project_volume(order.project), PROJECT_FOLDER),
            ],
            "DeviceRequests": device_requests(order.devices),
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "5m", "max-file": "2"}},
        },
    }


def home_folder(login: str) -> str:
    """Where a person's home is mounted."""
    return f"/home/{login}"


def person_variables(login: str) -> dict[str, str]:
    """What programs read to know whose session it is."""
    return {"HOME": home_folder(login), "USER": login, "LOGNAME": login, "SHELL": "/bin/bash"}


def seen_from_inside(variables: Mapping[str, str], portal: str) -> dict[str, str]:
    """A session's environment with the portal's addresses and its view of nbgrader as its container has them."""
    return with_view(with_inner_addresses(variables, portal), f"{PREFIX}/{INSTALLED}")


def with_inner_addresses(variables: Mapping[str, str], portal: str) -> dict[str, str]:
    """Gateway and exchange as the session reaches them: through its own network and not by the portal's public name."""
    moved = {name: f"{portal}{urlsplit(variables[name]).path}" for name in _INNER if name in variables}
    if "COMMONS_PUBLIC_URL" in variables:
        moved["COMMONS_EXCHANGE_URL"] = f"{portal}{urlsplit(variables['COMMONS_PUBLIC_URL']).path}"
    return {**variables, **moved}


def device_requests(devices: tuple[Device, ...]) -> list[dict[str, Any]]:
    """How the engine is asked for exactly these devices; never `count`, which does not allocate."""
    cdi = [one.id for one in devices if _CDI.fullmatch(one.id)]
    other = [one.id for one in devices if not _CDI.fullmatch(one.id)]
    requests: list[dict[str, Any]] = []
    if cdi:
        requests.append({"Driver": "cdi", "DeviceIDs": cdi})
    if other:
        requests.append({"Driver": "nvidia", "DeviceIDs": other, "Capabilities": [["gpu"]]})
    return requests


def device_variables(devices: tuple[Device, ...]) -> dict[str, str]:
    """What the probe inside the container has to find before the notebook server starts."""
    nodes = [node for one in devices for node in one.nodes]
    uuids = [one.id.rpartition("=")[2] for one in devices if not one.nodes or "nvidia.com/gpu=" in one.id]
    return {"COMMONS_DEVICE_NODES": ":".join(nodes), "COMMONS_GPU_UUIDS": ",".join(uuids)}


def grant_of(labels: Mapping[str, str], ends_at_ms: int | None) -> Grant:
    """Read what a container's labels say that it holds; raises ValueError where they are not ours."""
    try:
        ids = json.loads(labels[DEVICES])
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise ValueError("no list of ids")
        return Grant(frozenset(ids), int(labels[SHARING]), ends_at_ms)
    except (KeyError, ValueError) as error:
        raise ValueError(f"a container's labels do not say which devices it holds: {error}") from error


def _labels(order: ContainerOrder) -> dict[str, str]:
    return {
        HOLD: order.hold_id,
        USER: order.user,
        SERVER: order.server_name,
        PROFILE: order.profile.id,
        DEVICES: json.dumps([one.id for one in order.devices]),
        SHARING: str(order.profile.sessions_per_gpu),
        RUNTIME: str(order.runtime_s),
    }


def _mount(volume: str, target: str) -> dict[str, Any]:
    """An empty volume would get the owner of the image's folder: NoCopy leaves it as the keeper made it."""
    return {"Type": "volume", "Source": volume, "Target": target, "VolumeOptions": {"NoCopy": True}}
