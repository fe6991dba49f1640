"""What the engine helper lets through: verbs, paths, queries and bodies, each listed. Pure.

Invariant: what is not listed is refused, key by key: a body with one key or value more than a session's container needs does not
reach the engine. An engine's socket is root on the host; behind these rules it is "start sessions, look at them, stop them".
Source: Docker Engine API 1.45.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from spawners import container_spec as spec
from spawners import grading_spec
from spawners.container_settings import MIB, PROJECT_GID, UID_MAX, UID_MIN
from spawners.grading_settings import GradingTable

_CONTAINER: Final = r"cc-(?P<hold>[A-Za-z0-9][A-Za-z0-9_-]{0,63})"
_NETWORK: Final = r"cc-[0-9a-f]{12}"
_VOLUME: Final = r"(?:cc-home-cc-[1-9][0-9]{4,5}|cc-project-[A-Za-z0-9][A-Za-z0-9_-]{0,63})"
_VERSION: Final = re.compile(r"^/v1\.[0-9]{1,2}(?=/)")
_ARGUMENT: Final = re.compile(r"[ -~]{0,500}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}=", re.ASCII)


class Verb(StrEnum):
    """What a request that is let through does."""

    LOOK = "look"
    INSPECT = "inspect"
    LIST = "list"
    CREATE = "create"
    START = "start"
    REMOVE = "remove"
    NETWORK = "network"
    VOLUME = "volume"
    PULL = "pull"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came in; `path` without its query, `body` parsed from JSON (None: there is none)."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True, slots=True)
class Allowed:
    """Let through as `verb`; `query` replaces what was asked. `container` names one that has to be ours."""

    verb: Verb
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    container: str = ""


@dataclass(frozen=True, slots=True)
class Denied:
    """Not let through."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What this site's containers may be."""

    images: frozenset[str]
    devices: frozenset[str]
    homes_folder: str
    limits: spec.Limits
    memory_max_bytes: int
    cpus_max: int
    runtime_max_s: int
    grading: GradingTable | None = None  # None: submissions are not executed in containers here
    grading_image: str = ""

    def judge(self, request: Request) -> Allowed | Denied:
        """Find the rule of this request; the first line of the table whose method and path fit decides."""
        path = _VERSION.sub("", request.path)
        for method, pattern, rule in _TABLE:
            found = re.fullmatch(pattern, path)
            if request.method == method and found:
                return rule(self, path, request, found)
        return Denied(f"{request.method} {path[:80]!r} is no verb of the helper")


def _look(rules: Rules, path: str, request: Request, found: re.Match[str]) -> Allowed | Denied:
    return _bare(request, set()) or Allowed(Verb.LOOK, path)


def _list(rules: Rules, path: str, request: Request, found: re.Match[str]) -> Allowed | Denied:
    """Whatever filter was asked for: our containers only, and all of them."""
    query = {"all": "1", "filters": f'{{"label":["{spec.HOLD}"]}}'}
    return _bare(request, {"all", "filters", "limit", "size", "trunc_cmd"}) or Allowed(Verb.LIST, path, query)


def _image(rules: Rules, path: str, request: Request, found: re.Match[str]) -> Allowed | Denied:
    if found["image"] not in rules.images:
        return Denied("this image is not in the site's list")
    return _bare(request, set()) or Allowed(Verb.LOOK, path)


def _pull(rules: Rules, path: str, request: Request, found: re.Match[str]) -> Allowed | Denied:
    name, tag = request.query.get("fromImage", ""), request.query.get("tag", "")
    image = f"{name}@{tag}" if tag else name
    if image not in rules.images:
        return Denied("this image is not in the site's list")
    return _bare(request, {"fromImage", "tag"}) or Allowed(Verb.PULL, path, dict(request.query))


def _inspect(rules: Rules, path: str, request: Request, found: re.Match[str]) -> Allowed | Denied:
    return _bare(request, set()) or Allowed(Verb.INSPECT, path, container=path.split("/")[2])


def _start(rules: Rules, path: str, request: Request, found: re.Match[str]) -> Allowed | Denied:
    return _bare(request, set()) or Allowed(Verb.START, path, container=path.split("/")[2])


def _remove(rules: Rules, path: str, request: Request, found: re.Match[str]) -> Allowed | Denied:
    """Only what has ended: a running one is not removed by force. Named volumes stay."""
    known = {"v", "force", "link"}
    if request.query.get("force", "0") not in ("0", "false", "False"):
        return Denied("a container is stopped before it is removed")
    if request.query.get("link", "0") not in ("0", "false", "False"):
        return Denied("there are no links")
    return _bare(request, known) or Allowed(Verb.REMOVE, path, {}, path.split("/")[2])


