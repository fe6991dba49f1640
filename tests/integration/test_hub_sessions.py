"""Sessions and their holds over the life of hub and proxy: stubs in the place of notebooks, the quota service faked at the wire."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from spawners import processes, records
from tests.integration.fake_quota import Fault
from tests.integration.hub_process import SITE, STUBS, Browser, HubProcess
from tests.waiting import PATIENCE_S, until

HOUR_MS = 3_600_000
# While the file is there, nobody's turn comes.
HELD_TURNS = """
from hub.turns import Turns
take = Turns.take

async def held(turns):
    while (DATA / "standing").exists():
        await asyncio.sleep(0.02)
    await take(turns)

Turns.take = held
"""
# While the file is there, a hub that was started anew learns nothing of a session.
HELD_CHECKS = """
import hub.checked_stops
from spawners.dispatch import DispatchSpawner
poll = DispatchSpawner.poll

async def held_poll(spawner):
    while (DATA / "unchecked").exists():
        await asyncio.sleep(0.02)
    return await poll(spawner)

DispatchSpawner.poll = held_poll
hub.checked_stops.WITHIN_S = 0.5 if (DATA / "impatient").exists() else 3600
"""
OPTIONS: dict[str, Any] = {"project": "p1", "profile": "gpu1", "runtime_s": 3600}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    one = HubProcess(tmp_path_factory.mktemp("hub") / "data", site=SITE + STUBS + HELD_TURNS + HELD_CHECKS)
    one.quota.book.available = {"p1": 100 * HOUR_MS}
    one.quota.book.payers = {"pi": ["p1"], "researcher": ["p1"]}
    try:
        one.start()
        yield one
    finally:
        one.end()


def answers(hub: HubProcess, who: Browser, path: str) -> bool:
    """Whether the notebook itself answers through the proxy."""
    try:
        page = httpx.get(f"{hub.url.rstrip('/')}{path}api", timeout=5)
    except httpx.TransportError:
        return False
    return page.status_code == 200 and "version" in page.json()


def test_two_sessions_are_two_holds_and_survive_hub_and_proxy(hub: HubProcess) -> None:
    book, pi = hub.quota.book, Browser(hub, "pi").sign_in()
    assert pi.start(OPTIONS).status_code in (201, 202)
    assert pi.start(OPTIONS, "s-2").status_code in (201, 202)
    pi.ready()
    pi.ready("s-2")
    assert sorted(hold["server_name"] for hold in book.holds.values()) == ["", "s-2"]
    assert sorted(hub.live_sessions()) == sorted(book.holds)

    for hold_id in book.holds:
        record = records.read(hub.data / "sessions" / hold_id)
        variables = processes.environment(record.child_pid)
        assert variables["OPENAI_API_KEY"] == f"key-of-{hold_id}"
        assert variables["OPENAI_BASE_URL"] == f"{hub.url}services/gateway/v1"
        assert (variables["COMMONS_PROJECT"], variables["COMMONS_SIMULATED_GPUS"]) == ("p1", "1")
        assert not {hub.secret("hub_credential"), hub.secret("quota_api_token")} & set(variables.values())

    # The start page offers a further session a name of its own.
    further = pi.http.get("/hub/commons/start", follow_redirects=False).headers["Location"]
    assert further.startswith("/hub/spawn/pi/s-")
    assert not further.endswith("/s-2")

    # A hub that is killed and comes back finds both and asks for no further hold.
    placed = len([path for _, path, _, _ in book.calls if path.startswith("/holds/")])
    hub.kill_hub()
    hub.start_hub()
    pi.ready()
    pi.ready("s-2")
    assert len([path for _, path, _, _ in book.calls if path.startswith("/holds/")]) == placed
    assert sorted(hub.live_sessions()) == sorted(book.holds)

    # A proxy that is killed has its routes back within 15 s.
    hub.kill_proxy()
    hub.start_proxy()
    until(lambda: answers(hub, pi, "/user/pi/"), within_s=PATIENCE_S, what="the route to the notebook is back")
    until(lambda: answers(hub, pi, "/user/pi/s-2/"), within_s=PATIENCE_S, what="the route to the second one is back")
    gateway = httpx.get(f"{hub.url}services/gateway/v1/models", timeout=60)
    assert "X-JupyterHub-Version" not in gateway.headers  # the hub itself is not who answers

    # Stopping one gives a hint for its hold only; the other goes on.
    first = next(hold_id for hold_id, hold in book.holds.items() if hold["server_name"] == "")
    pi.stop()
    until(lambda: first in {hold_id for hold_id, _ in book.ended}, within_s=PATIENCE_S, what="the hint")
    assert hub.live_sessions() == [hold_id for hold_id in book.holds if hold_id != first]
    pi.stop("s-2")
    until(lambda: not book.open_holds(), within_s=PATIENCE_S, what="both hints")
    assert hub.live_sessions() == []


def test_a_hub_killed_between_hold_and_start_leaves_nothing_running(hub: HubProcess) -> None:
    book, researcher = hub.quota.book, Browser(hub, "researcher").sign_in()
    pause = hub.data / "pause"
    pause.touch()
    before = set(book.holds)
    assert researcher.start(OPTIONS).status_code in (201, 202)
    until(lambda: set(book.holds) - before, within_s=PATIENCE_S, what="the hold is placed")
    hub.kill_hub()
    pause.unlink()
    (orphan,) = set(book.holds) - before
    hub.start_hub()
    until(lambda: researcher.server() is None, within_s=PATIENCE_S, what="the hub knows that nothing runs")
    assert hub.live_sessions() == []
    assert not (hub.data / "sessions" / orphan).exists()

    # The next start is another one: it gets a hold of its own.
    assert researcher.start(OPTIONS).status_code in (201, 202)
    researcher.ready()
    (fresh,) = set(book.holds) - before - {orphan}
    assert hub.live_sessions() == [fresh]

    # What the hub has forgotten is no reason for a second hold: the next start adopts what runs.
    hub.kill_hub()
    with sqlite3.connect(hub.data / "hub" / "jupyterhub.sqlite") as database:
        database.execute("UPDATE spawners SET state = '{}', server_id = NULL, started = NULL")
    database.close()
    hub.start_hub()
    assert researcher.server() is None
    assert researcher.start(OPTIONS).status_code in (201, 202)
    researcher.ready()
    assert set(book.holds) - before == {orphan, fresh}
    assert hub.live_sessions() == [fresh]
    researcher.stop()
    until(lambda: fresh in {hold_id for hold_id, _ in book.ended}, within_s=PATIENCE_S, what="the hint")
    assert hub.live_sessions() == []


def test_a_stop_waits_until_a_new_hub_has_looked_at_the_session(hub: HubProcess) -> None:
    pi, held, impatient = Browser(hub, "pi").sign_in(), hub.data / "unchecked", hub.data / "impatient"
    assert pi.start(OPTIONS).status_code in (201, 202)
    pi.ready()
    held.touch()
    impatient.touch()
    hub.kill_hub()
    hub.start_hub()
    answer = pi.api("DELETE", "/users/pi/servers/")
    assert (answer.status_code, "Try again in a moment" in answer.json()["message"]) == (503, True), answer.text
    impatient.unlink()
    hub.kill_hub()
    hub.start_hub()
    with ThreadPoolExecutor(1) as aside:
        asked = aside.submit(pi.api, "DELETE", "/users/pi/servers/")
        assert pi.server("") is not None  # the hub is there and answers others
        held.unlink()
        assert asked.result(PATIENCE_S).status_code in (202, 204)
    until(lambda: not hub.live_sessions(), what="the session has ended")


def test_a_start_cancelled_while_it_is_pending_gives_its_hold_back(hub: HubProcess) -> None:
    book, pi = hub.quota.book, Browser(hub, "pi").sign_in()
    before = set(book.holds)
    book.holds_fault, book.slow_s = Fault.SLOW, 1.5
    try:
        pi.choose({**OPTIONS, "application": "lab", "runtime_s": "3600"}, "s-3")
        pi.stop("s-3")
    finally:
        book.holds_fault = Fault.NONE
    until(lambda: set(book.holds) - before, within_s=PATIENCE_S, what="the slow hold is placed")
    until(lambda: not set(book.open_holds()) - before, within_s=PATIENCE_S, what="it is given back")
    assert hub.live_sessions() == []


def test_a_stranger_who_asks_as_a_job_does_waits_in_no_line_and_makes_none_longer(hub: HubProcess) -> None:
    url, standing = f"{hub.url}hub/api/commons/deadline", hub.data / "standing"
    known = {"Authorization": f"token {hub.secret('launcher_api_token')}"}
    standing.touch()
    try:
        for stranger in ({}, {"Authorization": "token " + "0" * 32}):
            assert httpx.get(url, headers=stranger, timeout=PATIENCE_S).status_code == 403
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(url, headers=known, timeout=httpx.Timeout(PATIENCE_S, read=2))
    finally:
        standing.unlink()
    assert httpx.get(url, headers=known, timeout=PATIENCE_S).status_code == 403  # of no session
