"""The helper's list: what is on it passes, everything else is refused, key by key and value by value."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spawners import container_spec as spec
from spawners.engine_rules import Allowed, Denied, Request, Verb
from tests.unit.spawners.container_orders import IMAGE, LIMITS, RULES, order

BODY = spec.container_body(order(), LIMITS)
PLAIN = spec.container_body(order(devices=()), LIMITS)
CREATE = {"name": "cc-h1"}


def create(body: Any, query: dict[str, str] | None = None) -> Allowed | Denied:
    return RULES.judge(Request("POST", "/containers/create", CREATE if query is None else query, body))


@pytest.mark.parametrize("body", [BODY, PLAIN])
@pytest.mark.parametrize("prefix", ["", "/v1.45"])
def test_a_sessions_own_body_passes(body: dict[str, Any], prefix: str) -> None:
    judged = RULES.judge(Request("POST", f"{prefix}/containers/create", CREATE, body))
    assert judged == Allowed(Verb.CREATE, "/containers/create", CREATE)


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    body = copy.deepcopy(BODY)
    change(body)
    return body


FORBIDDEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "privileged": lambda b: b["HostConfig"].update(Privileged=True),
    "binds": lambda b: b["HostConfig"].update(Binds=["/:/host"]),
    "host network": lambda b: b["HostConfig"].update(NetworkMode="host"),
    "another network": lambda b: b["HostConfig"].update(NetworkMode="cc-000000000000"),
    "a second network": lambda b: b["NetworkingConfig"]["EndpointsConfig"].update(bridge={}),
    "an address": lambda b: b["NetworkingConfig"]["EndpointsConfig"].update(
        {spec.network_name("h1"): {"IPAddress": "1"}}
    ),
    "host pids": lambda b: b["HostConfig"].update(PidMode="host"),
    "host ipc": lambda b: b["HostConfig"].update(IpcMode="host"),
    "host uts": lambda b: b["HostConfig"].update(UTSMode="host"),
    "host users": lambda b: b["HostConfig"].update(UsernsMode="host"),
    "host cgroups": lambda b: b["HostConfig"].update(CgroupnsMode="host"),
    "cgroup parent": lambda b: b["HostConfig"].update(CgroupParent="/"),
    "a capability": lambda b: b["HostConfig"].update(CapAdd=["SYS_ADMIN"]),
    "fewer caps dropped": lambda b: b["HostConfig"].update(CapDrop=["NET_RAW"]),
    "no seccomp": lambda b: b["HostConfig"].update(SecurityOpt=["no-new-privileges", "seccomp=unconfined"]),
    "new privileges": lambda b: b["HostConfig"].update(SecurityOpt=[]),
    "a writable root": lambda b: b["HostConfig"].update(ReadonlyRootfs=False),
    "one for True": lambda b: b["HostConfig"].update(ReadonlyRootfs=1),
    "a plain device": lambda b: b["HostConfig"].update(Devices=[{"PathOnHost": "/dev/sda"}]),
    "device rules": lambda b: b["HostConfig"].update(DeviceCgroupRules=["a *:* rwm"]),
    "a runtime": lambda b: b["HostConfig"].update(Runtime="nvidia"),
    "a device by count": lambda b: b["HostConfig"].update(DeviceRequests=[{"Count": -1, "Capabilities": [["gpu"]]}]),
    "an unknown device": lambda b: b["HostConfig"].update(DeviceRequests=[{"Driver": "cdi", "DeviceIDs": ["x=GPU-9"]}]),
    "a device that is not on the label": lambda b: b["HostConfig"]["DeviceRequests"].append(
        {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-22222222"]}
    ),
    "a device twice": lambda b: b["HostConfig"]["DeviceRequests"].append(
        copy.deepcopy(b["HostConfig"]["DeviceRequests"][0])
    ),
    "all devices": lambda b: b["Labels"].update({spec.DEVICES: '["nvidia.com/gpu=all"]'}),
    "a label without its device": lambda b: b["HostConfig"].update(DeviceRequests=[]),
    "another image": lambda b: b.update(Image="debian:12"),
    "the same image by tag": lambda b: b.update(Image=IMAGE.partition("@")[0] + ":latest"),
    "root": lambda b: b.update(User="0:0"),
    "no user": lambda b: b.update(User=""),
    "another group": lambda b: b.update(User="20001:0"),
    "a system's uid": lambda b: b.update(User="19999:19999"),
    "another person's home": lambda b: b["HostConfig"]["Mounts"][0].update(Source="cc-home-cc-20002"),
    "a home with a copy": lambda b: b["HostConfig"]["Mounts"][0].update(VolumeOptions={}),
    "a bind mount": lambda b: b["HostConfig"]["Mounts"].append({"Type": "bind", "Source": "/", "Target": "/host"}),
    "a bind for the project": lambda b: b["HostConfig"]["Mounts"][1].update(Type="bind", Source="/srv"),
    "a volume with a driver": lambda b: b["HostConfig"]["Mounts"][1]["VolumeOptions"].update(
        DriverConfig={"Name": "local", "Options": {"type": "none", "device": "/", "o": "bind"}}
    ),
    "a home over a system folder": lambda b: b["HostConfig"]["Mounts"][0].update(Target="/opt/commons"),
    "volumes from": lambda b: b["HostConfig"].update(VolumesFrom=["cc-other"]),
    "an entrypoint": lambda b: b.update(Entrypoint=["sh"]),
    "another program": lambda b: b.update(Cmd=["sh", "-c", "id"]),
    "no program": lambda b: b.update(Cmd=[]),
    "a program as text": lambda b: b.update(Cmd="jupyterhub-singleuser"),
    "a control character": lambda b: b["Cmd"].append("a\nb"),
    "a variable without a name": lambda b: b["Env"].append("=x"),
    "a variable that is no text": lambda b: b["Env"].append({"PATH": "x"}),
    "a health check": lambda b: b.update(Healthcheck={"Test": ["CMD", "id"]}),
    "a health check as text": lambda b: b.update(OnBuild=["RUN id"]),
    "a host name": lambda b: b.update(Hostname="hub", Domainname="portal"),
    "a MAC address": lambda b: b.update(MacAddress="02:42:ac:11:00:02"),
    "a published port": lambda b: b["HostConfig"].update(PortBindings={"8888/tcp": [{"HostPort": "80"}]}),
    "extra hosts": lambda b: b["HostConfig"].update(ExtraHosts=["hub:1.2.3.4"]),
    "a name server": lambda b: b["HostConfig"].update(Dns=["8.8.8.8"]),
    "links": lambda b: b["HostConfig"].update(Links=["cc-other:x"]),
    "sysctls": lambda b: b["HostConfig"].update(Sysctls={"net.ipv4.ip_forward": "1"}),
    "ulimits": lambda b: b["HostConfig"].update(Ulimits=[{"Name": "nofile", "Soft": 1, "Hard": 1}]),
    "more tmpfs": lambda b: b["HostConfig"]["Tmpfs"].update({"/run": ""}),
    "a larger tmp": lambda b: b["HostConfig"]["Tmpfs"].update({"/tmp": "rw,size=1t"}),
    "more memory": lambda b: b["HostConfig"].update(Memory=9 * 2**30, MemorySwap=9 * 2**30),
    "unlimited memory": lambda b: b["HostConfig"].update(Memory=0, MemorySwap=0),
    "swap": lambda b: b["HostConfig"].update(MemorySwap=-1),
    "more CPUs": lambda b: b["HostConfig"].update(NanoCpus=5 * 10**9),
    "all CPUs": lambda b: b["HostConfig"].update(NanoCpus=0),
    "more processes": lambda b: b["HostConfig"].update(PidsLimit=-1),
    "more shared memory": lambda b: b["HostConfig"].update(ShmSize=2**40),
    "no killer": lambda b: b["HostConfig"].update(OomKillDisable=True),
    "a restart": lambda b: b["HostConfig"].update(RestartPolicy={"Name": "always"}),
    "self-removal": lambda b: b["HostConfig"].update(AutoRemove=True),
    "a log driver": lambda b: b["HostConfig"].update(
        LogConfig={"Type": "syslog", "Config": {"syslog-address": "tcp://x"}}
    ),
    "no init": lambda b: b["HostConfig"].update(Init=False),
    "more groups": lambda b: b["HostConfig"].update(GroupAdd=["0"]),
    "another hold's label": lambda b: b["Labels"].update({spec.HOLD: "h2"}),
    "no label": lambda b: b["Labels"].pop(spec.USER),
    "a label of another's": lambda b: b["Labels"].update({"com.example.x": "1"}),
    "labels as a list": lambda b: b.update(Labels=["x"]),
    "a longer runtime": lambda b: b["Labels"].update({spec.RUNTIME: "100000000"}),
    "no runtime": lambda b: b["Labels"].update({spec.RUNTIME: ""}),
    "a shared device": lambda b: b["Labels"].update({spec.SHARING: "0"}),
    "no host configuration": lambda b: b.pop("HostConfig"),
    "a host configuration that is none": lambda b: b.update(HostConfig=[]),
    "a masked path less": lambda b: b["HostConfig"].update(MaskedPaths=[]),
    "isolation": lambda b: b["HostConfig"].update(Isolation="process"),
}


@pytest.mark.parametrize("change", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_a_body_with_anything_else_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    judged = create(changed(change))
    assert isinstance(judged, Denied)
    assert judged.reason


@pytest.mark.parametrize("body", [None, [], "x", 1, {}, {"HostConfig": {}}])
def test_what_is_no_body_is_refused(body: Any) -> None:
    assert isinstance(create(body), Denied)


@pytest.mark.parametrize(
    "query", [{}, {"name": "x"}, {"name": "cc-h2"}, {"name": "cc-h1", "platform": "x"}, {"name": "cc-../x"}]
)
def test_a_container_has_its_sessions_name_and_no_other(query: dict[str, str]) -> None:
    assert isinstance(create(BODY, query), Denied)


REFUSED_VERBS = [
    ("POST", "/containers/cc-h1/exec"),
    ("POST", "/exec/1/start"),
    ("POST", "/containers/cc-h1/attach"),
    ("POST", "/containers/cc-h1/kill"),
    ("POST", "/containers/cc-h1/stop"),
    ("POST", "/containers/cc-h1/restart"),
    ("POST", "/containers/cc-h1/pause"),
    ("POST", "/containers/cc-h1/unpause"),
    ("POST", "/containers/cc-h1/update"),
    ("POST", "/containers/cc-h1/rename"),
    ("POST", "/containers/cc-h1/wait"),
    ("GET", "/containers/cc-h1/logs"),
    ("GET", "/containers/cc-h1/archive"),
    ("PUT", "/containers/cc-h1/archive"),
    ("GET", "/containers/cc-h1/export"),
    ("GET", "/containers/cc-h1/changes"),
    ("GET", "/containers/cc-h1/top"),
    ("GET", "/containers/other/json"),
    ("DELETE", "/containers/other"),
    ("POST", "/containers/prune"),
    ("POST", "/commit"),
    ("POST", "/build"),
    ("POST", "/images/load"),
    ("DELETE", "/images/x"),
    ("POST", "/images/x/push"),
    ("POST", "/images/x/tag"),
    ("GET", "/images/json"),
    ("GET", "/images/debian:12/json"),
    ("GET", "/networks"),
    ("POST", "/networks/prune"),
    ("POST", "/networks/cc-000000000000/connect"),
    ("POST", "/networks/cc-000000000000/disconnect"),
    ("DELETE", "/networks/bridge"),
    ("GET", "/volumes"),
    ("DELETE", "/volumes/cc-home-cc-20001"),
    ("POST", "/volumes/prune"),
    ("GET", "/info"),
    ("GET", "/events"),
    ("GET", "/system/df"),
    ("POST", "/auth"),
    ("POST", "/session"),
    ("POST", "/grpc"),
    ("POST", "/swarm/init"),
    ("POST", "/services/create"),
    ("GET", "/secrets"),
    ("POST", "/plugins/pull"),
    ("GET", "/"),
    ("GET", "/v1.45/v1.45/version"),
    ("GET", "//version"),
    ("GET", "/containers/cc-h1/../../info/json"),
    ("GET", "/containers/cc-h1%2f..%2f..%2finfo/json"),
    ("OPTIONS", "/version"),
    ("CONNECT", "/version"),
]


@pytest.mark.parametrize(("method", "path"), REFUSED_VERBS)
def test_a_verb_that_is_not_listed_is_refused(method: str, path: str) -> None:
    assert isinstance(RULES.judge(Request(method, path)), Denied)
    assert isinstance(RULES.judge(Request(method, f"/v1.45{path}")), Denied)


ALLOWED_VERBS = [
    ("GET", "/version", Verb.LOOK),
    ("GET", f"/images/{IMAGE}/json", Verb.LOOK),
    ("GET", "/containers/cc-h1/json", Verb.INSPECT),
    ("POST", "/containers/cc-h1/start", Verb.START),
    ("DELETE", "/containers/cc-h1", Verb.REMOVE),
    ("GET", "/networks/cc-000000000000", Verb.LOOK),
    ("DELETE", "/networks/cc-000000000000", Verb.LOOK),
]


@pytest.mark.parametrize(("method", "path", "verb"), ALLOWED_VERBS)
def test_a_listed_verb_passes_without_a_body(method: str, path: str, verb: Verb) -> None:
    judged = RULES.judge(Request(method, path))
    assert isinstance(judged, Allowed)
    assert judged.verb is verb
    assert isinstance(RULES.judge(Request(method, path, body={"x": 1})), Denied)
    assert isinstance(RULES.judge(Request(method, path, {"detachKeys": "x"})), Denied)


def test_a_list_is_always_of_our_containers_whatever_was_asked() -> None:
    judged = RULES.judge(Request("GET", "/containers/json", {"filters": "{}", "limit": "1"}))
    assert isinstance(judged, Allowed)
    assert judged.query == {"all": "1", "filters": '{"label":["org.compute-commons.hold"]}'}


def test_nothing_is_removed_by_force() -> None:
    assert isinstance(RULES.judge(Request("DELETE", "/containers/cc-h1", {"force": "1"})), Denied)
    assert isinstance(RULES.judge(Request("DELETE", "/containers/cc-h1", {"link": "1"})), Denied)


def test_only_listed_images_are_fetched() -> None:
    name, _, digest = IMAGE.partition("@")
    assert isinstance(RULES.judge(Request("POST", "/images/create", {"fromImage": name, "tag": digest})), Allowed)
    for query in ({"fromImage": name, "tag": "latest"}, {"fromSrc": "-"}, {"fromImage": name}, {}):
        assert isinstance(RULES.judge(Request("POST", "/images/create", query)), Denied)


def test_a_network_is_a_sessions_own_or_none() -> None:
    body = spec.network_body("h1")
    assert isinstance(RULES.judge(Request("POST", "/networks/create", body=body)), Allowed)
    changes: list[dict[str, Any]] = [
        {"Internal": False},
        {"Driver": "host"},
        {"Options": {}},
        {"IPAM": {}},
        {"Name": "cc-000000000000"},
    ]
    for change in changes:
        assert isinstance(RULES.judge(Request("POST", "/networks/create", body={**body, **change})), Denied)


@pytest.mark.parametrize("folder", ["/", "/srv/homes", "/srv/homes/../etc", "/srv/homes/cc-home-cc-20002"])
def test_a_volume_lies_over_its_own_folder_or_nowhere(folder: str) -> None:
    name = "cc-home-cc-20001"
    good = spec.volume_body(name, f"/srv/homes/{name}")
    assert isinstance(RULES.judge(Request("POST", "/volumes/create", body=good)), Allowed)
    assert isinstance(RULES.judge(Request("POST", "/volumes/create", body=spec.volume_body(name, folder))), Denied)
    assert isinstance(RULES.judge(Request("POST", "/volumes/create", body={**good, "Driver": "nfs"})), Denied)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=200)
@given(st.sampled_from(sorted(BODY)), json_values)
def test_no_other_value_of_any_key_passes(key: str, value: Any) -> None:
    assume(value != BODY[key])
    judged = create({**BODY, key: value})
    if isinstance(judged, Allowed):  # another list of variables or of words after the program is fine
        assert key in ("Env", "Cmd")


@settings(max_examples=200)
@given(st.sampled_from(sorted(BODY["HostConfig"])), json_values)
def test_no_other_value_of_any_host_key_passes(key: str, value: Any) -> None:
    assume(value != BODY["HostConfig"][key])
    judged = create({**BODY, "HostConfig": {**BODY["HostConfig"], key: value}})
    if isinstance(judged, Allowed):
        assert key in ("NanoCpus", "ShmSize")
        assert 0 < value <= {"NanoCpus": 4 * 10**9, "ShmSize": 8 * 2**30}[key]
