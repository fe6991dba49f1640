"""What the quota service asks of our real hub: list sessions with holds, stop one, move its end, take a forgotten one over; two hubs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest

from quota.adapters.hub_api import HubApi
from quota.domain.errors import RefusalCode, Refused, Unavailable
from quota.domain.ids import HoldId
from quota.service.session_ports import StopOrder
from spawners import records
from tests.integration.hub_process import SITE, STUBS, Browser, HubProcess
from tests.waiting import PATIENCE_S, eventually, until

HOUR_MS = 3_600_000
OPTIONS: dict[str, Any] = {"project": "p1", "profile": "gpu1", "runtime_s": 3600}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    one = HubProcess(tmp_path_factory.mktemp("hub") / "data", site=SITE + STUBS)
    one.quota.book.available = {"p1": 100 * HOUR_MS}
    one.quota.book.payers = {"pi": ["p1"]}
    try:
        one.start()
        yield one
    finally:
        one.end()


@pytest.fixture
async def api(hub: HubProcess) -> AsyncIterator[HubApi]:
    client = HubApi(f"http://127.0.0.1:{hub.hub_port}/hub/api", hub.secret("quota_api_token"))
    yield client
    await client.close()


@pytest.fixture
async def session(hub: HubProcess) -> AsyncIterator[HoldId]:
    """A running session of pi; its hold. Stopped afterwards where the test left it running."""
    pi = await asyncio.to_thread(lambda: Browser(hub, "pi").sign_in())
    await asyncio.to_thread(pi.start, OPTIONS)
    await asyncio.to_thread(pi.ready)
    yield HoldId(hub.live_sessions()[0])
    if await asyncio.to_thread(pi.server) is not None:
        await asyncio.to_thread(pi.stop)


def order(hold_id: str, reason: str = "idle") -> StopOrder:
    return StopOrder("pi", "", HoldId(hold_id), reason, 5)


async def gone(hub: HubProcess, hold_id: str) -> records.SessionRecord:
    async def look() -> records.SessionRecord | None:
        record = records.read(hub.data / "sessions" / hold_id)
        return record if record.ended else None

    return await eventually(look, within_s=PATIENCE_S, what="the session ended")


async def listed_ready(api: HubApi, hold_id: str) -> None:
    """Wait until a hub that was started anew has looked at the session: until then its stop waits, and is refused after 10 s."""

    async def listed() -> bool:
        return [one.hold_id for one in (await api.active_servers()).servers if one.ready] == [hold_id]

    await eventually(listed, within_s=PATIENCE_S, what="the hub lists the session again")


async def test_a_session_is_listed_with_its_hold_and_stopped_with_its_reason(
    hub: HubProcess, api: HubApi, session: HoldId
) -> None:
    view = await api.active_servers()
    assert [(one.hub_name, one.server_name, one.hold_id, one.ready) for one in view.servers] == [
        ("pi", "", session, True)
    ]
    assert view.epoch == hub.quota.book.epoch
    assert await api.stop_session(order(session))
    assert (await gone(hub, session)).stop_reason == "idle"

    async def empty() -> bool:
        return list((await api.active_servers()).servers) == []

    await eventually(empty, within_s=PATIENCE_S, what="the hub lists nothing")
    assert not await api.stop_session(order(session))


async def test_an_order_for_another_hold_leaves_the_session_alone(
    hub: HubProcess, api: HubApi, session: HoldId
) -> None:
    other = HoldId("0123456789abcdef0123456789abcdef")
    assert not await api.stop_session(order(other))
    refused = await api.set_deadline("pi", "", other, datetime.now(UTC) + timedelta(hours=2))
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.BACKEND_REFUSED
    assert hub.live_sessions() == [session]


async def test_an_extension_reaches_the_runners_deadline(hub: HubProcess, api: HubApi, session: HoldId) -> None:
    ends_at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    assert await api.set_deadline("pi", "", session, ends_at) is None
    assert records.read_deadline_ms(hub.data / "sessions" / session) == int(ends_at.timestamp() * 1000)


async def test_nobody_but_the_quota_service_gets_there(hub: HubProcess, session: HoldId) -> None:
    admin = await asyncio.to_thread(lambda: Browser(hub, "admin").sign_in())
    for method, path, body in (
        ("GET", "/commons/sessions", None),
        ("POST", "/commons/sessions/pi//stop", {"hold_id": session, "reason": "x", "grace_s": 1}),
        ("POST", "/commons/sessions/pi//deadline", {"hold_id": session, "deadline_ms": 1}),
        ("POST", "/commons/sessions/pi//adopt", {"hold_id": session}),
    ):
        assert (await asyncio.to_thread(admin.api, method, path, body)).status_code == 403, path
        anybody = await asyncio.to_thread(
            partial(httpx.request, method, f"{hub.url}hub/api{path}", json=body, timeout=PATIENCE_S)
        )
        assert anybody.status_code == 403, path
    assert hub.live_sessions() == [session]


async def test_nonsense_is_refused_by_name(hub: HubProcess, session: HoldId) -> None:
    headers = {"Authorization": f"token {hub.secret('quota_api_token')}"}
    url = f"http://127.0.0.1:{hub.hub_port}/hub/api/commons/sessions/pi/"
    for verb, body in (
        ("stop", {"hold_id": session}),
        ("stop", {"hold_id": session, "reason": 5, "grace_s": 1}),
        ("stop", {"hold_id": session, "reason": "x", "grace_s": -1}),
        ("stop", {"hold_id": session, "reason": "x", "grace_s": True}),
        ("deadline", {"hold_id": session, "deadline_ms": "soon"}),
        ("adopt", []),
    ):
        answer = await asyncio.to_thread(partial(httpx.post, f"{url}/{verb}", json=body, headers=headers, timeout=60))
        assert answer.status_code == 400, (verb, body)
    assert hub.live_sessions() == [session]


async def test_a_session_that_the_hub_lost_all_trace_of_is_taken_over_and_not_started_again(
    hub: HubProcess, api: HubApi, session: HoldId
) -> None:
    """As after a hub killed between the backend's start and its own commit: the database knows no server."""
    hub.kill_hub()
    with sqlite3.connect(hub.data / "hub" / "jupyterhub.sqlite") as database:
        database.execute("UPDATE spawners SET server_id = NULL, state = '{}', started = NULL")
    await asyncio.to_thread(hub.start_hub)
    assert list((await api.active_servers()).servers) == []
    holds = len(hub.quota.book.holds)
    await api.adopt("pi", "", session)

    await listed_ready(api, session)
    assert hub.live_sessions() == [session]
    assert len(hub.quota.book.holds) == holds
    with pytest.raises(Unavailable):
        await api.adopt("pi", "", HoldId("0123456789abcdef0123456789abcdef"))


async def test_a_hub_that_was_replaced_stops_nothing_and_starts_nothing(
    hub: HubProcess, api: HubApi, session: HoldId
) -> None:
    """Another hub takes an epoch; this one, still running, finds out."""
    hub.quota.book.epoch += 1
    pi = await asyncio.to_thread(lambda: Browser(hub, "pi").sign_in())

    async def fenced() -> bool:
        try:
            await api.stop_session(order(session))
        except Unavailable as error:
            return "409" in str(error)
        return False

    assert await fenced()  # from the first order on
    assert (await asyncio.to_thread(pi.api, "DELETE", "/users/pi/server")).status_code == 409
    refused = await asyncio.to_thread(pi.start, OPTIONS, "s-2")
    assert refused.status_code in (400, 500, 503), refused.text
    assert hub.live_sessions() == [session]
    before = hub.quota.book.epoch
    hub.kill_hub()
    await asyncio.to_thread(hub.start_hub)
    until(lambda: hub.quota.book.epoch > before, within_s=PATIENCE_S, what="the new hub takes an epoch")
    await listed_ready(api, session)
    assert await api.stop_session(order(session))
    await gone(hub, session)
