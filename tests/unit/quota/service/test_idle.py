"""Idle sessions as the service handles them: told, stopped with the reason, kept alive by their owner."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from quota.domain.errors import Forbidden, Invalid, Unknown, WrongState
from quota.domain.idle import IdleVerdict
from quota.domain.ids import HoldId
from quota.domain.notice import NoticeKind
from quota.domain.project import ProjectRole
from quota.domain.session import SessionState, Target
from quota.service import idle, members
from quota.service.notices import unread
from tests.fakes import World, world
from tests.unit.quota.service.test_notices import HOUR, running, told

ASKED = {"hub_name": "pi", "server_name": "", "busy": False, "active_at": None}


async def look(made: World, **changes: object) -> IdleVerdict | None:
    return await idle.seen(made.services, idle.Activity(**{**ASKED, **changes}))  # type: ignore[arg-type]


async def started() -> tuple[World, HoldId]:
    made = world()
    pi = made.person("pi")
    return made, await running(made, pi, made.project(pi, gpu_ms=100 * HOUR), runtime_s=11 * 3600)


async def test_an_idle_session_is_told_then_stopped_with_its_reason_and_a_notice() -> None:
    made, hold_id = await started()
    made.clock.tick(3000)
    assert (await look(made)) is not None
    assert [one.kind for one in told(made)] == [NoticeKind.IDLE]
    made.clock.tick(600)
    verdict = await look(made)
    assert verdict is not None
    assert verdict.stop
    session = made.books.sessions[hold_id]
    assert (session.target, session.stop_reason) == (Target.STOPPED, "idle")
    assert told(made)[-1].params["why_code"] == "idle"
    assert (await look(made)) is None  # it is on its way out


async def test_a_busy_kernel_and_a_late_cell_keep_it_and_an_instant_in_the_future_counts_as_now() -> None:
    made, _ = await started()
    made.clock.tick(3500)
    await look(made, busy=True)
    made.clock.tick(3500)
    await look(made, active_at=made.clock.now() - timedelta(seconds=10))
    made.clock.tick(3000)
    await look(made, active_at=made.clock.now() + timedelta(days=30))
    assert told(made) == []


async def test_what_is_unknown_or_not_running_is_left_alone() -> None:
    made, hold_id = await started()
    made.clock.tick(10_000)
    assert await look(made, hub_name="nobody") is None
    assert await look(made, server_name="other") is None
    made.books.sessions[hold_id] = replace(made.books.sessions[hold_id], state=SessionState.UNKNOWN)
    assert await look(made) is None
    assert told(made) == []


async def test_an_owner_keeps_it_alive_as_long_as_the_profile_allows_and_the_notice_goes() -> None:
    made, hold_id = await started()
    pi = made.person("pi")
    made.clock.tick(3000)
    await look(made)
    assert len((await unread(made.services, pi))[0]) == 1
    until = await idle.keep_alive(made.services, pi, hold_id, 3600)
    assert until == made.clock.now() + timedelta(seconds=3600)
    assert (await unread(made.services, pi))[0] == []
    made.clock.tick(1800)
    verdict = await look(made)
    assert verdict is not None
    assert (verdict.tell, verdict.stop) == (False, False)
    capped = await idle.keep_alive(made.services, pi, hold_id, 86_400)
    assert capped == made.books.sessions[hold_id].started_at + timedelta(seconds=3600 + 4 * 3600)  # type: ignore[operator]


async def test_only_the_owner_keeps_a_running_session_alive() -> None:
    made, hold_id = await started()
    pi, member, stranger = (made.person(name) for name in ("pi", "member", "stranger"))
    project = made.books.sessions[hold_id].project_id
    await members.put_member(made.services, pi, project, "member", ProjectRole.MEMBER)
    with pytest.raises(Forbidden):
        await idle.keep_alive(made.services, member, hold_id, 60)
    with pytest.raises(Unknown):
        await idle.keep_alive(made.services, stranger, hold_id, 60)
    with pytest.raises(Invalid):
        await idle.keep_alive(made.services, pi, hold_id, 0)
    made.books.sessions[hold_id] = replace(made.books.sessions[hold_id], target=Target.STOPPED)
    with pytest.raises(WrongState):
        await idle.keep_alive(made.services, pi, hold_id, 60)


async def test_a_profile_that_the_site_no_longer_has_stops_nobody() -> None:
    made, hold_id = await started()
    session = made.books.sessions[hold_id]
    made.books.sessions[hold_id] = replace(session, terms=replace(session.terms, profile="gone"))
    made.clock.tick(30_000)
    verdict = await look(made)
    assert verdict is not None
    assert not verdict.stop
    assert told(made) == []
