"""The whole way of an award over the real API and ledger, in exact integers."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from quota.service.callers import Power
from tests.fakes import START
from tests.integration.quota_service import HOUR, Service, running_service

START_MS = int(START.timestamp() * 1000)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(tmp_path) as one:
        yield one


async def test_from_application_to_statement_every_integer_is_exact(service: Service) -> None:
    await service.register("pi", "researcher", "chair", "admin")
    project = await _awarded_less_than_asked(service)
    joined = await service.person(
        service.token("pi"), "PUT", f"/projects/{project}/members/researcher", {"role": "member"}
    )
    assert joined.status_code == 201
    await _quoted_and_held(service, project)
    await _metered_while_it_runs(service)
    used = await _settled_by_the_hubs_hint(service)
    gpu, tokens = (await service.person(service.token("pi"), "GET", f"/projects/{project}")).json()["balances"]
    whole = {"unit": "gpu_ms", "awarded": 10 * HOUR, "charged": used, "held": 0, "available": 10 * HOUR - used}
    assert (gpu, tokens["awarded"]) == (whole, 5000)
    await _stated_line_by_line(service, project, used)
    assert service.verified() == []


async def _awarded_less_than_asked(service: Service) -> str:
    ask = {"title": "Folding", "purpose": "We fold proteins.", "gpu_hours": "500", "tokens": 1_000_000}
    dates = {"starts_on": "2026-03-02", "ends_on": "2026-12-31"}
    made = await service.person(service.token("pi"), "PUT", "/applications/application-0001", {**ask, **dates})
    assert made.status_code == 201
    decision = {"decision": "approve", "gpu_hours": "10", "tokens": 5000, "message": "A start"}
    chair = service.token("chair", Power.DECIDE)
    done = await service.person(chair, "POST", "/applications/application-0001/decision", decision)
    assert (done.json()["gpu_ms"], done.json()["awarded_gpu_ms"]) == (500 * HOUR, 10 * HOUR)
    return str(done.json()["project_id"])


async def _quoted_and_held(service: Service, project: str) -> None:
    payers = (await service.hub("GET", "/internal/people/researcher/payers")).json()["payers"]
    assert [(row["project_id"], row["can_start"], row["gpu_ms"]["available"]) for row in payers] == [
        (project, True, 10 * HOUR)
    ]
    start = {"actor": "researcher", "project_id": project, "profile": "gpu1", "runtime_s": 7200}
    quote = (await service.hub("POST", "/internal/quotes", start)).json()["quote"]
    assert (quote["amount"], quote["leaves"]) == (7_320_000, 28_680_000)
    assert quote["text"] == "1 GPU × 2 h + 2 min margin = 2.03 GPU-h held; unused returns; leaves 7.97 GPU-h"
    order = {**start, "kind": "session", "application": "lab", "server_name": ""}
    held = [await service.hub("PUT", "/internal/holds/hold-0001", order) for _ in range(2)]
    assert [one.status_code for one in held] == [201, 200]
    assert held[0].json() == held[1].json()


async def _metered_while_it_runs(service: Service) -> None:
    """Three passes, one of them without news."""
    service.hub_api.runs("researcher", "")
    for alive_ms, passes in ((10_500, 1), (61_250, 2)):
        service.clock.tick(60)
        service.runner_wrote("hold-0001", started_at_ms=START_MS + 500, last_alive_ms=START_MS + alive_ms)
        for _ in range(passes):
            report = (await service.hub("POST", "/internal/reconcile")).json()
            assert report == {"open_session_holds": 1, "settled": 0, "released": 0, "unknown": 0}
    row = (await service.person(service.token("researcher"), "GET", "/sessions")).json()["sessions"][0]
    assert (row["state"], row["charged"], row["amount"]) == ("running", 60_750, 7_320_000)


async def _settled_by_the_hubs_hint(service: Service) -> int:
    """The hint alone is enough; what the session used, in GPU-milliseconds."""
    end_ms = START_MS + 3_601_234
    service.clock.at = START + timedelta(milliseconds=3_601_300)
    service.runner_wrote(
        "hold-0001",
        started_at_ms=START_MS + 500,
        last_alive_ms=end_ms,
        ended_at_ms=end_ms,
        exit_status=0,
        end_reason="stopped",
    )
    ended = await service.hub("POST", "/internal/holds/hold-0001/ended", {"reason": "stopped"})
    assert (ended.status_code, ended.json()) == (202, {"state": "settled"})
    return 3_600_734


async def _stated_line_by_line(service: Service, project: str, used: int) -> None:
    """The statement adds up to the balance, and its charges follow one another."""
    lines = (await service.person(service.token("pi"), "GET", f"/projects/{project}/statement")).json()["lines"]
    gpu = [line for line in lines if line["unit"] == "gpu_ms"]
    assert sum(line["delta_awarded"] for line in gpu) == 10 * HOUR
    assert sum(line["delta_charged"] for line in gpu) == used
    assert sum(line["delta_held"] for line in gpu) == 0
    charges = sorted((line for line in gpu if line["delta_charged"]), key=lambda line: str(line["from"]))
    assert [line["delta_charged"] for line in charges] == [10_000, 50_750, 3_539_984]
    assert [line["to"] for line in charges[:-1]] == [line["from"] for line in charges[1:]]
    assert {line["who"] for line in charges} == {"Researcher"}
    assert {line["rate"] for line in charges} == {"1"}


async def test_an_adjustment_stands_in_the_statement_with_who_and_why(service: Service) -> None:
    project = await service.award("pi", gpu_hours="10", tokens=0)
    await service.register("admin")
    body = {"actor": "admin", "allocation_id": f"{project}-gpu", "delta": -HOUR, "reason": "Given back"}
    done = [await service.hub("PUT", "/internal/admin/adjustments/adjust-0001", body) for _ in range(2)]
    assert [one.status_code for one in done] == [201, 200]
    assert done[0].json() == done[1].json()
    lines = (await service.person(service.token("pi"), "GET", f"/projects/{project}/statement")).json()["lines"]
    newest = lines[0]
    assert (newest["delta_awarded"], newest["who"], newest["reason"]) == (-HOUR, "Admin", "Given back")
    relayed = await service.hub("GET", f"/internal/admin/projects/{project}", **{"X-Commons-Actor": "admin"})
    assert relayed.json()["history"][0] == newest
    assert service.verified() == []


async def test_corrections_name_what_they_correct_on_the_statement(service: Service) -> None:
    project = await service.award("pi", gpu_hours="10", tokens=0)
    await service.register("admin")
    order = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu1", "application": "lab"}
    await service.hub("PUT", "/internal/holds/hold-0001", {**order, "runtime_s": 600, "server_name": ""})
    ended_ms = START_MS + 60_000
    service.runner_wrote(
        "hold-0001", started_at_ms=START_MS, last_alive_ms=ended_ms, ended_at_ms=ended_ms, end_reason="exited"
    )
    assert (await service.hub("POST", "/internal/reconcile")).json()["settled"] == 1
    give = {"actor": "admin", "hold_id": "hold-0001", "amount": 45_000, "reason": "The GPU was broken"}
    done = [await service.hub("PUT", "/internal/admin/refunds/refund-0001", give) for _ in range(2)]
    assert [one.status_code for one in done] == [201, 200]
    assert done[0].json() == done[1].json()
    assert done[0].json()["after"]["charged"] == 15_000
    refused = await service.hub("PUT", "/internal/admin/refunds/refund-0002", give)
    assert (refused.status_code, refused.json()["error"]["params"]["available"]) == (409, 15_000)
    more = {"actor": "admin", "allocation_id": f"{project}-gpu", "delta": HOUR, "reason": "Wrong project"}
    await service.hub("PUT", "/internal/admin/adjustments/adjust-0001", more)
    back = {"actor": "admin", "adjustment_id": "adjust-0001", "reason": "It was the wrong project"}
    undone = [await service.hub("PUT", "/internal/admin/reversals/reverse-0001", back) for _ in range(2)]
    assert [one.status_code for one in undone] == [201, 200]
    lines = (await service.person(service.token("pi"), "GET", f"/projects/{project}/statement")).json()["lines"]
    reversal, _, refund = lines[:3]
    assert (reversal["delta_awarded"], reversal["text"], reversal["who"]) == (-HOUR, "Adjustment taken back", "Admin")
    assert (refund["delta_charged"], refund["kind"], refund["text"]) == (-45_000, "refund", "Refund")
    assert (refund["hold_id"], refund["reason"]) == ("hold-0001", "The GPU was broken")
    assert service.verified() == []


async def test_a_refused_hold_answers_the_same_for_ever(service: Service) -> None:
    project = await service.award("pi", gpu_hours="0.5", tokens=0)
    order = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu1", "application": "lab"}
    body = {**order, "runtime_s": 3600, "server_name": ""}
    first = await service.hub("PUT", "/internal/holds/hold-0001", body)
    assert first.status_code == 402
    assert first.json()["error"]["params"]["fits_runtime_s"] == 1680
    await service.register("admin")
    more = {"actor": "admin", "allocation_id": f"{project}-gpu", "delta": 100 * HOUR, "reason": "Much more"}
    await service.hub("PUT", "/internal/admin/adjustments/adjust-0001", more)
    assert (await service.hub("PUT", "/internal/holds/hold-0001", body)).json() == first.json()
    assert (await service.hub("PUT", "/internal/holds/hold-0002", body)).status_code == 201


async def test_a_start_that_left_no_trace_is_released_after_the_hubs_hint(service: Service) -> None:
    project = await service.award("pi", gpu_hours="10", tokens=0)
    order = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu1", "application": "lab"}
    await service.hub("PUT", "/internal/holds/hold-0001", {**order, "runtime_s": 60, "server_name": "work"})
    await service.hub("POST", "/internal/holds/hold-0001/ended", {"reason": "refused"})
    service.clock.tick(31)
    report = (await service.hub("POST", "/internal/reconcile")).json()
    assert report == {"open_session_holds": 0, "settled": 0, "released": 1, "unknown": 0}
    row = (await service.person(service.token("pi"), "GET", "/sessions")).json()["sessions"][0]
    assert (row["state"], row["charged"], row["end_reason"]) == ("failed", 0, "never_started")


async def test_a_runner_that_is_gone_is_charged_to_its_last_sign_of_life(service: Service) -> None:
    project = await service.award("pi", gpu_hours="10", tokens=0)
    order = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu2", "application": "lab"}
    await service.hub("PUT", "/internal/holds/hold-0001", {**order, "runtime_s": 600, "server_name": ""})
    service.runner_wrote(
        "hold-0001", started_at_ms=START_MS, last_alive_ms=START_MS + 45_001, boot_id="another boot of this machine"
    )
    report = (await service.hub("POST", "/internal/reconcile")).json()
    assert report["settled"] == 1
    row = (await service.person(service.token("pi"), "GET", "/sessions")).json()["sessions"][0]
    assert (row["charged"], row["end_reason"]) == (90_002, "lost")
    assert service.verified() == []


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[]",
        b'{"hold_id": "another-hold"}',
        b'{"hold_id": "hold-0001", "runner_pid": "1"}',
        b'{"hold_id": "hold-0001", "ended_at_ms": 5, "started_at_ms": true, "last_alive_ms": 5}',
        b'{"hold_id": "hold-0001", "ended_at_ms": 5, "started_at_ms": 9, "last_alive_ms": 5}',
        b'{"hold_id": "hold-0001", "ended_at_ms": 5, "started_at_ms": 5, "last_alive_ms": 99999999999999999999}',
        b'{"hold_id": "hold-0001", "ended_at_ms": 5, "started_at_ms": 5, "last_alive_ms": 5, "end_reason": "bored"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
async def test_a_record_that_makes_no_sense_settles_nothing(service: Service, record: bytes) -> None:
    project = await service.award("pi", gpu_hours="10", tokens=0)
    order = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu1", "application": "lab"}
    await service.hub("PUT", "/internal/holds/hold-0001", {**order, "runtime_s": 60, "server_name": ""})
    folder = service.sessions / "hold-0001"
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(record)
    report = (await service.hub("POST", "/internal/reconcile")).json()
    assert report == {"open_session_holds": 1, "settled": 0, "released": 0, "unknown": 1}


async def test_members_stop_their_sessions_through_the_hub(service: Service) -> None:
    project = await service.award("pi", gpu_hours="10", tokens=0)
    order = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu1", "application": "lab"}
    await service.hub("PUT", "/internal/holds/hold-0001", {**order, "runtime_s": 60, "server_name": "work"})
    stopped = await service.person(service.token("pi"), "POST", "/sessions/hold-0001/stop")
    assert (stopped.status_code, stopped.json()["stop_reason"]) == (202, "owner")
    assert [(one.hub_name, one.server_name) for one in service.hub_api.stopped] == [("pi", "work")]
