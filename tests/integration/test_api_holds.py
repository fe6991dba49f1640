"""Holds of requests and batches of holds over HTTP, on the real ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quota.domain.ids import ProjectId, new_id
from tests.integration.course_exchange import make_course
from tests.integration.quota_service import Service, running_service
from tests.waiting import PATIENCE_S, eventually

BATCH = "/internal/holds:batch"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(tmp_path) as one:
        yield one


def request_hold(project: str, **changes: object) -> dict[str, object]:
    body = {"kind": "request", "actor": "pi", "project_id": project, "model": "tiny", "tokens": 100, "lease_s": 60}
    return {**body, **changes}


def session_hold(project: str, **changes: object) -> dict[str, object]:
    body = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu1", "application": "lab"}
    return {**body, "runtime_s": 60, "server_name": "", **changes}


async def tokens(service: Service, project: str) -> tuple[int, int]:
    answer = await service.person(service.token("pi"), "GET", f"/projects/{project}")
    found = next(one for one in answer.json()["balances"] if one["unit"] == "tokens")
    return found["charged"], found["held"]


async def test_a_requests_tokens_are_held_once_and_charged_once(service: Service) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=1000)
    path = "/internal/request-holds/request-0001"
    held = [await service.hub("PUT", path, request_hold(project)) for _ in range(2)]
    assert [one.status_code for one in held] == [201, 200]
    assert held[0].json() == held[1].json()
    assert await tokens(service, project) == (0, 100)
    assert (await service.hub("PUT", path, request_hold(project, tokens=99))).status_code == 409
    settled = [await service.hub("POST", f"{path}/settle", {"tokens": 60}) for _ in range(2)]
    assert [one.status_code for one in settled] == [200, 200]
    assert settled[0].json()["state"] == "settled"
    assert await tokens(service, project) == (60, 0)
    assert (await service.hub("POST", f"{path}/settle", {"tokens": 61})).status_code == 409
    assert (await service.hub("POST", "/internal/request-holds/request-none/settle", {"tokens": 1})).status_code == 404
    assert service.verified() == []


async def test_a_sessions_hold_says_which_course_pays_and_whether_its_owner_teaches_any(service: Service) -> None:
    """Somebody may be student in one course and instructor of another, until that is over."""
    physics = await service.award("pi", gpu_hours="10", tokens=0)
    await make_course(service, physics, ["ann"])
    art = await service.award("ann", gpu_hours="1", tokens=0, name="application-0002")
    number = iter(range(9))

    async def said(actor: str) -> tuple[object, object]:
        body = session_hold(physics, actor=actor, server_name=(name := f"s-{next(number)}"))
        held = (await service.hub("PUT", f"/internal/holds/hold-000{name[2:]}", body)).json()
        return held["course"], held["teaches"]

    assert [await said(one) for one in ("pi", "grader", "ann")] == [
        ("physics", True),
        ("physics", True),
        ("physics", False),
    ]
    await make_course(service, art, [], slug="art")
    assert await said("ann") == ("physics", True)
    await service.services.store.write(lambda tx: tx.courses.retire(ProjectId(art), service.clock.now()))
    assert await said("ann") == ("physics", False)


async def test_a_sessions_hold_is_settled_by_its_evidence_only(service: Service) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=0)
    assert (await service.hub("PUT", "/internal/holds/hold-0001", session_hold(project))).status_code == 201
    answer = await service.hub("POST", "/internal/request-holds/hold-0001/settle", {"tokens": 0})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "wrong_state")


async def test_each_entry_of_a_batch_is_answered_as_if_it_came_alone(service: Service) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=250)
    await service.register("stranger")
    alone = await service.hub("PUT", "/internal/request-holds/request-0001", request_hold(project))
    entries: list[dict[str, Any]] = [
        {"hold_id": "request-0001", **request_hold(project)},  # a replay
        {"hold_id": "request-0001", **request_hold(project, tokens=7)},  # another body
        {"hold_id": "request-0002", **request_hold(project)},
        {"hold_id": "request-0003", **request_hold(project, actor="stranger")},
        {"hold_id": "request-0004", **request_hold(project, tokens="7")},
        {"hold_id": "request-0005", **request_hold(project, kind="other")},
        {"hold_id": "X", **request_hold(project)},
        {"hold_id": "session-0001", **session_hold(project)},
        {"hold_id": "session-0002", **session_hold(project, runtime_s=7200)},
        {**request_hold(project)},
    ]
    answers = (await service.hub("POST", BATCH, {"holds": entries})).json()["holds"]
    assert [one["status"] for one in answers] == [200, 409, 201, 403, 400, 400, 400, 201, 402, 400]
    assert answers[0]["hold"] == alone.json()
    assert [one["hold_id"] for one in answers] == [entry.get("hold_id") for entry in entries]
    assert answers[4]["error"]["params"]["fields"][0]["field"] == "tokens"
    for entry, answer in zip(entries[:9], answers, strict=False):
        kind = "request-holds" if entry["kind"] != "session" else "holds"
        body = {key: value for key, value in entry.items() if key != "hold_id"}
        again = await service.hub("PUT", f"/internal/{kind}/{entry['hold_id']}", body)
        if "error" in answer:
            assert (again.status_code, again.json()["error"]["code"]) == (answer["status"], answer["error"]["code"])
        else:
            assert (again.status_code, again.json()) == (200, answer["hold"])
    assert await tokens(service, project) == (0, 200)
    assert service.verified() == []


async def test_a_batch_never_holds_more_than_there_is(service: Service) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=1050)
    entries = [{"hold_id": f"request-{number:04}", **request_hold(project)} for number in range(40)]
    for _ in range(2):  # refusals are stored: the second time the same are refused
        answers = (await service.hub("POST", BATCH, {"holds": entries})).json()["holds"]
        assert sum("hold" in one for one in answers) == 10
        assert {one["error"]["code"] for one in answers if "error" in one} == {"insufficient_balance"}
    assert await tokens(service, project) == (0, 1000)
    assert service.verified() == []


async def test_a_member_who_is_removed_gets_no_more_holds_a_second_later(service: Service) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=1000)
    await service.register("member")
    pi = service.token("pi")
    await service.person(pi, "PUT", f"/projects/{project}/members/member", {"role": "member"})
    order = request_hold(project, actor="member")
    assert (await service.hub("PUT", "/internal/request-holds/request-0001", order)).status_code == 201
    await service.person(pi, "DELETE", f"/projects/{project}/members/member")

    async def refused() -> bool:
        answer = await service.hub("PUT", f"/internal/request-holds/{new_id()}", order)
        return answer.status_code == 403 and answer.json()["error"]["code"] == "not_a_member"

    await eventually(refused, within_s=PATIENCE_S, what="the hold is refused", every_s=0.1)
