"""Limits where people meet them: the quote says beforehand what bites and what fits, and the gateway counts a member's tokens."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from openai import RateLimitError
from openai.types.chat import ChatCompletionMessageParam

from quota.domain.errors import Forbidden
from quota.domain.hold import HoldKind, HoldOrder, HoldState, Usage
from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId
from quota.domain.limits import Limits, member_day_limit, member_limit
from quota.domain.units import Unit
from quota.gateway.models import Models
from quota.service.callers import caller_of
from quota.service.limiting import member_days, member_limits, set_member_limit, token_share
from quota.service.quote import QuoteRequest, quote_session
from tests.integration.course_exchange import make_course
from tests.integration.gateway_service import running_gateway, stub_model
from tests.integration.quota_service import HOUR, Service, running_service
from tests.integration.upstream_stub import stub_server
from tests.waiting import PATIENCE_S, eventually


async def test_a_quote_says_beforehand_which_limit_a_start_would_meet_and_what_fits(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        project = ProjectId(await service.award("pi", gpu_hours="100", tokens=0))
        pi = await caller_of(service.services, "pi", frozenset())
        await set_member_limit(service.services, pi, project, "pi", Unit.GPU_MS, HOUR // 2)
        body = {"actor": "pi", "project_id": project, "profile": "gpu1", "runtime_s": 3600}
        refusal = (await service.hub("POST", "/internal/quotes", body)).json()["refusal"]
        assert refusal["message"] == "This start needs 1.03 GPU-h; your share of the project has 0.50 GPU-h left."
        assert refusal["params"]["fits_runtime_s"] == 1680
        shorter = (await service.hub("POST", "/internal/quotes", {**body, "runtime_s": 1680})).json()
        assert shorter["refusal"] is None
        assert shorter["quote"]["text"].endswith("leaves 0.00 GPU-h of your share")
        free = (await service.hub("POST", "/internal/quotes", {**body, "profile": "cpu"})).json()
        assert free["refusal"] is None
        await set_member_limit(service.services, pi, project, "pi", Unit.GPU_MS, None)
        assert (await service.hub("POST", "/internal/quotes", body)).json()["refusal"] is None


async def test_a_student_is_shown_the_share_that_is_left_and_what_to_do_when_it_is_used_up(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        project = ProjectId(await service.award("pi", gpu_hours="100", tokens=1000))
        await make_course(service, project, ["ann"])
        pi = await caller_of(service.services, "pi", frozenset())
        await set_member_limit(service.services, pi, project, "ann", Unit.GPU_MS, 2 * HOUR)
        hold = {"kind": "session", "actor": "ann", "project_id": project, "profile": "gpu1", "application": "lab"}
        placed = await service.hub("PUT", "/internal/holds/hold-0001", {**hold, "runtime_s": 6600, "server_name": ""})
        assert placed.status_code == 201, placed.text

        (payer,) = (await service.hub("GET", "/internal/people/ann/payers")).json()["payers"]
        assert (payer["course"], payer["can_start"]) == ("Physics", True)
        assert payer["shares"] == {"gpu_ms": {"cap": 2 * HOUR, "available": 2 * HOUR - 6_720_000}}
        (lead,) = (await service.hub("GET", "/internal/people/pi/payers")).json()["payers"]
        assert (lead["course"], lead["shares"]) == ("Physics", {})

        more = {"actor": "ann", "project_id": project, "profile": "gpu1", "runtime_s": 900}
        answer = (await service.hub("POST", "/internal/quotes", more)).json()
        assert answer["refusal"]["params"]["fits_runtime_s"] == 360
        await set_member_limit(service.services, pi, project, "ann", Unit.GPU_MS, 6_720_000)
        refusal = (await service.hub("POST", "/internal/quotes", more)).json()["refusal"]
        assert refusal["params"]["fits_runtime_s"] is None
        assert "has 0.00 GPU-h left" in refusal["message"]
        assert refusal["next"].startswith("Ask a lead of the project (of a course: an instructor) for a larger share")


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(person_sessions=1), "person_sessions"),
        (Limits(person_gpus=2), "person_gpus"),
        (Limits(project_sessions=1), "project_sessions"),
        (Limits(project_gpus=2), "project_gpus"),
        (Limits(person_gpu_ms_a_day=2 * HOUR), "day"),
    ],
)
async def test_what_runs_counts_in_the_next_quote_and_a_day_is_over_at_midnight(
    tmp_path: Path, limits: Limits, name: str
) -> None:
    async with running_service(tmp_path) as service:
        project = ProjectId(await service.award("pi", gpu_hours="100", tokens=0))
        limited = replace(service.services, limits=limits)
        object.__setattr__(service.parts, "services", limited)
        body = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu1", "application": "lab"}
        placed = await service.hub("PUT", "/internal/holds/hold-0001", {**body, "runtime_s": 3600, "server_name": ""})
        assert placed.status_code == 201, placed.text
        pi = await caller_of(limited, "pi", frozenset())
        asked = QuoteRequest(pi.id, project, "gpu2", 3600)
        quoted = await quote_session(limited, asked)
        assert quoted.refusal is not None
        assert quoted.refusal.params["limit_name"] == name
        if name == "day":
            service.clock.at += timedelta(days=1)
            assert (await quote_session(limited, QuoteRequest(pi.id, project, "gpu1", 3600))).refusal is None


async def test_each_member_sees_their_own_share_and_a_manager_raises_no_leads(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        project = ProjectId(await service.award("pi", gpu_hours="100", tokens=1000))
        await service.register("ann", "bob")
        for name, role in (("ann", "member"), ("bob", "manager")):
            await service.person(service.token("pi"), "PUT", f"/projects/{project}/members/{name}", {"role": role})
        pi, ann, bob = [await caller_of(service.services, name, frozenset()) for name in ("pi", "ann", "bob")]
        for who, of in ((ann, "ann"), (ann, "bob"), (bob, "bob"), (bob, "pi")):
            with pytest.raises(Forbidden):
                await set_member_limit(service.services, who, project, of, Unit.GPU_MS, HOUR)
        await set_member_limit(service.services, bob, project, "ann", Unit.TOKENS, 500)
        seen = await member_limits(service.services, ann, project)
        assert {person: set(shares) for person, shares in seen.items()} == {ann.id: {Unit.TOKENS}}
        assert set(await member_limits(service.services, pi, project)) == {pi.id, ann.id, bob.id}


async def test_a_members_day_counts_what_they_used_today_and_begins_anew_at_midnight(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        project = ProjectId(await service.award("pi", gpu_hours="100", tokens=0))

        async def start(hold_id: str, runtime_s: int) -> httpx.Response:
            body = {"kind": "session", "actor": "pi", "project_id": project, "profile": "gpu1", "application": "lab"}
            body |= {"runtime_s": runtime_s, "server_name": hold_id[-4:]}  # type: ignore[dict-item]
            return await service.hub("PUT", f"/internal/holds/{hold_id}", body)

        assert (await start("hold-0001", 3480)).status_code == 201  # an hour with its margin
        limits = {"gpu_hours": None, "gpu_hours_a_day": "1.5", "tokens": None}
        token = service.token("pi")
        for _ in range(2):
            put = await service.person(token, "PUT", f"/projects/{project}/members/pi/limits", limits)
            assert put.json() == {"gpu_ms": None, "gpu_ms_a_day": 5_400_000, "tokens": None, "tokens_a_day": None}
        quote = {"actor": "pi", "project_id": project, "profile": "gpu1", "runtime_s": 3600}
        foreseen = (await service.hub("POST", "/internal/quotes", quote)).json()["refusal"]
        refused = (await start("hold-0002", 3600)).json()["error"]
        assert foreseen == refused
        assert "your share of the project for today" in refused["message"]
        assert refused["params"]["fits_runtime_s"] == 1680
        assert (await start("hold-0003", 1680)).status_code == 201
        assert (await start("hold-0004", 60)).status_code == 402
        service.clock.at += timedelta(days=1)
        assert (await start("hold-0005", 3600)).status_code == 201
        assert service.verified() == []
        await service.person(
            token, "PUT", f"/projects/{project}/members/pi/limits", {**limits, "gpu_hours_a_day": None}
        )
        assert (await start("hold-0006", 7200)).status_code == 201


async def test_a_members_tokens_are_limited_at_the_gateway_too(tmp_path: Path) -> None:
    async with (
        stub_server() as stub,
        running_gateway(tmp_path, Models([stub_model(stub.url)]), tokens=10**6) as gateway,
    ):
        limit = member_limit(gateway.project, PersonId(gateway.person), Unit.TOKENS, 150)
        await gateway.store.write(lambda tx: tx.limits.put(limit))
        client = gateway.sdk(max_retries=0)
        ask: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
        with pytest.raises(RateLimitError, match="limit"):
            await client.chat.completions.create(model="stub", messages=ask, max_tokens=4000)
        answered = await client.chat.completions.create(model="stub", messages=ask, max_tokens=10)
        assert answered.usage is not None
        used = answered.usage.total_tokens

        async def counted() -> bool:
            standing = await gateway.store.read(lambda tx: tx.limits.get(limit.id))
            return standing is not None and (standing.charged, standing.held) == (used, 0)

        await eventually(counted, within_s=PATIENCE_S, what="the request counts against the share")
        assert gateway.differences() == []


async def test_a_model_request_beyond_a_members_day_is_told_when_it_begins_anew(tmp_path: Path) -> None:
    async with (
        stub_server() as stub,
        running_gateway(tmp_path, Models([stub_model(stub.url)]), tokens=10**6) as gateway,
    ):
        day = member_day_limit(gateway.project, PersonId(gateway.person), Unit.TOKENS, 150)
        await gateway.store.write(lambda tx: tx.limits.put(day))
        client = gateway.sdk(max_retries=0)
        ask: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
        with pytest.raises(RateLimitError, match=r"for today is used up\. It begins anew at midnight UTC"):
            await client.chat.completions.create(model="stub", messages=ask, max_tokens=4000)
        assert (await client.chat.completions.create(model="stub", messages=ask, max_tokens=10)).usage is not None
        assert gateway.differences() == []


async def test_a_members_tokens_of_a_day_are_limited_on_every_way_and_begin_anew_at_midnight(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        project = ProjectId(await service.award("pi", gpu_hours="1", tokens=10_000))
        pi, now = await caller_of(service.services, "pi", frozenset()), service.clock.now
        limits = {"gpu_hours": None, "gpu_hours_a_day": None, "tokens": 600, "tokens_a_day": 100}
        token = service.token("pi")
        put = await service.person(token, "PUT", f"/projects/{project}/members/pi/limits", limits)
        assert put.json() == {"gpu_ms": None, "gpu_ms_a_day": None, "tokens": 600, "tokens_a_day": 100}

        async def hold(hold_id: str, tokens: int) -> int:
            share = await token_share(service.services.store, project, pi.id, now(), 10)
            order = HoldOrder(
                id=HoldId(hold_id), kind=HoldKind.REQUEST, subject=hold_id, actor=pi.id, project_id=project,
                allocation_id=await tokens_of(service, project), unit=Unit.TOKENS, amount=tokens, at=now(),
                lease_until=now() + timedelta(hours=1), limits=share.uses(tokens, now()),
            )  # fmt: skip
            placed = await service.services.ledger.place_hold(order)
            if placed.state is HoldState.HELD:
                usage = Usage("test", hold_id, placed.id, now(), now(), tokens, tokens)
                await service.services.ledger.settle(placed.id, now(), usage)
            return 0 if placed.refusal is None else int(str(placed.refusal.params["available"]))

        assert await hold("request-1", 90) == 0
        assert await hold("request-2", 11) == 10
        body = {"kind": "request", "actor": "pi", "project_id": project, "model": "tiny", "tokens": 11, "lease_s": 60}
        by_service = await service.hub("PUT", "/internal/request-holds/request-3", body)
        assert (by_service.status_code, by_service.json()["error"]["code"]) == (402, "limit_reached")
        service.clock.at += timedelta(days=1)
        assert await hold("request-4", 100) == 0
        assert service.verified() == []
        days = await member_days(service.services, pi, project)
        assert (days[pi.id][Unit.TOKENS].cap, days[pi.id][Unit.TOKENS].charged) == (100, 100)


async def tokens_of(service: Service, project: ProjectId) -> AllocationId:
    found = await service.services.store.read(lambda tx: tx.accounts.of_project(project))
    return next(one.id for one in found if one.unit is Unit.TOKENS)
