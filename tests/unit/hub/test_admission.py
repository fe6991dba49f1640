"""A start's hold: minted before it is asked for, refused in words, given back when nothing starts. The fake sits at the wire."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from hub import admission, settings
from hub.admission import QuotaExceeded, post_stop_hook, pre_spawn_hook, refusal, session_environment
from hub.people import People
from hub.rescue import Rescue
from hub.turns import Turns
from quota.client import Held, QuotaClient, Refused
from spawners.profiles import Profiles
from spawners.resources import ResourceRequest

REQUEST = ResourceRequest("p1", "gpu1", "lab", 14_400)


class Wire:
    """Places every hold, or does what `answers` says, call by call."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, str, Any]] = []
        self.slow: asyncio.Event | None = None
        self.asked, self.hinted = asyncio.Event(), asyncio.Event()

    async def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/services/quota/api/internal")
        self.calls.append((request.method, path, json.loads(request.content)))
        (self.hinted if path.endswith("/ended") else self.asked).set()
        if self.slow is not None and request.method == "PUT":
            await self.slow.wait()
        status = self.answers.pop(0) if self.answers else 200
        if status == 404:
            return httpx.Response(404, json={"error": {"code": "unknown_person", "message": "Who?"}})
        if status == 402:
            error = {"code": "insufficient_balance", "message": "Too much.", "next": "Less.", "params": {}}
            return httpx.Response(402, json={"error": error})
        if status >= 500:
            return httpx.Response(status, json={})
        held = {
            "hold_id": path.split("/")[2], "state": "held", "allocation_id": "a", "amount": 1, "runtime_s": 14_400, "margin_s": 120,
            "gateway_key": "the-key", "gateway_path": "services/gateway/v1", "text": "",
            "login": "cc-20001", "uid": 20001,
        }  # fmt: skip
        return httpx.Response(200, json=held)

    def client(self) -> QuotaClient:
        return QuotaClient("http://q", "c", transport=httpx.MockTransport(self.answer))

    def paths(self, method: str) -> list[str]:
        return [path for done, path, _ in self.calls if done == method]


class User:
    name = "pi"
    escaped_name = "pi"

    async def get_auth_state(self) -> dict[str, str]:
        return {"issuer": "urn:commons:demo", "subject": "pi"}


class Hub:
    base_url = "/hub/"


class Spawner:
    """What the hooks read and set of a dispatcher."""

    name = "s-1"
    user = User()
    hub = Hub()
    handler = None
    _log_name = "pi:s-1"

    def __init__(self) -> None:
        self.hold_id = ""
        self.session_environment: dict[str, str] = {}
        self.login, self.uid = "", 0
        self.resource_request = REQUEST


@pytest.fixture
def site(environment: dict[str, str], catalogue: Profiles) -> settings.Settings:
    return replace(settings.read(environment), profiles=catalogue)


def start_hook(wire: Wire, site: settings.Settings) -> admission.Hook:
    client = wire.client()
    return pre_spawn_hook(client, People(client), site, Rescue(client, site.data / "rescue.sqlite"), Turns())


async def test_the_id_is_kept_before_the_hold_is_asked_for(site: settings.Settings) -> None:
    wire, spawner = Wire(), Spawner()
    await start_hook(wire, site)(spawner)
    assert wire.paths("PUT") == [f"/holds/{spawner.hold_id}"]
    assert len(spawner.hold_id) == 32
    assert wire.calls[0][2] == {
        "kind": "session", "actor": "pi", "project_id": "p1", "profile": "gpu1", "application": "lab", "runtime_s": 14_400, "server_name": "s-1",
    }  # fmt: skip


async def test_a_session_runs_under_the_login_and_uid_that_came_with_its_hold(site: settings.Settings) -> None:
    spawner = Spawner()
    await start_hook(Wire(), site)(spawner)
    assert (spawner.login, spawner.uid) == ("cc-20001", 20001)


async def test_the_sessions_key_and_gateway_come_with_the_hold(site: settings.Settings) -> None:
    spawner = Spawner()
    await start_hook(Wire(), site)(spawner)
    assert spawner.session_environment == {
        "OPENAI_BASE_URL": "http://127.0.0.1:8000/services/gateway/v1",
        "OPENAI_API_BASE": "http://127.0.0.1:8000/services/gateway/v1",
        "OPENAI_API_KEY": "the-key",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:8000/services/gateway",
        "ANTHROPIC_API_KEY": "the-key",
        "COMMONS_PROJECT": "p1",
        "COMMONS_HOLD_ID": spawner.hold_id,
        "COMMONS_PROFILE": "gpu1",
        "COMMONS_RUNTIME_S": "14400",
        "COMMONS_PUBLIC_URL": "http://127.0.0.1:8000/",
        "COMMONS_SIMULATED_GPUS": "1",
    }


def test_real_gpus_are_not_called_simulated(catalogue: Profiles) -> None:
    held = Held("h", "a", 1, 60, 120, "k", "services/gateway/v1", "", "cc-20001", 20001)
    assert "COMMONS_SIMULATED_GPUS" not in session_environment(held, REQUEST, catalogue.get("cpu"), "http://x/")


def test_a_course_and_whether_its_owner_teaches_go_along(catalogue: Profiles) -> None:
    held = Held("h", "a", 1, 60, 120, "k", "services/gateway/v1", "", "cc-20001", 20001, "ml", teaches=True)
    given = session_environment(held, REQUEST, catalogue.get("cpu"), "http://x/")
    assert (given["COMMONS_COURSE"], given["COMMONS_TEACHES"]) == ("ml", "1")
    student = session_environment(replace(held, teaches=False), REQUEST, catalogue.get("cpu"), "http://x/")
    assert "COMMONS_TEACHES" not in student


