"""What the helper tells, as evidence: starts, ends, pauses, refusals; silence and nonsense are outages. The wire is a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from quota.adapters.engine_evidence import EngineEvidence
from quota.domain.errors import Unavailable
from quota.domain.ids import HoldId, ProjectId
from quota.domain.session import EndReason, Evidence, Run, Seen
from quota.service.session_ports import Asked

HOLD = HoldId("hold-0001")
START = datetime(2026, 3, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)


def told(**changes: Any) -> dict[str, Any]:
    return {
        "hold_id": HOLD,
        "status": "running",
        "started_at_ms": START_MS,
        "ended_at_ms": None,
        "device_missing": False,
        "never_started": False,
        "starting": False,
        "out_of_memory": False,
        "exit_status": None,
        "end_reason": "",
        "deadline_ms": START_MS + 60_000,
        "due_ms": START_MS + 60_000,
        "paused_ms": 0,
        "paused": False,
        "error": "",
        "seen_at_ms": START_MS + 10_000,
        **changes,
    }


def at(ms: int) -> datetime:
    return datetime.fromtimestamp((START_MS + ms) / 1000, UTC)


class Helper:
    """Answers at the wire; tests set what."""

    def __init__(self) -> None:
        self.sessions: Any = []
        self.status = 200
        self.removed: list[str] = []
        self.remove_status = 204
        self.closed: set[str] = set()

    async def is_closed(self, hold_id: HoldId) -> bool:
        return hold_id in self.closed

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/commons/sessions", self._sessions)
        app.router.add_delete("/containers/{name}", self._remove)
        return app

    async def _sessions(self, request: web.Request) -> web.Response:
        return web.json_response({"sessions": self.sessions}, status=self.status)

    async def _remove(self, request: web.Request) -> web.Response:
        self.removed.append(request.match_info["name"])
        return web.Response(status=self.remove_status)


@pytest.fixture
async def wired(tmp_path: Path) -> AsyncIterator[tuple[Helper, EngineEvidence]]:
    helper = Helper()
    runner = web.AppRunner(helper.app())
    await runner.setup()
    socket = tmp_path / "helper.sock"
    await web.UnixSite(runner, str(socket)).start()
    yield helper, EngineEvidence(socket, helper.is_closed)
    await runner.cleanup()


Look = Callable[..., Awaitable[Seen]]


@pytest.fixture
def look(wired: tuple[Helper, EngineEvidence]) -> Look:
    helper, evidence = wired

    async def one(**changes: Any) -> Seen:
        helper.sessions = [told(**changes)]
        asked = Asked(HOLD, "container", "gpu1", ProjectId("p1"), START)
        return (await evidence.read([asked]))[HOLD]

    return one


async def test_a_running_session_is_proved_to_the_moment_of_the_look(look: Look) -> None:
    assert await look() == Evidence(HOLD, START, at(10_000), None, ends_at=at(60_000))


@pytest.mark.parametrize(
    ("changes", "reason", "note"),
    [
        ({}, EndReason.EXITED, ""),
        ({"end_reason": "deadline"}, EndReason.DEADLINE, "deadline"),
        ({"end_reason": "idle"}, EndReason.STOPPED, "idle"),
        ({"out_of_memory": True}, EndReason.OUT_OF_MEMORY, ""),
    ],
)
async def test_an_end_is_the_engines_with_its_reason(
    look: Look, changes: dict[str, Any], reason: EndReason, note: str
) -> None:
    found = await look(status="exited", ended_at_ms=START_MS + 7_000, due_ms=None, **changes)
    assert found == Evidence(HOLD, START, at(7_000), at(7_000), reason, note=note)


async def test_what_never_ran_costs_nothing_and_says_why(look: Look) -> None:
    assert await look(device_missing=True) == Evidence(HOLD, None, None, None, EndReason.DEVICE_MISSING)
    found = await look(status="created", started_at_ms=None, never_started=True, error="no such device")
    assert found == Evidence(HOLD, None, None, None, EndReason.NEVER_STARTED, note="no such device")


async def test_a_container_that_is_about_to_start_is_on_its_way(look: Look) -> None:
    assert await look(status="created", started_at_ms=None) == Evidence(HOLD, None, None, None)


async def test_a_container_whose_server_has_not_answered_yet_is_on_its_way_and_not_charged(look: Look) -> None:
    assert await look(starting=True) == Evidence(HOLD, None, None, None)


async def test_a_pause_is_not_billed(look: Look) -> None:
    found = await look(status="paused", paused=True, paused_ms=4_000, due_ms=None)
    assert isinstance(found, Evidence)
    assert found.runs == (Run(START, at(10_000), 6_000),)
    assert found.suspended
    assert found.ends_at is None


async def test_no_container_is_positively_nothing(wired: tuple[Helper, EngineEvidence]) -> None:
    asked = Asked(HOLD, "container", "gpu1", ProjectId("p1"), START)
    assert await wired[1].read([asked]) == {HOLD: None}


@pytest.mark.parametrize("status", [500, 503, 403])
async def test_an_answer_that_is_no_answer_is_an_outage(wired: tuple[Helper, EngineEvidence], status: int) -> None:
    wired[0].status = status
    with pytest.raises(Unavailable):
        await wired[1].read([])


@pytest.mark.parametrize("broken", [{"started_at_ms": "x"}, {"started_at_ms": -1}, {"paused_ms": "x"}])
async def test_nonsense_is_an_outage(look: Look, broken: dict[str, Any]) -> None:
    with pytest.raises(Unavailable):
        await look(**broken)


async def test_silence_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await EngineEvidence(tmp_path / "nobody.sock", Helper().is_closed).read([])


async def test_settled_sessions_are_removed_and_a_removal_that_failed_is_tried_again(
    wired: tuple[Helper, EngineEvidence],
) -> None:
    helper, evidence = wired
    helper.remove_status = 503
    await evidence.settled([HOLD])
    helper.remove_status, helper.sessions = 204, [told()]
    await evidence.read([])
    await evidence.read([])
    assert helper.removed == [f"cc-{HOLD}"] * 2


async def test_what_ended_and_was_settled_before_a_crash_is_removed_at_the_next_look_and_nothing_else(
    wired: tuple[Helper, EngineEvidence],
) -> None:
    helper, evidence = wired
    ended = {"ended_at_ms": START_MS + 1}
    helper.sessions = [told(), told(hold_id="hold-0002", **ended), told(hold_id="hold-0003", **ended)]
    helper.closed = {"hold-0001", "hold-0003"}
    await evidence.read([])
    assert helper.removed == ["cc-hold-0003"]
