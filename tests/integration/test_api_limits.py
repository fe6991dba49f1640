"""Limits over the real API and ledger: refused whole, by name, with what would fit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from quota.domain.limits import Limits
from quota.domain.units import Unit
from quota.service.admit import SessionHold, SessionHoldRequest, place_session_hold
from quota.service.callers import caller_of
from quota.service.limiting import set_member_limit
from tests.integration.quota_service import HOUR, Service, running_service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(tmp_path) as one:
        yield one


async def hold(service: Service, project: str, hold_id: str, runtime_s: int = 3600) -> httpx.Response:
    body = {
        "kind": "session", "actor": "pi", "project_id": project, "profile": "gpu2", "application": "lab",
        "runtime_s": runtime_s, "server_name": hold_id[-4:],
    }  # fmt: skip
    return await service.hub("PUT", f"/internal/holds/{hold_id}", body)


async def test_a_members_share_refuses_with_what_would_fit_and_what_fits_starts(service: Service) -> None:
    project = await service.award("pi", gpu_hours="100", tokens=0)
    assert (await hold(service, project, "hold-0001")).status_code == 201  # 2 × (3600 + 120) s
    pi = await caller_of(service.services, "pi", frozenset())
    standing = await set_member_limit(service.services, pi, project, "pi", Unit.GPU_MS, 4 * HOUR)  # type: ignore[arg-type]
    assert standing.held == 2 * 3_720_000
    refused = (await hold(service, project, "hold-0002")).json()["error"]
    assert refused["code"] == "limit_reached"
    assert "your share of the project" in refused["message"]
    fits = refused["params"]["fits_runtime_s"]
    assert fits == (4 * HOUR - 2 * 3_720_000) // 2000 - 120
    assert (await hold(service, project, "hold-0003", fits)).status_code == 201
    assert (await hold(service, project, "hold-0004", 60)).status_code == 402
    assert service.verified() == []


async def test_a_person_has_no_more_gpus_at_once_than_the_site_allows(service: Service) -> None:
    project = await service.award("pi", gpu_hours="100", tokens=0)
    limited = replace(service.services, limits=Limits(person_gpus=3))

    async def start(hold_id: str, profile: str) -> object:
        request = SessionHoldRequest(hold_id, "pi", project, profile, "lab", 600, hold_id[-4:])  # type: ignore[arg-type]
        return await place_session_hold(limited, request)

    assert isinstance(await start("hold-0001", "gpu2"), SessionHold)
    refused = await start("hold-0002", "gpu2")
    assert not isinstance(refused, SessionHold)
    assert refused.params["limit_name"] == "person_gpus"  # type: ignore[attr-defined]
    assert isinstance(await start("hold-0003", "gpu1"), SessionHold)
    assert isinstance(await start("hold-0004", "cpu"), SessionHold)
    assert service.verified() == []