async def test_a_start_that_is_tried_again_keeps_its_id_and_a_new_one_gets_another(site: settings.Settings) -> None:
    wire, spawner, other = Wire(), Spawner(), Spawner()
    hook = start_hook(wire, site)
    await hook(spawner)
    first = spawner.hold_id
    await hook(spawner)
    await hook(other)
    assert wire.paths("PUT") == [f"/holds/{first}", f"/holds/{first}", f"/holds/{other.hold_id}"]
    assert first != other.hold_id


async def test_an_outage_refuses_and_leaves_the_id_for_the_hint(site: settings.Settings) -> None:
    wire, spawner = Wire(503, 503), Spawner()
    with pytest.raises(QuotaExceeded) as refused:
        await start_hook(wire, site)(spawner)
    assert refused.value.status_code == 503
    assert "nothing was started" in refused.value.message
    assert spawner.session_environment == {}
    await post_stop_hook(wire.client())(spawner)
    assert wire.calls[-1][:2] == ("POST", f"/holds/{spawner.hold_id}/ended")


async def test_somebody_whom_the_service_forgot_is_told_again_and_asked_for_again(site: settings.Settings) -> None:
    wire, spawner = Wire(404), Spawner()
    await start_hook(wire, site)(spawner)
    first, person, second = wire.paths("PUT")
    assert person == "/people/pi"
    assert first != second  # a refusal is kept under its id
    assert spawner.session_environment


async def test_a_refusal_is_no_session(site: settings.Settings) -> None:
    spawner = Spawner()
    with pytest.raises(QuotaExceeded) as refused:
        await start_hook(Wire(402), site)(spawner)
    assert (refused.value.status_code, refused.value.reason) == (402, "insufficient_balance")
    assert spawner.session_environment == {}


def test_a_refusal_says_what_why_and_what_next_on_every_page() -> None:
    said = Refused(402, "insufficient_balance", "It needs <b>4</b>.", "Ask & wait.", {"fits_runtime_s": 4800})
    error = refusal(said, REQUEST, "/hub/spawn/pi", "en")
    assert error.message == error.jupyterhub_message
    assert error.message == "It needs <b>4</b>. Ask & wait. Start for 1 h 20 min instead"
    assert error.message_html == error.jupyterhub_html_message
    assert "&lt;b&gt;4&lt;/b&gt;" in error.message_html
    assert "<b>" not in error.message_html
    assert (
        'href="/hub/spawn/pi?project=p1&amp;profile=gpu1&amp;application=lab&amp;runtime_s=4800"' in error.message_html
    )


@pytest.mark.parametrize("fits", [0, None, 14_400, 20_000, -1])
def test_nothing_shorter_is_offered_where_nothing_shorter_fits(fits: object) -> None:
    said = Refused(402, "insufficient_balance", "Too much.", params={"fits_runtime_s": fits})
    assert refusal(said, REQUEST, "/hub/spawn/pi", "en").message == "Too much."


async def test_the_hint_is_harmless_without_a_hold_and_while_the_service_is_down() -> None:
    wire, spawner = Wire(503, 404), Spawner()
    hint = post_stop_hook(wire.client())
    await hint(spawner)
    assert wire.calls == []
    spawner.hold_id = "h1"
    await hint(spawner)
    await hint(spawner)
    assert wire.paths("POST") == ["/holds/h1/ended"] * 2


async def test_a_start_cancelled_while_its_hold_is_placed_gives_the_hold_back(site: settings.Settings) -> None:
    wire, spawner = Wire(), Spawner()
    wire.slow = asyncio.Event()
    starting = asyncio.ensure_future(start_hook(wire, site)(spawner))
    await wire.asked.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    wire.slow.set()
    async with asyncio.timeout(60):
        await wire.hinted.wait()
    assert wire.calls[-1] == ("POST", f"/holds/{spawner.hold_id}/ended", {"reason": "cancelled"})


async def test_while_nobody_can_be_asked_a_rescue_session_starts_journalled_and_nothing_else_does(
    site: settings.Settings, catalogue: Profiles
) -> None:
    rescue = replace(catalogue.get("cpu") or next(iter(catalogue)), id="rescue", rescue=True, longest_runtime_s=7200)
    site = replace(site, profiles=Profiles((*catalogue, rescue)))
    wire, spawner = Wire(), Spawner()
    await start_hook(wire, site)(spawner)  # accepted: from now on this person is known on p1
    wire.answers = [503] * 9
    spawner = Spawner()
    spawner.resource_request = replace(REQUEST, profile="rescue", runtime_s=3600)
    await start_hook(wire, site)(spawner)
    assert (spawner.login, spawner.uid) == ("cc-20001", 20001)
    assert spawner.session_environment["COMMONS_HOLD_ID"] == spawner.hold_id
    assert "OPENAI_API_KEY" not in spawner.session_environment
    longer = Spawner()
    longer.resource_request = replace(REQUEST, profile="rescue", runtime_s=7200)
    with pytest.raises(QuotaExceeded) as used_up:
        await start_hook(wire, site)(longer)
    assert used_up.value.reason == "rescue_used_up"
    with pytest.raises(QuotaExceeded) as away:
        await start_hook(wire, site)(Spawner())
    assert away.value.reason == "quota_unavailable"
