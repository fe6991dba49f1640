"""Rescue sessions that started without the quota service, told to it afterwards: counted once, billed to nobody, ended where they must not be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from quota.domain.limits import rescue_limit
from quota.service.callers import Power
from tests.fakes import START
from tests.integration.quota_service import Service, running_service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(tmp_path) as one:
        yield one


def order(project: str, hold_id: str, runtime_s: int, actor: str = "pi") -> dict[str, object]:
    return {
        "kind": "session", "actor": actor, "project_id": project, "profile": "rescue", "application": "lab",
        "runtime_s": runtime_s, "server_name": hold_id[-4:],
    }  # fmt: skip


async def told(service: Service, project: str, hold_id: str, runtime_s: int, minutes_ago: int) -> httpx.Response:
    """What the hub says of a session that it journalled."""
    started_at = (service.clock.now() - timedelta(minutes=minutes_ago)).isoformat()
    body = {**order(project, hold_id, runtime_s), "started_at": started_at}
    return await service.hub("PUT", f"/internal/rescues/{hold_id}", body)


async def asked(service: Service, project: str, hold_id: str, runtime_s: int) -> httpx.Response:
    return await service.hub("PUT", f"/internal/holds/{hold_id}", order(project, hold_id, runtime_s))


async def used_ms(service: Service) -> tuple[int, int]:
    """Of today: what has run, and what is held for what runs."""
    person = await service.services.store.read(lambda tx: tx.people.by_hub_name("pi"))
    assert person is not None
    limit_id = rescue_limit(person.id, service.clock.now(), 0).id
    found = await service.services.store.read(lambda tx: tx.limits.get(limit_id))
    return (0, 0) if found is None else (found.charged, found.held)


async def test_what_ran_meanwhile_is_counted_once_also_beyond_the_day_and_settled_by_its_evidence(
    service: Service,
) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=0)
    assert (await asked(service, project, "rescue-0001", 5400)).status_code == 201
    answers = [await told(service, project, "rescue-0002", 3600, minutes_ago=30) for _ in range(2)]
    assert [one.status_code for one in answers] == [201, 200]
    assert await used_ms(service) == (0, 9_000_000)  # 2.5 of the 2 hours
    refused = await asked(service, project, "rescue-0003", 60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "rescue_used_up")

    begun_ms = int((service.clock.now() - timedelta(minutes=30)).timestamp() * 1000)
    service.runner_wrote(
        "rescue-0002", started_at_ms=begun_ms, last_alive_ms=begun_ms + 600_000, ended_at_ms=begun_ms + 600_000,
        end_reason="exited",
    )  # fmt: skip
    service.hub_api.runs("pi", "0001")
    await service.hub("POST", "/internal/reconcile")
    assert await used_ms(service) == (600_000, 5_400_000)
    left_s = 7200 - 600 - 5400
    assert (await asked(service, project, "rescue-0004", left_s + 1)).status_code == 402
    assert (await asked(service, project, "rescue-0005", left_s)).status_code == 201
    assert service.verified() == []


async def test_two_rescue_starts_at_once_do_not_both_take_the_last_hour(service: Service) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=0)
    answers = await asyncio.gather(*(asked(service, project, f"rescue-000{n}", 4000) for n in range(4)))
    assert sorted(one.status_code for one in answers) == [201, 402, 402, 402]


async def test_a_session_of_the_day_before_counts_on_its_own_day(service: Service) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=0)
    service.clock.at = START + timedelta(days=1, hours=-8)  # one in the morning
    assert (await told(service, project, "rescue-0001", 7200, minutes_ago=90)).status_code == 201
    assert await used_ms(service) == (0, 0)
    assert (await asked(service, project, "rescue-0002", 7200)).status_code == 201


async def test_one_whose_owner_was_removed_meanwhile_ends_with_notice(service: Service) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=0)
    await service.register("member")
    token = service.token("pi", Power.WRITE)
    assert (await service.person(token, "PUT", f"/projects/{project}/members/member", {"role": "member"})).is_success
    assert (await service.person(token, "DELETE", f"/projects/{project}/members/member")).is_success
    started = service.clock.now() - timedelta(minutes=5)
    body = {**order(project, "rescue-0001", 3600, "member"), "started_at": started.isoformat()}
    assert (await service.hub("PUT", "/internal/rescues/rescue-0001", body)).status_code == 201
    mine = (await service.person(service.token("member"), "GET", "/sessions")).json()["sessions"]
    assert [(one["hold_id"], one["stop_reason"]) for one in mine] == [("rescue-0001", "removed")]
    assert mine[0]["stops_at"] is not None


async def test_only_rescue_profiles_are_counted_afterwards(service: Service) -> None:
    project = await service.award("pi", gpu_hours="1", tokens=0)
    body = {**order(project, "rescue-0001", 3600), "profile": "gpu1", "started_at": service.clock.now().isoformat()}
    assert (await service.hub("PUT", "/internal/rescues/rescue-0001", body)).status_code == 400
