"""The helper on a real engine, over its socket: what it lets through, whom it protects, what it says when the engine is away."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from jupyterhub.spawner import SpawnException

from spawners import container_spec as spec
from spawners import session_firewall
from spawners.address_pools import DOCKERS_OWN
from spawners.container_engine import HelperCalls
from spawners.devices import Device
from spawners.engine_process import limits_of
from spawners.settings import load
from tests.engine import gpus
from tests.engine.debs import NoEngine
from tests.engine.engine import HELPER_ID, Engine
from tests.engine.images import Images
from tests.engine.sessions import Sessions
from tests.engine.site import ContainerSite
from tests.unit.spawners.test_engine_rules import FORBIDDEN, REFUSED_VERBS
from tests.waiting import PATIENCE_S, eventually

NETWORKS: Final = 300 if os.environ.get("COMMONS_FULL") == "1" else DOCKERS_OWN + 1


@pytest.fixture
def helper(site: ContainerSite) -> Iterator[httpx.Client]:
    with site.http() as client:
        yield client


def body_of(site: ContainerSite, hold_id: str, *numbers: int) -> dict[str, Any]:
    """A session's body with these simulated GPUs."""
    settings = load(site.portal_file)
    profile = settings.catalogue.get("gpu1")
    assert profile is not None
    order = spec.ContainerOrder(
        hold_id=hold_id,
        user="ada",
        server_name="",
        login="cc-20001",
        uid=20_001,
        project="p1",
        profile=profile,
        image=site.image,
        devices=tuple(Device(gpus.IDS[number], "simulated-gpu", (gpus.node(number),)) for number in numbers),
        runtime_s=600,
        environment={},
        arguments=(),
    )
    return spec.container_body(order, limits_of(settings))


def create(helper: httpx.Client, hold_id: str, body: Any) -> httpx.Response:
    return helper.post("/v1.45/containers/create", params={"name": f"cc-{hold_id}"}, json=body)


def prepare(helper: httpx.Client, site: ContainerSite, hold_id: str) -> None:
    """What a start makes before the container."""
    assert helper.post("/networks/create", json=spec.network_body(hold_id)).status_code == 201
    transport = httpx.HTTPTransport(uds=str(site.keeper))
    with httpx.Client(transport=transport, base_url="http://keeper", timeout=PATIENCE_S) as keeper:
        for name in ("cc-home-cc-20001", "cc-project-p1"):
            folder = keeper.put(f"/folders/{name}").json()["folder"]
            assert helper.post("/volumes/create", json=spec.volume_body(name, folder)).status_code == 201


def forget_rules() -> None:
    """As on a host where nobody loaded them."""
    for table in session_firewall.TABLES:
        subprocess.run(["nft", "delete", "table", *table.split()], check=False, capture_output=True, timeout=10)


def test_forbidden_bodies_and_verbs_are_403_and_nothing_is_made(site: ContainerSite, helper: httpx.Client) -> None:
    hold_id = uuid4().hex
    good = body_of(site, hold_id, 0)
    refused = 0
    for name, change in FORBIDDEN.items():
        body = copy.deepcopy(good)
        change(body)
        if body == good:  # a change that speaks of another body's ids
            continue
        answer = create(helper, hold_id, body)
        assert answer.status_code == 403, (name, answer.text)
        refused += 1
    assert refused >= len(FORBIDDEN) - 3
    for method, path in REFUSED_VERBS:
        if ".." not in path and "%" not in path and not path.startswith("//"):
            assert helper.request(method, path).status_code in (403, 400), (method, path)
    assert Sessions(site).client.containers.list(all=True) == []


def test_two_creates_never_get_one_device_and_a_third_session_gets_it_after_the_end(
    site: ContainerSite, sessions: Sessions, helper: httpx.Client
) -> None:
    first, second, third = (uuid4().hex for _ in range(3))
    for hold_id in (first, second, third):
        prepare(helper, site, hold_id) if hold_id == first else helper.post(
            "/networks/create", json=spec.network_body(hold_id)
        )
    assert create(helper, first, body_of(site, first, 2)).status_code == 201
    busy = create(helper, second, body_of(site, second, 2, 3))
    assert busy.status_code == 409
    assert gpus.IDS[2] in busy.text
    assert helper.post(f"/containers/cc-{first}/start").status_code == 204
    assert helper.post(f"/commons/sessions/{first}/stop", json={"reason": "stopped", "grace_s": 1}).status_code == 200
    assert create(helper, third, body_of(site, third, 2)).status_code == 201
    assert helper.post(f"/containers/cc-{first}/start").status_code == 409  # a hold pays for one session


