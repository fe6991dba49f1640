"""A run's container: one body and nothing else passes the helper, and nothing in it reaches anywhere."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from spawners import container_spec as spec
from spawners import grading_spec
from spawners.engine_rules import Allowed, Denied, Request, Verb
from spawners.grading_settings import GradingTable
from spawners.profiles import Backend
from tests.unit.spawners.container_orders import IMAGE, RULES

TABLE = GradingTable(backend=Backend.CONTAINER)
BODY = grading_spec.container_body("h1", IMAGE, TABLE)
GRADES = replace(RULES, grading=TABLE, grading_image=IMAGE)
CREATE = {"name": "cc-h1"}


def judged(body: Any, rules: Any = GRADES, name: str = "cc-h1") -> Allowed | Denied:
    return rules.judge(Request("POST", "/containers/create", {"name": name}, body))  # type: ignore[no-any-return]


def test_the_sites_own_body_passes_and_only_where_the_site_grades_in_containers() -> None:
    assert judged(BODY) == Allowed(Verb.CREATE, "/containers/create", CREATE)
    assert isinstance(judged(BODY, RULES), Denied)
    assert isinstance(judged(BODY, name="cc-h2"), Denied)


def test_a_run_has_no_network_no_mount_no_device_no_capability_and_keeps_nothing() -> None:
    host = BODY["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert not {"Mounts", "Binds", "DeviceRequests", "Devices", "CapAdd"} & set(host)
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert host["LogConfig"]["Type"] == "none"
    assert host["MemorySwap"] == host["Memory"] == TABLE.memory
    assert (host["PidsLimit"], host["NanoCpus"]) == (128, 10**9)
    assert not any("TOKEN" in one or "COMMONS" in one for one in BODY["Env"])
    assert grading_spec.is_grading(BODY["Labels"])


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, one in inner for path in paths(one, (*at, key)))]


@pytest.mark.parametrize("path", paths(BODY)[1:], ids=lambda path: ".".join(map(str, path)))
def test_every_single_value_has_to_be_the_sites_own(path: tuple[Any, ...]) -> None:
    for change in ("other", "gone"):
        body = copy.deepcopy(BODY)
        place = body
        for key in path[:-1]:
            place = place[key]
        if change == "gone":
            del place[path[-1]]
        else:
            place[path[-1]] = "2000" if isinstance(place[path[-1]], str) else 10**12
        assert isinstance(judged(body), Denied)


@pytest.mark.parametrize("more", ["Privileged", "Binds", "Mounts", "CapAdd", "PidMode", "Devices"])
def test_one_key_more_is_refused(more: str) -> None:
    body = copy.deepcopy(BODY)
    body["HostConfig"][more] = True
    assert isinstance(judged(body), Denied)


def test_a_runs_container_belongs_to_nobody_who_could_adopt_it() -> None:
    assert BODY["Labels"][spec.USER] == ""
    assert spec.grant_of(BODY["Labels"], None).ids == frozenset()
