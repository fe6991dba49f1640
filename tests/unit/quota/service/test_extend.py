"""Rules of extension: further hold first, backend second, undone where it refuses; once per id; inside every limit."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from quota.domain.errors import Forbidden, IdConflict, RefusalCode, Refused, Unavailable, Unknown, WrongState
from quota.domain.ids import HoldId, ProjectId
from quota.domain.project import ProjectState
from quota.domain.session import EndReason, Evidence, ExtensionState, Target
from quota.service import endings
from quota.service.admit import SessionHoldRequest, place_session_hold
from quota.service.extend import Extended, extend, fits_s, resume
from quota.service.meter import Meter
from quota.service.session_ports import HubView
from tests.fake_store import FakeTransaction
from tests.fakes import START, FakeHub, World, world

HOUR = 3_600_000
HOLD = HoldId("hold-0001")


async def running(w: World, *, gpu_ms: int = 10 * HOUR) -> ProjectId:
    """A project with one running session of an hour on one GPU."""
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=gpu_ms)
    await place_session_hold(w.services, SessionHoldRequest(HOLD, "pi", project, "gpu1", "lab", 3600, ""))
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, START + timedelta(seconds=60), None)
    await Meter(w.services).run_pass(HubView())
    return project


async def more(w: World, seconds: int, extension_id: str = "extension-1", who: str = "pi") -> Extended | Refused:
    return await extend(w.services, w.person(who), HOLD, extension_id, seconds)


async def test_an_extension_holds_more_and_moves_the_backends_end() -> None:
    w = world()
    project = await running(w)
    done = await more(w, 1800)
    assert isinstance(done, Extended)
    assert w.balance(project).held == 3_720_000 + 1_800_000 - 60_000
    assert w.hub.deadlines == [(HOLD, START + timedelta(hours=1.5))]
    assert (done.session.ends_at, done.session.runtime_s) == (START + timedelta(hours=1.5), 5400)
    await Meter(w.services).run_pass(HubView())
    assert w.books.sessions[HOLD].ends_at == START + timedelta(hours=1.5)


async def test_the_same_extension_twice_is_one() -> None:
    w = world()
    project = await running(w)
    first, second = await more(w, 1800), await more(w, 1800)
    assert isinstance(first, Extended)
    assert isinstance(second, Extended)
    assert first.session.ends_at == second.session.ends_at
    assert w.balance(project).held == 3_720_000 + 1_800_000 - 60_000
    with pytest.raises(IdConflict):
        await more(w, 3600)


async def test_a_backend_that_refuses_leaves_the_old_end_and_gives_the_hold_back() -> None:
    w = world()
    project = await running(w)
    before = w.balance(project)
    w.hub.refuses = Refused(RefusalCode.BACKEND_REFUSED, {"why": "the partition ends at six"})
    assert await more(w, 1800) == w.hub.refuses
    assert w.balance(project) == before
    assert w.books.sessions[HOLD].ends_at == START + timedelta(hours=1)
    w.hub.refuses = None
    assert (await more(w, 1800)) == Refused(RefusalCode.BACKEND_REFUSED, {"why": "the partition ends at six"})
    assert isinstance(await more(w, 1800, "extension-2"), Extended)


async def test_where_the_backends_answer_is_not_known_it_is_asked_again_and_counted_once() -> None:
    w = world()
    project = await running(w)
    w.hub.down = True
    with pytest.raises(Unavailable):
        await more(w, 1800)
    assert w.balance(project).held == 3_720_000 + 1_800_000 - 60_000
    with pytest.raises(Unavailable, match="under way"):
        await more(w, 1800, "extension-2")
    w.hub.down = False
    meter = Meter(w.services)
    assert await meter.actions.run(HubView()) == 0
    assert w.books.extensions["extension-1"].state is ExtensionState.APPLIED
    assert w.books.sessions[HOLD].runtime_s == 5400
    await meter.actions.run(HubView())
    assert w.hub.deadlines == [(HOLD, START + timedelta(hours=1.5))]


async def test_an_extension_of_a_session_that_ended_meanwhile_is_undone() -> None:
    w = world()
    project = await running(w)
    w.hub.down = True
    with pytest.raises(Unavailable):
        await more(w, 1800)
    w.hub.down = False
    end = START + timedelta(seconds=90)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, end, end, EndReason.EXITED)
    meter = Meter(w.services)
    await meter.run_pass(HubView())
    await meter.actions.run(HubView())
    assert w.books.extensions["extension-1"].state is ExtensionState.UNDONE
    assert (w.balance(project).held, w.balance(project).charged) == (0, 90_000)


class SlowHub(FakeHub):
    """Takes a new end only once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may = asyncio.Event(), asyncio.Event()

    async def set_deadline(self, hub_name: str, server_name: str, hold_id: HoldId, ends_at: datetime) -> Refused | None:
        self.asked.set()
        await self.may.wait()
        return await super().set_deadline(hub_name, server_name, hold_id, ends_at)