def test_a_foreign_container_is_not_there_for_the_portal(
    site: ContainerSite, sessions: Sessions, helper: httpx.Client
) -> None:
    foreign = sessions.client.containers.create(site.image, name=f"cc-{uuid4().hex}")
    name = str(foreign.name)
    assert helper.get(f"/containers/{name}/json").status_code == 404
    assert helper.post(f"/containers/{name}/start").status_code == 404
    assert helper.delete(f"/containers/{name}").status_code == 404
    assert helper.get(f"/commons/sessions/{name.removeprefix('cc-')}/end").status_code == 404
    hold_id = name.removeprefix("cc-")
    assert helper.post(f"/commons/sessions/{hold_id}/stop", json={"reason": "x", "grace_s": 1}).status_code == 404
    assert helper.get("/containers/json").json() == []
    foreign.reload()
    assert foreign.status == "created"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("deadline", {}),
        ("deadline", {"deadline_ms": "1"}),
        ("deadline", {"deadline_ms": -1}),
        ("deadline", {"deadline_ms": True}),
        ("deadline", []),
        ("stop", {"reason": "x"}),
        ("stop", {"reason": "a b", "grace_s": 1}),
        ("stop", {"reason": "x", "grace_s": 10_000}),
        ("stop", "x"),
    ],
)
def test_orders_without_sense_are_400(helper: httpx.Client, path: str, body: Any) -> None:
    method = "PUT" if path == "deadline" else "POST"
    assert helper.request(method, f"/commons/sessions/{uuid4().hex}/{path}", json=body).status_code == 400


def test_broken_and_endless_bodies_are_refused(helper: httpx.Client) -> None:
    post = {"params": {"name": "cc-x"}, "headers": {"Content-Type": "application/json"}}
    assert helper.post("/containers/create", content=b"{", **post).status_code == 400  # type: ignore[arg-type]
    assert helper.post("/containers/create", content=b"[" * 100_000, **post).status_code == 400  # type: ignore[arg-type]
    assert helper.post("/containers/create", content=b" " * 400_000, **post).status_code == 413  # type: ignore[arg-type]


async def test_an_engine_that_is_away_is_503_on_every_verb_and_never_500(
    site: ContainerSite, sessions: Sessions
) -> None:
    hold_id = uuid4().hex
    spawner = sessions.spawner(hold_id, profile="cpu")
    await spawner.start()
    site.engine.down()
    try:
        with site.http() as helper:
            for method, path in (
                ("GET", "/version"),
                ("GET", "/containers/json"),
                ("GET", f"/containers/cc-{hold_id}/json"),
                ("GET", f"/commons/sessions/{hold_id}/end"),
                ("POST", f"/containers/cc-{hold_id}/start"),
                ("DELETE", f"/containers/cc-{hold_id}"),
                ("GET", "/commons/sessions"),
            ):
                assert helper.request(method, path).status_code == 503, (method, path)
        assert await spawner.poll() is None
    finally:
        site.engine.up()

    async def back() -> bool:
        return sessions.runs(hold_id)

    await eventually(back, within_s=PATIENCE_S, what="the session is found again")
    assert await spawner.poll() is None


async def test_no_session_starts_before_the_canary_has_reached_nothing(inside: Engine, images: Images) -> None:
    forget_rules()
    site = ContainerSite(inside, images.stub(), canary=True)
    try:
        process = site.start_helper(wait=False)

        async def told() -> str | None:
            reason = str(site.health().get("reason", ""))
            return reason if "a session reaches" in reason else None

        reason = await eventually(told, within_s=PATIENCE_S, what="the canary has reached something")
        assert "load the packet rules" in reason
        with site.http() as helper:
            answer = create(helper, "h0000001", body_of(site, "h0000001"))
            assert (answer.status_code, "a session reaches" in answer.text) == (503, True)
        process.terminate()
        process.wait(PATIENCE_S)
        site.processes.clear()
        site.load_rules(1, 2)
        site.start_helper()
        assert site.health() == {"ready": True, "reason": ""}
        assert Sessions(site).client.containers.list(all=True) == []
    finally:
        site.load_rules(1, 2)
        site.stop()


