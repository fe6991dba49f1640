"""The hub's pages with the real quota service behind them: what the chooser quotes is what is held, what the tab adjusts is written."""

from __future__ import annotations

import json
import uuid
from typing import Any, cast

import httpx
import pytest

from tests.integration.hub_process import Browser, HubProcess, text_of
from tests.people import Person
from tests.portal import Portal
from tests.world import awarded_project

HOUR_MS = 3_600_000


def browser(portal: Portal, user: str, language: str = "en") -> Browser:
    return Browser(cast(HubProcess, portal), user, language).sign_in()


@pytest.fixture
async def project(portal: Portal) -> str:
    async with Person(portal, "pi") as pi, Person(portal, "admin") as admin:
        return await awarded_project(pi, admin, gpu_hours="10", tokens=1000)


async def balance(portal: Portal, project: str) -> dict[str, Any]:
    async with Person(portal, "pi") as pi:
        status, answer = await pi.api("GET", f"/projects/{project}")
    assert status == 200, answer
    return next(dict(one) for one in answer["balances"] if one["unit"] == "gpu_ms")


async def test_what_is_quoted_is_what_is_held_and_too_much_is_refused_alike(portal: Portal, project: str) -> None:
    pi = browser(portal, "pi")
    options = {"project": project, "profile": "gpu1", "application": "lab", "runtime_s": 7200}
    query = "&".join(f"{name}={value}" for name, value in options.items())
    quoted = pi.relay("GET", f"/quote/pi?{query}").json()
    assert quoted["can_start"]
    assert quoted["text"] in text_of(pi.http.get(f"/hub/spawn?{query}").text)

    much = {**options, "runtime_s": 43_200}
    refused = pi.relay("GET", "/quote/pi?" + "&".join(f"{name}={value}" for name, value in much.items())).json()
    assert not refused["can_start"]
    assert refused["fits_runtime_s"] == 10 * 3600 - 120
    answer = pi.start(much)
    assert answer.status_code == 402
    assert refused["reason"] in answer.json()["message"]
    assert f"Start for {refused['fits']} instead" in answer.json()["message"]
    assert (await balance(portal, project))["held"] == 0

    assert pi.start(options).status_code in (201, 202)
    pi.ready()
    now = await balance(portal, project)
    assert now["held"] + now["charged"] == 7320 * 1000
    pi.stop()


async def test_past_its_courses_end_no_session_starts_on_an_allocation(portal: Portal, project: str) -> None:
    pi, credential = browser(portal, "pi"), {"Authorization": f"Bearer {portal.secret('hub_credential')}"}
    options = {"project": project, "profile": "cpu", "application": "lab", "runtime_s": 600}
    dates = {"starts_at": "2026-01-01 09:00", "ends_at": "2036-01-01 09:00", "zone": "Europe/Berlin"}
    course = {"actor": "pi", "project_id": project, "title": "Machine learning", **dates}
    internal = (
        f"http://127.0.0.1:{json.loads((portal.data / 'ports.json').read_text())['quota']}/services/quota/api/internal"
    )
    async with httpx.AsyncClient(headers=credential, trust_env=False, timeout=60) as hub:
        made = await hub.put(f"{internal}/courses/ml-101", json=course)
        assert made.status_code == 201, made.text
        assert pi.start(options).status_code in (201, 202)
        pi.ready()
        pi.stop()
        ended = await hub.post(f"{internal}/courses/ml-101/retire", json={"actor": "pi"})
        assert ended.status_code == 200, ended.text
    before = await balance(portal, project)
    refused = pi.start(options)
    assert refused.status_code == 403, refused.text
    assert "Machine learning ended at" in refused.json()["message"]
    asked = pi.choose(options)
    assert asked.status_code == 403, asked.text[:2000]
    assert "Machine learning ended at" in text_of(asked.text)
    assert await balance(portal, project) == before


async def test_an_adjustment_in_the_tab_stands_in_the_statement_once(portal: Portal, project: str) -> None:
    admin = browser(portal, "admin")
    shown = admin.relay("GET", f"/admin/projects/{project}").json()
    allocation = next(one for one in shown["allocations"] if one["unit"] == "gpu_ms")
    body = {"allocation_id": allocation["allocation_id"], "delta": 2 * HOUR_MS, "reason": "Outage on 18 November"}
    path = f"/admin/adjustments/{uuid.uuid4().hex}"
    assert [admin.relay("PUT", path, body).status_code for _ in range(2)] == [201, 200]
    assert (await balance(portal, project))["awarded"] == 12 * HOUR_MS
    async with Person(portal, "pi") as pi:
        _, statement = await pi.api("GET", f"/projects/{project}/statement")
    (line,) = [one for one in statement["lines"] if one["reason"] == body["reason"]]
    assert (line["who"], line["delta_awarded"]) == ("admin", 2 * HOUR_MS)


async def test_nonsense_in_the_tab_is_a_4xx_in_words_and_changes_nothing(portal: Portal, project: str) -> None:
    admin = browser(portal, "admin", "zh-CN")
    shown = admin.relay("GET", f"/admin/projects/{project}").json()
    allocation = next(one for one in shown["allocations"] if one["unit"] == "gpu_ms")["allocation_id"]
    good = {"allocation_id": allocation, "delta": HOUR_MS, "reason": "because"}
    wrong: list[dict[str, object]] = [
        {**good, "delta": 0}, {**good, "delta": "1"}, {**good, "delta": 1.5}, {**good, "delta": True}, {**good, "delta": 2**70},
        {**good, "reason": ""}, {**good, "reason": "x"}, {**good, "reason": "x" * 501}, {**good, "reason": None},
        {**good, "allocation_id": "no-such-allocation"}, {"delta": 1}, {}, {**good, "delta": -1000 * HOUR_MS},
    ]  # fmt: skip
    before = await balance(portal, project)
    for body in wrong:
        answer = admin.relay("PUT", f"/admin/adjustments/{uuid.uuid4().hex}", body)
        assert 400 <= answer.status_code < 500, (body, answer.text)
        assert answer.json()["error"]["message"]
    assert await balance(portal, project) == before


async def test_the_session_cookie_alone_opens_no_relay_from_another_page(portal: Portal) -> None:
    admin = browser(portal, "admin")
    answer = admin.http.get(
        "/hub/commons/admin/projects", headers={"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors"}
    )
    assert answer.status_code == 403
