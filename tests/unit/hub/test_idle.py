"""The idle culler's judge: what a notebook's own lists mean, and that nothing unknown is ever a reason to stop."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from hub.idle import Arbiter, NotKnown, Use, owner_of, use_of
from quota.client import QuotaClient

SERVER = {"name": "second", "url": "/user/ada%40x/second/"}
IDLE = {"execution_state": "idle", "last_activity": "2026-03-02T09:00:00.000000Z"}


class Wire:
    """The notebook and the quota service at the wire."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"kernels": [IDLE], "terminals": [], "quota": {"stop": True, "stops_at": None}, **answers}
        self.asked: list[str] = []
        self.told: dict[str, Any] = {}

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        what = "quota" if "/internal/" in request.url.path else request.url.path.rpartition("/")[2]
        if what == "quota":
            self.told = json.loads(request.content)
        answer = self.answers[what]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    async def verdict(self) -> bool:
        transport = httpx.MockTransport(self._answer)
        client = QuotaClient("http://quota", "credential", transport=transport)
        async with httpx.AsyncClient(base_url="http://portal/", transport=transport) as notebooks:
            judge = Arbiter(client, notebooks)
            stop = await judge(server=SERVER, inactive=None, inactive_limit=0)
        await client.close()
        return stop


async def test_the_quota_service_decides_by_what_the_notebook_says() -> None:
    wire = Wire()
    assert await wire.verdict() is True
    assert wire.told == {
        "hub_name": "ada@x", "server_name": "second", "busy": False, "active_at": "2026-03-02T09:00:00+00:00",
    }  # fmt: skip
    assert wire.asked[0].startswith("/user/ada@x/second/api/")
    assert await Wire(quota={"stop": False, "stops_at": None}).verdict() is False


@pytest.mark.parametrize(
    "changes",
    [
        {"kernels": httpx.ConnectError("refused")},
        {"kernels": httpx.ReadTimeout("slow")},
        {"kernels": httpx.Response(503)},
        {"kernels": httpx.Response(302, headers={"location": "/hub/login"})},
        {"kernels": httpx.Response(200, text="<html>")},
        {"kernels": {"message": "not a list"}},
        {"kernels": [{"execution_state": "idle"}]},
        {"kernels": [{**IDLE, "last_activity": "yesterday"}]},
        {"terminals": httpx.Response(500)},
        {"quota": httpx.ConnectError("refused")},
        {
            "quota": httpx.Response(
                503, json={"error": {"code": "unavailable", "message": "", "next": "", "params": {}}}
            )
        },
        {"quota": {"no": "verdict"}},
        {"quota": {"stop": "yes", "stops_at": None}},
    ],
)
async def test_what_cannot_be_asked_or_makes_no_sense_is_left_alone(changes: dict[str, Any]) -> None:
    assert await Wire(**changes).verdict() is False


async def test_a_notebook_without_terminals_is_judged_by_its_kernels() -> None:
    assert await Wire(terminals=httpx.Response(404)).verdict() is True


def test_a_kernel_that_is_neither_idle_nor_dead_works_and_the_latest_instant_counts() -> None:
    later = {"last_activity": "2026-03-02T10:00:00Z", "name": "1"}
    assert use_of([IDLE], [later]) == Use(False, datetime(2026, 3, 2, 10, tzinfo=UTC))
    for state in ("busy", "starting", "restarting", "something new"):
        assert use_of([IDLE, {**IDLE, "execution_state": state}], []).busy
    assert not use_of([{**IDLE, "execution_state": "dead"}], []).busy
    assert use_of([], []) == Use(False, None)
    with pytest.raises(NotKnown):
        use_of([{"execution_state": "idle", "last_activity": None}], [])


def test_the_owner_stands_in_the_servers_address() -> None:
    assert owner_of({"url": "/base/user/ada%40x/second/"}) == "ada@x"
    assert owner_of({"url": ""}) == ""
