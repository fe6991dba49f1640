"""Routes are compared from the hub's own start on, and a proxy that is away ends nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from hub.routes import RouteCheck


class Proxy:
    """Counts comparisons; away where it is told so."""

    def __init__(self) -> None:
        self.compared = 0
        self.away = False

    async def check_routes(self, users: object, services: object) -> None:
        if self.away:
            raise ConnectionRefusedError("the proxy is away")
        self.compared += 1


def hub(proxy: Proxy) -> Any:
    started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return SimpleNamespace(proxy=proxy, users={}, _service_map={}, _start_future=started)


async def test_nothing_is_compared_before_the_hub_knows_its_sessions() -> None:
    proxy = Proxy()
    app = hub(proxy)
    assert not await RouteCheck().round(app)
    app._start_future.set_result(None)
    assert await RouteCheck().round(app)
    assert proxy.compared == 1


async def test_a_proxy_that_is_away_is_asked_again() -> None:
    proxy = Proxy()
    app = hub(proxy)
    app._start_future.set_result(None)
    proxy.away = True
    assert not await RouteCheck().round(app)
    proxy.away = False
    assert await RouteCheck().round(app)
