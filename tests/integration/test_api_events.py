"""Notices as server-sent events over a real HTTP server: as they happen, resumed without a gap, and only one's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from quota.domain.ids import HoldId, PersonId, ProjectId
from quota.domain.notice import Notice, NoticeKind
from quota.service.notices import tell
from tests.integration.quota_service import ROOT, Service, running_service
from tests.ports import free_port
from tests.waiting import PATIENCE_S, eventually

START = {"kind": "session", "actor": "pi", "profile": "gpu1", "application": "lab", "runtime_s": 3600}


@dataclass
class Stage:
    service: Service
    url: str
    project: str

    async def person(self, name: str) -> PersonId:
        found = await self.service.services.store.read(lambda tx: tx.people.by_hub_name(name))
        assert found is not None
        return found.id

    async def tell(self, name: str, number: int, *, subject: str = "x", project: str | None = None) -> None:
        at = self.service.clock.tick(1)
        params = {"profile": "gpu1", "server_name": "", "by": "grace", "n": number}
        project_id = ProjectId(project) if project is not None else None
        notice = Notice(await self.person(name), NoticeKind.STOPPED, subject, str(number), at, params, project_id)
        services = self.service.services
        await services.store.write(lambda tx: tell(services, tx, notice))

    async def session(self, server: str) -> tuple[HoldId, str]:
        """A started session of the PI: its hold and its key."""
        hold_id = f"hold-{server}"
        body = {**START, "project_id": self.project, "server_name": server}
        answer = await self.service.hub("PUT", f"/internal/holds/{hold_id}", body)
        assert answer.status_code == 201, answer.text
        return HoldId(hold_id), answer.json()["gateway_key"]

    @asynccontextmanager
    async def listening(self, credential: str, **headers: str) -> AsyncIterator[Listening]:
        """An open stream."""
        sent = {
            "Authorization": f"Bearer {credential}",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        async with (
            httpx.AsyncClient(timeout=PATIENCE_S) as client,
            client.stream("GET", self.url, headers=sent) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield Listening(answer.aiter_lines())


@dataclass
class Listening:
    lines: AsyncIterator[str]

    async def next(self) -> tuple[int, dict[str, Any]]:
        """The next event: its id and its data."""
        async with asyncio.timeout(PATIENCE_S):
            number = 0
            async for line in self.lines:
                if line.startswith("id: "):
                    number = int(line[4:])
                if line.startswith("data: "):
                    return number, json.loads(line[6:])
        raise EOFError

    async def to_the_end(self) -> list[str]:
        async with asyncio.timeout(PATIENCE_S):
            return [line async for line in self.lines]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with running_service(tmp_path) as service:
        project = await service.award("pi", gpu_hours="100", tokens=0)
        await service.register("pi", "other")
        service.parts.streams.alive_s = 0.3
        port = free_port()
        transport = service.client._transport
        assert isinstance(transport, httpx.ASGITransport)
        config = uvicorn.Config(transport.app, host="127.0.0.1", port=port, lifespan="off", log_level="warning")
        server = uvicorn.Server(config)
        tasks = [asyncio.create_task(server.serve()), asyncio.create_task(service.parts.streams.run())]

        async def started() -> bool:
            return server.started

        await eventually(started, within_s=PATIENCE_S, what="the server listens", every_s=0.01)
        yield Stage(service, f"http://127.0.0.1:{port}{ROOT}/events", project)
        service.parts.streams.close()
        server.should_exit = True
        await tasks[0]
        tasks[1].cancel()


async def test_a_notice_arrives_while_one_listens_in_ones_own_language_and_nobody_elses_does(stage: Stage) -> None:
    async with stage.listening(stage.service.token("pi"), Accept_Language="zh") as pi:
        await stage.tell("other", 1)
        await stage.tell("pi", 2)
        number, event = await pi.next()
    assert (event["kind"], event["params"]["n"]) == ("stopped", 2)
    assert event["message"] == "您的会话“GPU”已被 grace 停止。"
    assert number > 0


async def test_a_reader_that_comes_back_gets_exactly_what_came_meanwhile(stage: Stage) -> None:
    token = stage.service.token("pi")
    async with stage.listening(token) as first:
        await stage.tell("pi", 1)
        last, _ = await first.next()
    for number in range(2, 72):  # more than one page of them
        await stage.tell("pi", number)
    async with stage.listening(token, Last_Event_ID=str(last)) as again:
        come = [(await again.next())[1]["params"]["n"] for _ in range(70)]
        await stage.tell("pi", 72)
        come.append((await again.next())[1]["params"]["n"])
    assert come == list(range(2, 73))


async def test_without_an_id_a_stream_begins_with_what_is_unread(stage: Stage) -> None:
    token = stage.service.token("pi")
    for number in (1, 2, 3):
        await stage.tell("pi", number)
    pi = await stage.person("pi")
    await stage.service.services.store.write(lambda tx: tx.notices.put_away(pi, [2], stage.service.clock.now()))
    async with stage.listening(token) as listening:
        assert [(await listening.next())[1]["params"]["n"] for _ in range(2)] == [1, 3]


async def test_a_sessions_key_hears_of_its_session_and_project_only_and_no_longer_than_it_lives(stage: Stage) -> None:
    hold_id, key = await stage.session("one")
    other, _ = await stage.session("two")
    async with stage.listening(key) as notebook:
        await stage.tell("pi", 1, subject=other)
        await stage.tell("pi", 2, subject=hold_id)
        await stage.tell("pi", 3, subject=other, project="project-of-others")
        await stage.tell("pi", 4, subject="allocation", project=stage.project)
        assert [(await notebook.next())[1]["params"]["n"] for _ in range(2)] == [2, 4]
        await stage.service.services.ledger.release(hold_id, stage.service.clock.now(), "test")
        await notebook.to_the_end()
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        refused = await client.get(stage.url, headers={"Authorization": f"Bearer {key}"})
        forged = await client.get(stage.url, headers={"Authorization": f"Bearer {key[:-1]}A"})
    assert (refused.status_code, forged.status_code) == (401, 401)


async def test_a_token_that_is_revoked_hears_no_more(stage: Stage) -> None:
    token = stage.service.token("pi")
    async with stage.listening(token) as listening:
        del stage.service.introspection.tokens[token]
        assert ": alive" in await listening.to_the_end()


async def test_a_stream_for_no_time_gives_what_is_there_and_ends(stage: Stage) -> None:
    await stage.tell("pi", 1)
    headers = {"Authorization": f"Bearer {stage.service.token('pi')}"}
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        answer = await client.get(stage.url + "?for_s=0", headers=headers)
    assert answer.text.count("event: notice") == 1