async def test_a_failed_start_of_the_engine_is_refused_with_its_reason_and_costs_nothing(
    site: ContainerSite, sessions: Sessions, tmp_path: Path
) -> None:
    """An engine without these devices: its CDI specifications are gone, as on a host whose driver was removed."""
    kept = site.engine.cdi_folder / "simulated.json"
    content = kept.read_text()
    hold_id = uuid4().hex
    spec_copy = tmp_path / "simulated.json"
    spec_copy.write_text(content)
    kept.write_text(json.dumps({"cdiVersion": "0.5.0", "kind": "other.example/none", "devices": []}))

    async def forgotten() -> bool:
        found = sessions.client.api.info().get("CDISpecDirs")
        return bool(found)

    try:
        await eventually(forgotten, within_s=PATIENCE_S, what="the engine answers")
        spawner = sessions.spawner(hold_id)
        spawner.containers = spawner.containers.model_copy(update={"cdi_folders": (str(tmp_path),)})
        with pytest.raises(SpawnException) as refused:
            await spawner.start()
        assert "nothing is charged" in refused.value.jupyterhub_message
        assert "CDI" in refused.value.jupyterhub_message
    finally:
        kept.write_text(content)
    told = site.sessions()[hold_id]
    assert told["never_started"]
    assert not told["holds_devices"]


def test_no_look_at_a_session_shows_its_credentials_but_the_adopting_hubs_own(
    sessions: Sessions, helper: httpx.Client
) -> None:
    hold_id = uuid4().hex
    spawner = sessions.spawner(hold_id, profile="cpu")
    spawner.session_environment = {**spawner.session_environment, "OPENAI_API_KEY": "key-of-the-gateway"}
    asyncio.run(spawner.start())
    secrets = ("token-of-the-first", "key-of-the-gateway")
    engines_word = json.dumps(sessions.container(hold_id))
    assert all(one in engines_word for one in secrets)
    network = f"/networks/{spec.network_name(hold_id)}"
    for path in (f"/containers/cc-{hold_id}/json", "/containers/json", "/commons/sessions", network):
        answer = helper.get(path)
        assert answer.status_code == 200, path
        assert not any(one in answer.text for one in secrets), path
    told = helper.get(f"/commons/sessions/{hold_id}/api-token")
    assert told.json() == {"api_token": "token-of-the-first"}
    assert helper.get(f"/commons/sessions/{uuid4().hex}/api-token").status_code == 404


def test_a_session_counts_from_its_true_start_once_its_server_answers_and_not_before(
    site: ContainerSite, sessions: Sessions, helper: httpx.Client
) -> None:
    hold_id = uuid4().hex
    prepare(helper, site, hold_id)
    body = body_of(site, hold_id)
    assert create(helper, hold_id, body).status_code == 201
    assert helper.put(f"/commons/sessions/{hold_id}/ready").status_code == 409  # not started
    assert helper.post(f"/containers/cc-{hold_id}/start").status_code == 204
    assert helper.get(f"/commons/sessions/{hold_id}/first-word").json() == {"said": "confirmed"}
    assert site.sessions()[hold_id]["starting"]
    assert helper.put(f"/commons/sessions/{hold_id}/ready").status_code == 200
    told = site.sessions()[hold_id]
    assert (told["starting"], told["started_at_ms"]) == (False, sessions.started_ms(hold_id))


def test_hundreds_of_sessions_have_a_network_each_and_leave_none(site: ContainerSite, sessions: Sessions) -> None:
    """More than Docker's own pools hold; in `--full` as many as a large site runs."""
    calls = HelperCalls(str(site.helper), str(site.keeper))
    holds = [uuid4().hex for _ in range(NETWORKS)]
    gateways = [calls.make_network(hold_id) for hold_id in holds]
    assert len(set(gateways)) == NETWORKS
    label = {"label": spec.HOLD}
    assert len(sessions.client.networks.list(filters=label)) == NETWORKS
    for hold_id in holds:
        calls.call("DELETE", f"/networks/{spec.network_name(hold_id)}")
    assert sessions.client.networks.list(filters=label) == []
    assert "address pools hold 4096 sessions" in site.log("commons-engine-helper")


def test_the_helpers_user_is_not_root(site: ContainerSite) -> None:
    assert site.helper.stat().st_uid == HELPER_ID


def test_no_engine_without_root_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NoEngine, match="root"):
        Engine().start()