async def slowly(w: World) -> tuple[SlowHub, asyncio.Task[Extended | Refused]]:
    """An extension of half an hour whose backend is thinking."""
    hub = SlowHub()
    w.services = replace(w.services, hub=hub)
    asking = asyncio.create_task(more(w, 1800))
    await hub.asked.wait()
    return hub, asking


async def test_reconciliation_leaves_an_extension_alone_that_its_owners_request_is_carrying_out() -> None:
    w = world()
    await running(w)
    hub, asking = await slowly(w)
    assert await resume(w.services, w.clock.now()) == 0
    hub.may.set()
    assert isinstance(await asking, Extended)
    assert hub.deadlines == [(HOLD, START + timedelta(hours=1.5))]


async def test_a_pass_that_began_before_an_extension_does_not_move_the_end_back() -> None:
    w = world()
    await running(w)
    before = w.books.sessions[HOLD]
    assert isinstance(await more(w, 1800), Extended)
    FakeTransaction(w.books).sessions.observe([before])
    assert w.books.sessions[HOLD].ends_at == START + timedelta(hours=1.5)


async def test_an_extension_that_the_backend_takes_after_a_suspension_does_not_move_the_end_that_was_decided() -> None:
    w = world()
    project = await running(w)
    hub, asking = await slowly(w)
    await endings.suspend_project(w.services, w.person("pi"), project, finish=False, reason="audit")
    hub.may.set()
    await asking
    after = w.books.sessions[HOLD]
    assert (after.target, after.stop_at, after.ends_at) == (Target.STOPPED, after.stop_at, after.stop_at)


async def test_a_session_whose_end_has_come_is_not_extended_any_more() -> None:
    w = world()
    project = await running(w)
    held = w.balance(project).held
    w.clock.tick(3600)
    assert await fits_s(w.services, w.books.sessions[HOLD]) == 0
    with pytest.raises(WrongState):
        await more(w, 1800)
    assert w.balance(project).held == held


async def test_an_extension_that_does_not_fit_says_what_would() -> None:
    w = world()
    await running(w, gpu_ms=4_000_000)
    refused = await more(w, 3600)
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.INSUFFICIENT_BALANCE
    assert refused.params["fits_runtime_s"] == 280
    assert await fits_s(w.services, w.books.sessions[HOLD]) == 280
    assert isinstance(await more(w, 280, "extension-2"), Extended)


async def test_no_extension_goes_beyond_the_profiles_longest_runtime() -> None:
    w = world()
    await running(w, gpu_ms=100 * HOUR)
    refused = await more(w, 11 * 3600 + 1)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.params["fits_runtime_s"]) == (RefusalCode.RUNTIME_TOO_LONG, 11 * 3600)
    assert isinstance(await more(w, 11 * 3600, "extension-2"), Extended)
    assert await fits_s(w.services, w.books.sessions[HOLD]) == 0


async def test_nothing_is_extended_on_an_allocation_that_ended_or_in_a_suspended_project() -> None:
    w = world()
    project = await running(w)
    FakeTransaction(w.books).projects.set_state(project, ProjectState.SUSPENDED)
    refused = await more(w, 1800)
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.PROJECT_SUSPENDED
    FakeTransaction(w.books).projects.set_state(project, ProjectState.ACTIVE)
    w.clock.tick(400 * 86_400)
    w.books.sessions[HOLD] = replace(w.books.sessions[HOLD], ends_at=w.clock.now() + timedelta(hours=1))
    refused = await more(w, 1800, "extension-2")
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.ALLOCATION_ENDED
    assert w.hub.deadlines == []


async def test_only_its_owner_extends_a_session_and_only_while_it_runs() -> None:
    w = world()
    await running(w)
    with pytest.raises(Unknown):
        await more(w, 1800, who="stranger")
    w.books.roles[(next(iter(w.books.projects)), w.person("colleague").id)] = next(iter(w.books.roles.values()))
    with pytest.raises(Forbidden):
        await more(w, 1800, who="colleague")
    session = w.books.sessions[HOLD]
    end = START + timedelta(seconds=90)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, end, end, EndReason.EXITED)
    await Meter(w.services).run_pass(HubView())
    with pytest.raises(WrongState):
        await more(w, 1800)
    assert replace(session).extended_s == 0


async def test_the_owner_is_told_once_that_it_was_extended_or_why_not() -> None:
    w = world()
    await running(w)
    for _ in range(2):
        await more(w, 1800)
    await more(w, 12 * 3600, "extension-2")
    w.hub.refuses = Refused(RefusalCode.BACKEND_REFUSED, {"why": "the partition ends at six"})
    await more(w, 1800, "extension-3")
    told = [(one.kind.value, one.params.get("amount"), one.params.get("refusal_code")) for one in w.books.told.notices]
    assert told == [
        ("extended", 1_800_000, None),
        ("extension_refused", None, "runtime_too_long"),
        ("extension_refused", None, "backend_refused"),
    ]