def _create(rules: Rules, path: str, request: Request, found: re.Match[str]) -> Allowed | Denied:
    if set(request.query) != {"name"} or not re.fullmatch(_CONTAINER, request.query["name"]):
        return Denied("a container is created under its session's name")
    hold_id = request.query["name"].removeprefix("cc-")
    if rules.grading is not None and request.body == grading_spec.container_body(
        hold_id, rules.grading_image, rules.grading
    ):
        return Allowed(Verb.CREATE, path, dict(request.query))
    wrong = container_fault(request.body, hold_id, rules)
    return Denied(wrong) if wrong else Allowed(Verb.CREATE, path, dict(request.query))


def _network(rules: Rules, path: str, request: Request, found: re.Match[str]) -> Allowed | Denied:
    labels = request.body.get("Labels") if isinstance(request.body, dict) else None
    hold_id = labels.get(spec.HOLD) if isinstance(labels, dict) else None
    if not isinstance(hold_id, str) or not re.fullmatch(_CONTAINER, f"cc-{hold_id}"):
        return Denied("a network is labelled with its session's hold")
    if request.query or request.body != spec.network_body(hold_id):
        return Denied("a network is a session's own internal bridge, and nothing else")
    return Allowed(Verb.NETWORK, path)


def _volume(rules: Rules, path: str, request: Request, found: re.Match[str]) -> Allowed | Denied:
    name = request.body.get("Name") if isinstance(request.body, dict) else None
    if not isinstance(name, str) or not re.fullmatch(_VOLUME, name):
        return Denied("a volume is a person's home or a project's folder")
    if request.query or request.body != spec.volume_body(name, f"{rules.homes_folder}/{name}"):
        return Denied("a volume lies over the folder that the home keeper made, and nowhere else")
    return Allowed(Verb.VOLUME, path)


Rule = Callable[[Rules, str, Request, re.Match[str]], Allowed | Denied]
_TABLE: Final[tuple[tuple[str, str, Rule], ...]] = (
    ("GET", "/_ping", _look),
    ("HEAD", "/_ping", _look),
    ("GET", "/version", _look),
    ("GET", "/images/(?P<image>[^?]{1,300})/json", _image),
    ("POST", "/images/create", _pull),
    ("GET", "/containers/json", _list),
    ("POST", "/containers/create", _create),
    ("GET", f"/containers/{_CONTAINER}/json", _inspect),
    ("POST", f"/containers/{_CONTAINER}/start", _start),
    ("DELETE", f"/containers/{_CONTAINER}", _remove),
    ("POST", "/networks/create", _network),
    ("GET", f"/networks/{_NETWORK}", _look),
    ("DELETE", f"/networks/{_NETWORK}", _look),
    ("POST", "/volumes/create", _volume),
)


def container_fault(body: Any, hold_id: str, rules: Rules) -> str:
    """Why this is no body of a session's container; empty where it is one."""
    if not isinstance(body, dict):
        return "a container's body is a JSON object"
    uid = _uid(body.get("User"))
    if uid is None:
        return "User: is no uid of a person with its own group"
    network = spec.network_name(hold_id)
    checks: dict[str, Callable[[Any], bool]] = {
        "Image": lambda value: isinstance(value, str) and value in rules.images,
        "User": lambda value: True,
        "Cmd": _is_command,
        "Env": lambda value: _is_list(value, _is_variable),
        "Labels": lambda value: _are_labels(value, hold_id, rules),
        "NetworkingConfig": lambda value: value == {"EndpointsConfig": {network: {}}},
        "HostConfig": lambda value: isinstance(value, dict),
    }
    return _first_fault(body, checks, "") or _host_fault(body["HostConfig"], uid, network, body["Labels"], rules)


