"""The API over fakes: who may ask, statuses, languages, the one shape."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from quota.api.app import build_api
from quota.api.errors import STATUS
from quota.api.front import AccessLog, Front
from quota.api.principals import Parts
from quota.domain.errors import RefusalCode
from quota.domain.ids import ProjectId
from quota.service.callers import Power
from quota.service.meter import Meter
from tests.fakes import FakeIntrospection, World, world

HOUR = 3_600_000
CREDENTIAL = "credential-of-the-hub-in-tests"
ROOT = "/services/quota/api"


@dataclass
class Api:
    """The app over a fake world, and ways to call it."""

    w: World = field(default_factory=world)
    introspection: FakeIntrospection = field(default_factory=FakeIntrospection)

    def __post_init__(self) -> None:
        parts = Parts(self.w.services, Meter(self.w.services), self.introspection, CREDENTIAL)
        app = AccessLog(Front({ROOT: build_api(parts)}))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://portal" + ROOT)

    async def hub(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        return await self.client.request(
            method, path, json=body, headers={"Authorization": f"Bearer {CREDENTIAL}", **headers}
        )

    async def person(
        self, who: str, method: str, path: str, body: object = None, *powers: Power, **headers: str
    ) -> httpx.Response:
        self.w.person(who)
        token = self.introspection.token(who, Power.READ, Power.WRITE, *powers)
        return await self.client.request(
            method, path, json=body, headers={"Authorization": f"token {token}", **headers}
        )


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    one = Api()
    yield one
    await one.client.aclose()


def error(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, whose shape and status it checks."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "next", "params"}
    assert STATUS[body["error"]["code"]] == response.status_code
    found: dict[str, Any] = body["error"]
    return found


def hold_body(project: ProjectId, **changes: object) -> dict[str, object]:
    body = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu1", "application": "lab"}
    return {**body, "runtime_s": 7200, "server_name": "", **changes}


async def test_health_is_for_everybody_and_says_when_the_store_is_down(api: Api) -> None:
    assert (await api.client.get("/health")).json() == {"status": "ok"}
    api.w.store.down = True
    response = await api.client.get("/health")
    assert error(response)["code"] == "unavailable"
    assert int(response.headers["retry-after"]) > 0


async def test_the_description_names_every_route(api: Api) -> None:
    described = (await api.client.get("/openapi.json")).json()
    assert {"/health", "/me", "/internal/holds/{hold_id}", "/projects/{project_id}/statement"} <= set(
        described["paths"]
    )


def test_every_refusal_has_a_status() -> None:
    assert {code.value for code in RefusalCode} <= set(STATUS)


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"token {CREDENTIAL}", f"Basic {CREDENTIAL}", "Bearer", "Bearer é"]
)
async def test_internal_routes_open_to_the_hubs_credential_only(api: Api, header: str | None) -> None:
    headers = {"Authorization": header.encode()} if header is not None else {}
    response = await api.client.post("/internal/reconcile", headers=headers)  # type: ignore[arg-type]
    assert error(response)["code"] == "not_signed_in"
    assert response.headers["www-authenticate"] == "Bearer"


async def test_a_persons_token_opens_no_internal_route(api: Api) -> None:
    response = await api.person("root", "POST", "/internal/reconcile", None, Power.ADMIN)
    assert error(response)["code"] == "not_signed_in"


async def test_the_hubs_credential_is_nobody_on_peoples_routes(api: Api) -> None:
    assert error(await api.hub("GET", "/me"))["code"] == "not_signed_in"


async def test_a_token_without_access_to_the_service_is_forbidden(api: Api) -> None:
    api.w.person("pi")
    token = api.introspection.token("pi", Power.READ, access=False)
    response = await api.client.get("/me", headers={"Authorization": f"Bearer {token}"})
    assert error(response)["code"] == "forbidden"


async def test_reading_needs_the_scope_to_read(api: Api) -> None:
    api.w.person("pi")
    token = api.introspection.token("pi")
    response = await api.client.get("/projects", headers={"Authorization": f"Bearer {token}"})
    assert error(response)["code"] == "forbidden"


async def test_a_hub_that_does_not_answer_is_an_outage_and_not_a_stranger(api: Api) -> None:
    api.introspection.down = True
    response = await api.person("pi", "GET", "/me")
    assert error(response)["code"] == "unavailable"
    assert "retry-after" in response.headers


async def test_somebody_the_hub_has_not_named_yet_is_told_to_wait(api: Api) -> None:
    token = api.introspection.token("newcomer", Power.READ)
    response = await api.client.get("/me", headers={"Authorization": f"Bearer {token}"})
    assert error(response)["code"] == "identity_pending"


async def test_deciding_asks_the_hub_afresh(api: Api) -> None:
    body = {"decision": "reject", "message": "No room"}
    response = await api.person("chair", "POST", "/applications/nowhere-0001/decision", body, Power.DECIDE)
    assert error(response)["code"] == "unknown_application"
    assert api.introspection.fresh[-1] is True


async def test_registering_twice_keeps_the_person_and_a_taken_hub_name_is_a_conflict(api: Api) -> None:
    body = {"issuer": "urn:x", "subject": "1", "display_name": "Ada", "email": None, "language": "zh-CN"}
    first = await api.hub("PUT", "/internal/people/ada", body)
    again = await api.hub("PUT", "/internal/people/ada", body)
    assert first.status_code == 200
    assert first.json() == again.json()
    assert error(await api.hub("PUT", "/internal/people/ada", {**body, "subject": "2"}))["code"] == "id_conflict"
    assert next(iter(api.w.books.people.values())).language == "zh"


async def test_quote_and_hold_come_from_one_function(api: Api) -> None:
    project = api.w.project(api.w.person("pi"), gpu_ms=10 * HOUR)
    quote_body = {"actor": "pi", "project_id": project, "profile": "gpu1", "runtime_s": 7200}
    quoted = (await api.hub("POST", "/internal/quotes", quote_body)).json()
    held = await api.hub("PUT", "/internal/holds/hold-0001", hold_body(project))
    line = "1 GPU × 2 h + 2 min margin = 2.03 GPU-h held; unused returns; leaves 7.97 GPU-h"
    assert quoted["refusal"] is None
    assert quoted["quote"]["rate"] == "1"
    assert quoted["quote"]["text"] == held.json()["text"] == line
    assert (held.status_code, held.json()["amount"]) == (201, quoted["quote"]["amount"])
    assert (await api.hub("PUT", "/internal/holds/hold-0001", hold_body(project))).status_code == 200


async def test_a_refused_hold_is_payment_required_with_what_fits_in_the_readers_language(api: Api) -> None:
    project = api.w.project(api.w.person("pi"), gpu_ms=4_320_000)
    refused = error(await api.hub("PUT", "/internal/holds/hold-0001", hold_body(project)))
    assert refused["code"] == "insufficient_balance"
    assert refused["params"]["fits_runtime_s"] == 4200
    assert refused["next"] == "Choose at most 1 h 10 min, or ask the PI for more."


async def test_the_same_hold_with_another_body_is_a_conflict(api: Api) -> None:
    project = api.w.project(api.w.person("pi"), gpu_ms=10 * HOUR)
    await api.hub("PUT", "/internal/holds/hold-0001", hold_body(project))
    response = await api.hub("PUT", "/internal/holds/hold-0001", hold_body(project, runtime_s=60))
    assert error(response)["code"] == "id_conflict"


async def test_a_hint_is_taken_and_answered_with_the_state(api: Api) -> None:
    project = api.w.project(api.w.person("pi"), gpu_ms=10 * HOUR)
    await api.hub("PUT", "/internal/holds/hold-0001", hold_body(project))
    response = await api.hub("POST", "/internal/holds/hold-0001/ended", {"reason": "stopped"})
    assert (response.status_code, response.json()) == (202, {"state": "stopping"})
    assert error(await api.hub("POST", "/internal/holds/hold-0002/ended", {"reason": "x"}))["code"] == "unknown_hold"


async def test_the_relay_names_the_acting_admin(api: Api) -> None:
    api.w.project(api.w.person("pi"), gpu_ms=HOUR)
    api.w.person("root")
    found = await api.hub("GET", "/internal/admin/projects?search=proj", **{"X-Commons-Actor": "root"})
    assert [row["slug"] for row in found.json()["projects"]] == ["project-1"]
    assert error(await api.hub("GET", "/internal/admin/projects"))["code"] == "invalid_request"
    stranger = await api.hub("GET", "/internal/admin/projects", **{"X-Commons-Actor": "nobody"})
    assert error(stranger)["code"] == "unknown_person"


async def test_an_adjustment_shows_before_and_after_and_refuses_what_is_held(api: Api) -> None:
    project = api.w.project(api.w.person("pi"), gpu_ms=HOUR)
    api.w.person("root")
    body = {"actor": "root", "allocation_id": f"{project}-gpu", "delta": HOUR, "reason": "A supplement"}
    done = await api.hub("PUT", "/internal/admin/adjustments/adjust-0001", body)
    assert done.status_code == 201
    assert (done.json()["before"]["awarded"], done.json()["after"]["awarded"]) == (HOUR, 2 * HOUR)
    assert (await api.hub("PUT", "/internal/admin/adjustments/adjust-0001", body)).status_code == 200
    too_much = await api.hub("PUT", "/internal/admin/adjustments/adjust-0002", {**body, "delta": -3 * HOUR})
    assert error(too_much)["code"] == "would_take_back_used"


async def test_an_application_is_submitted_decided_and_read(api: Api) -> None:
    body = {"title": "Folding", "purpose": "We fold proteins.", "gpu_hours": "500", "tokens": 10}
    dates = {"starts_on": "2026-03-02", "ends_on": "2027-03-02"}
    made = await api.person("pi", "PUT", "/applications/application-1", {**body, **dates})
    assert (made.status_code, made.json()["gpu_ms"]) == (201, 500 * HOUR)
    decision = {"decision": "approve", "gpu_hours": 0.5, "tokens": 5, "message": "Less"}
    path = "/applications/application-1/decision"
    assert error(await api.person("pi", "POST", path, decision, Power.DECIDE))["code"] == "own_application"
    assert error(await api.person("other", "POST", path, decision))["code"] == "forbidden"
    done = await api.person("chair", "POST", path, decision, Power.DECIDE)
    assert done.json()["awarded_gpu_ms"] == HOUR // 2
    projects = (await api.person("pi", "GET", "/projects")).json()["projects"]
    assert [row["role"] for row in projects] == ["pi"]


async def test_errors_are_read_in_the_readers_language(api: Api) -> None:
    english = error(await api.client.get("/nowhere", headers={"Accept-Language": "en"}))
    chinese = error(await api.client.get("/nowhere", headers={"Accept-Language": "zh-CN"}))
    assert english["code"] == chinese["code"] == "unknown_route"
    assert english["message"].isascii()
    assert not chinese["message"].isascii()


async def test_without_a_wish_of_the_browser_the_persons_own_language_is_read(api: Api) -> None:
    body = {"issuer": "urn:test", "subject": "li", "display_name": "Li", "language": "zh"}
    await api.hub("PUT", "/internal/people/li", body)
    token = api.introspection.token("li", Power.READ)
    response = await api.client.get("/projects/nowhere-0001", headers={"Authorization": f"token {token}"})
    assert not error(response)["message"].isascii()


async def test_wrong_methods_and_addresses_keep_the_one_shape(api: Api) -> None:
    response = await api.client.delete("/health")
    assert error(response)["code"] == "method_not_allowed"
    assert "allow" in response.headers
    assert error(await api.client.get("/projects/"))["code"] == "unknown_route"


async def test_an_accident_is_a_500_with_an_incident_and_without_its_reason(api: Api) -> None:
    api.w.books.sessions = None  # type: ignore[assignment]
    response = await api.person("pi", "GET", "/sessions")
    found = error(response)
    assert found["code"] == "internal"
    assert found["params"]["incident"] in found["next"]
    assert "NoneType" not in response.text


async def test_the_access_log_carries_no_query_and_no_secret(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="quota.access")
    await api.client.get("/health?token=hush", headers={"Authorization": "Bearer hush"})
    assert "GET /services/quota/api/health 200" in caplog.text
    assert "hush" not in caplog.text


def test_parts_show_no_secret(api: Api) -> None:
    parts = Parts(api.w.services, Meter(api.w.services), api.introspection, CREDENTIAL)
    assert CREDENTIAL not in repr(parts)
    assert "secret-of-the-tests" not in repr(parts)
