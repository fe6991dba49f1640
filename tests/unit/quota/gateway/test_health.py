"""Model servers that are looked after: requests go to those that answer, the least busy first."""

from __future__ import annotations

from quota.gateway.health import look
from tests.unit.quota.gateway.fakes import desk


async def test_a_server_that_is_down_is_asked_last_and_comes_back() -> None:
    d = await desk(servers=2)
    first, second = d.model.servers
    d.upstreams.down = {first.target.url}
    await look(d.models, d.upstreams)
    assert (await d.ask()).status == 200
    assert d.upstreams.urls == [second.target.url + "/chat/completions"]
    d.upstreams.down = {first.target.url, second.target.url}
    await look(d.models, d.upstreams)
    assert (await d.ask()).status == 200  # where all are in doubt one is tried
    d.upstreams.down = set()
    await look(d.models, d.upstreams)
    assert first.healthy
    assert second.healthy


async def test_the_least_busy_of_those_that_answer_is_asked() -> None:
    d = await desk(servers=3)
    first, second, third = d.model.servers
    first.healthy, second.busy, third.busy = False, 2, 1
    assert d.model.least_busy() is third
    assert d.model.least_busy([third]) is second