def _host_fault(host: dict[str, Any], uid: int, network: str, labels: Mapping[str, str], rules: Rules) -> str:
    login = f"cc-{uid}"
    granted = spec.grant_of(labels, None).ids

    def is_just(expected: Any) -> Callable[[Any], bool]:
        return lambda value: value == expected and type(value) is type(expected)

    checks: dict[str, Callable[[Any], bool]] = {
        "NetworkMode": is_just(network),
        "Memory": lambda value: _within(value, 16 * MIB, rules.memory_max_bytes),
        "MemorySwap": is_just(host.get("Memory")),
        "NanoCpus": lambda value: _within(value, 10**7, rules.cpus_max * 10**9),
        "PidsLimit": is_just(rules.limits.processes),
        "ShmSize": lambda value: _within(value, 1, rules.memory_max_bytes),
        "CapDrop": is_just(["ALL"]),
        "SecurityOpt": is_just(["no-new-privileges"]),
        "ReadonlyRootfs": is_just(True),
        "Init": is_just(True),
        "IpcMode": is_just("private"),
        "CgroupnsMode": is_just("private"),
        "GroupAdd": is_just([str(PROJECT_GID)]),
        "RestartPolicy": is_just({"Name": "no"}),
        "AutoRemove": is_just(False),
        "Tmpfs": is_just({"/tmp": f"rw,nosuid,nodev,exec,mode=1777,size={rules.limits.tmp_bytes // MIB}m"}),  # noqa: S108
        "Mounts": lambda value: _are_mounts(value, login),
        "DeviceRequests": lambda value: _are_devices(value, granted),
        "LogConfig": is_just({"Type": "json-file", "Config": {"max-size": "5m", "max-file": "2"}}),
    }
    return _first_fault(host, checks, "HostConfig.")


def _first_fault(body: Mapping[str, Any], checks: Mapping[str, Callable[[Any], bool]], prefix: str) -> str:
    for key in body:
        if key not in checks:
            return f"{prefix}{str(key)[:40]}: is not among what a session's container is made of"
    for key, check in checks.items():
        if key not in body:
            return f"{prefix}{key}: is missing"
        if not check(body[key]):
            return f"{prefix}{key}: is not what it has to be"
    return ""


def _bare(request: Request, known: set[str]) -> Denied | None:
    """None where there is no body and no query beside the known words."""
    if request.body not in (None, {}):
        return Denied("this verb takes no body")
    unknown = set(request.query) - known
    return Denied(f"the query {sorted(unknown)[0][:40]!r} is not taken here") if unknown else None


def _uid(value: Any) -> int | None:
    found = re.fullmatch(r"([1-9][0-9]{4,5}):\1", value) if isinstance(value, str) else None
    return int(found[1]) if found and UID_MIN <= int(found[1]) <= UID_MAX else None


def _within(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_list(value: Any, check: Callable[[Any], bool], most: int = 200) -> bool:
    return isinstance(value, list) and len(value) <= most and all(check(one) for one in value)


def _is_command(value: Any) -> bool:
    if not _is_list(value, lambda one: isinstance(one, str) and _ARGUMENT.fullmatch(one) is not None, 50):
        return False
    return bool(value) and value[0] == spec.COMMAND


def _is_variable(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 20_000 and _VARIABLE.match(value) is not None and "\0" not in value


def _are_labels(value: Any, hold_id: str, rules: Rules) -> bool:
    if not isinstance(value, dict) or set(value) != spec.LABELS or not all(isinstance(v, str) for v in value.values()):
        return False
    runtime = value[spec.RUNTIME]
    try:
        grant = spec.grant_of(value, None)
    except ValueError:
        return False
    known = grant.ids <= rules.devices and 1 <= grant.sharing <= 64
    timed = runtime.isascii() and runtime.isdigit() and 0 < int(runtime) <= rules.runtime_max_s
    return value[spec.HOLD] == hold_id and known and timed and all(len(one) <= 4096 for one in value.values())


def _are_mounts(value: Any, login: str) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(one, dict) for one in value):
        return False
    sources = [one.get("Source") for one in value]
    project = str(sources[1])
    if sources[0] != spec.home_volume(login) or not re.fullmatch(_VOLUME, project) or "cc-project-" not in project:
        return False
    targets = (spec.home_folder(login), spec.PROJECT_FOLDER)
    expected = [
        {"Type": "volume", "Source": source, "Target": target, "VolumeOptions": {"NoCopy": True}}
        for source, target in zip(sources, targets, strict=True)
    ]
    return bool(value == expected)


def _are_devices(value: Any, granted: frozenset[str]) -> bool:
    """Exactly the devices of the label, asked for by id."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return False
    asked: list[Any] = []
    for one in value:
        shape = {key: inner for key, inner in one.items() if key != "DeviceIDs"}
        if shape not in ({"Driver": "cdi"}, {"Driver": "nvidia", "Capabilities": [["gpu"]]}):
            return False
        ids = one.get("DeviceIDs")
        if not isinstance(ids, list) or not ids or not all(isinstance(inner, str) for inner in ids):
            return False
        asked += ids
    return len(asked) == len(set(asked)) and set(asked) == granted
