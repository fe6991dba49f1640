"""Adjustments, reports, stops, keys and reconcile: one test a guard."""

from dataclasses import replace
from datetime import timedelta

import pytest

from quota.domain.errors import Forbidden, Invalid, RefusalCode, Refused, Unavailable, Unknown
from quota.domain.hold import HoldKind, HoldOrder, HoldState
from quota.domain.ids import AdjustmentId, AllocationId, HoldId, ProjectId
from quota.domain.project import ProjectRole
from quota.domain.session import SessionState
from quota.domain.units import Unit
from quota.service import report, sessions
from quota.service.adjust import AdjustRequest, adjust
from quota.service.admit import SessionHoldRequest, place_session_hold
from quota.service.callers import IdentityPending, Power, caller_of, powers_of
from quota.service.keys import session_key, verify_session_key
from quota.service.meter import Meter
from quota.service.ports import Adjusted
from quota.service.reconcile import reconcile
from quota.service.session_ports import StopOrder
from tests.fake_store import FakeProjects
from tests.fakes import World, world

HOUR = 3_600_000
HOLD = HoldId("hold-0001")


async def started(w: World, who: str = "pi") -> ProjectId:
    """A project of 10 GPU-hours with a member called `member` and a session of `who`."""
    pi, member = w.person("pi"), w.person("member")
    project = w.project(pi, gpu_ms=10 * HOUR, tokens=1000)
    FakeProjects(w.books).put_member(project, member.id, ProjectRole.MEMBER, w.clock.now())
    await place_session_hold(w.services, SessionHoldRequest(HOLD, who, project, "gpu1", "lab", 60, "work"))
    return project


# adjustments


async def test_an_adjustment_moves_the_award_and_a_replay_does_not() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=HOUR)
    root = w.person("root", Power.ADMIN)
    request = AdjustRequest(AdjustmentId("adjust-0001"), AllocationId(f"{project}-gpu"), -HOUR // 2, "Given back")
    done = [await adjust(w.services, root, request) for _ in range(2)]
    assert [one.replayed for one in done if isinstance(one, Adjusted)] == [False, True]
    assert w.balance(project).awarded == HOUR // 2


async def test_an_adjustment_never_takes_back_what_is_held() -> None:
    w = world()
    project = await started(w)
    request = AdjustRequest(AdjustmentId("adjust-0001"), AllocationId(f"{project}-gpu"), -10 * HOUR, "All of it")
    answer = await adjust(w.services, w.person("root", Power.ADMIN), request)
    assert isinstance(answer, Refused)
    assert answer.code is RefusalCode.WOULD_TAKE_BACK_USED


@pytest.mark.parametrize(("delta", "reason"), [(0, "fine"), (1, ""), (1, "  x  "), (1, "x" * 501), (2**62, "fine")])
async def test_an_adjustment_needs_an_amount_and_a_reason(delta: int, reason: str) -> None:
    w = world()
    project = w.project(w.person("pi"))
    request = AdjustRequest(AdjustmentId("adjust-0001"), AllocationId(f"{project}-gpu"), delta, reason)
    with pytest.raises(Invalid):
        await adjust(w.services, w.person("root", Power.ADMIN), request)


async def test_adjusting_needs_the_power_even_of_a_pi() -> None:
    w = world()
    pi = w.person("pi", Power.READ, Power.DECIDE)
    request = AdjustRequest(AdjustmentId("adjust-0001"), AllocationId(f"{w.project(pi)}-gpu"), 1, "More please")
    with pytest.raises(Forbidden):
        await adjust(w.services, pi, request)


async def test_nobody_adjusts_the_award_of_their_own_project() -> None:
    w = world()
    pi = w.person("pi", Power.ADMIN)
    request = AdjustRequest(AdjustmentId("adjust-0001"), AllocationId(f"{w.project(pi)}-gpu"), 1, "More please")
    with pytest.raises(Forbidden) as caught:
        await adjust(w.services, pi, request)
    assert caught.value.code == "own_project"


async def test_adjusting_nothing_is_unknown() -> None:
    w = world()
    request = AdjustRequest(AdjustmentId("adjust-0001"), AllocationId("nowhere-0001"), 1, "More please")
    with pytest.raises(Unknown, match="allocation"):
        await adjust(w.services, w.person("root", Power.ADMIN), request)


# reports


async def test_home_shows_both_units_and_the_callers_sessions() -> None:
    w = world()
    await started(w)
    home = await report.home(w.services, w.person("pi"))
    assert [(b.unit, b.awarded, b.held) for b in home.cards[0].balances] == [
        (Unit.GPU_MS, 10 * HOUR, 180_000),
        (Unit.TOKENS, 1000, 0),
    ]
    assert [one.hold_id for one in home.sessions] == [HOLD]


async def test_a_project_is_shown_to_members_and_admins_only() -> None:
    w = world()
    project = await started(w)
    assert (await report.project(w.services, w.person("member"), project)).card.role is ProjectRole.MEMBER
    assert (await report.project(w.services, w.person("root", Power.ADMIN), project)).card.role is None
    with pytest.raises(Unknown):
        await report.project(w.services, w.person("chair", Power.DECIDE), project)


async def test_plain_members_see_their_own_lines_and_the_awards() -> None:
    w = world()
    project = await started(w)
    seen = await report.statement(w.services, w.person("member"), project, before=None, limit=10)
    assert {line.kind for line in seen.lines} == {"deposit"}
    seen = await report.statement(w.services, w.person("pi"), project, before=None, limit=10)
    assert "hold" in {line.kind for line in seen.lines}


async def test_a_statement_is_read_page_by_page_without_gaps() -> None:
    w = world()
    project = await started(w)
    pi, seqs, before = w.person("pi"), [], None
    while True:
        page = await report.statement(w.services, pi, project, before=before, limit=1)
        seqs += [line.seq for line in page.lines]
        if page.next is None:
            break
        before = page.next
    assert seqs == [3, 2, 1]


async def test_searching_all_projects_is_for_admins_and_pages_by_slug() -> None:
    w = world()
    for _ in range(3):
        w.project(w.person("pi"))
    root = w.person("root", Power.ADMIN)
    first = await report.search(w.services, root, "project", after=None, limit=2)
    rest = await report.search(w.services, root, "project", after=first.next, limit=2)
    assert [card.project.slug for card in (*first.cards, *rest.cards)] == ["project-1", "project-2", "project-3"]
    assert rest.next is None
    with pytest.raises(Forbidden):
        await report.search(w.services, w.person("pi"), "", after=None, limit=2)


async def test_payers_are_judged_by_the_function_that_decides() -> None:
    w = world()
    pi = w.person("pi")
    w.project(pi, gpu_ms=HOUR)
    w.project(pi, gpu_ms=HOUR, days=1)
    w.clock.tick(2 * 86_400)
    views = await report.payers(w.services, "pi")
    assert [view.refusal.code if view.refusal else None for view in views] == [None, RefusalCode.NO_ALLOCATION]
    with pytest.raises(Unknown, match="person"):
        await report.payers(w.services, "nobody")


# sessions


@pytest.mark.parametrize(("who", "reason"), [("member", "owner"), ("pi", "by:pi")])
async def test_a_session_is_stopped_by_its_owner_or_a_lead_and_the_reason_is_kept(who: str, reason: str) -> None:
    w = world()
    await started(w, who="member")
    stopped = await sessions.stop(w.services, w.person(who), HOLD)
    assert (stopped.state, stopped.stop_reason) == (SessionState.STOPPING, reason)
    assert w.hub.stopped == [StopOrder("member", "work", HOLD, reason, 60)]


async def test_an_admin_stops_any_session() -> None:
    w = world()
    await started(w)
    await sessions.stop(w.services, w.person("root", Power.ADMIN), HOLD)
    assert [one.hold_id for one in w.hub.stopped] == [HOLD]


async def test_a_member_stops_no_other_members_session_and_strangers_know_of_none() -> None:
    w = world()
    await started(w)
    with pytest.raises(Forbidden):
        await sessions.stop(w.services, w.person("member"), HOLD)
    with pytest.raises(Unknown):
        await sessions.stop(w.services, w.person("stranger"), HOLD)
    assert w.hub.stopped == []


async def test_a_hub_that_does_not_answer_leaves_the_session_as_it_was() -> None:
    w = world()
    await started(w)
    w.hub.down = True
    with pytest.raises(Unavailable):
        await sessions.stop(w.services, w.person("pi"), HOLD)
    session = w.books.sessions[HOLD]
    assert (session.state, session.stop_reason) == (SessionState.HELD, None)


async def test_the_reason_of_who_stopped_it_stands_over_the_hubs_later_hint() -> None:
    w = world()
    await started(w, who="member")
    meter = Meter(w.services)

    async def stop_and_hint(order: StopOrder) -> bool:
        await meter.ended(HOLD, "stopped")
        return True

    w.hub.stop_session = stop_and_hint  # type: ignore[method-assign]
    assert (await sessions.stop(w.services, w.person("pi"), HOLD)).stop_reason == "by:pi"


async def test_a_session_that_is_over_is_not_stopped_again() -> None:
    w = world()
    await started(w)
    w.books.sessions[HOLD] = replace(w.books.sessions[HOLD], state=SessionState.SETTLED)
    assert (await sessions.stop(w.services, w.person("pi"), HOLD)).state is SessionState.SETTLED
    assert w.hub.stopped == []


# callers and keys


async def test_somebody_the_hub_has_not_named_yet_is_pending_and_not_refused() -> None:
    with pytest.raises(IdentityPending):
        await caller_of(world().services, "newcomer", frozenset())


def test_scopes_give_powers_and_nothing_else_does() -> None:
    scopes = frozenset({"custom:quota:read", "custom:quota:admin!user=x", "custom:quota:decides", "admin:users"})
    assert powers_of(scopes) == {Power.READ}


@pytest.mark.parametrize("hold", ["hold-0001", "a" * 64, "0" * 32, "a-b-c-d-e-f-"])
def test_a_key_leads_to_its_hold_and_to_no_other(hold: str) -> None:
    key = session_key(b"secret", HoldId(hold))
    assert len(key) <= 128
    assert verify_session_key(b"secret", key) == hold
    assert verify_session_key(b"other secret", key) is None


@pytest.mark.parametrize(
    "key", ["", "cck-", "cck-hold-0001-", "x" * 500, "cck-hold-0001-" + "A" * 43, "cck-é" + "A" * 60]
)
def test_what_we_did_not_make_is_no_key(key: str) -> None:
    assert verify_session_key(b"secret", key) is None


# reconcile


async def request_hold(w: World, **details: object) -> HoldId:
    project = w.project(w.person("pi"), tokens=1000)
    order = HoldOrder(
        HoldId("request-0001"), HoldKind.REQUEST, "request-0001", w.person("pi").id, project,
        AllocationId(f"{project}-tok"), Unit.TOKENS, 100, w.clock.now(), w.clock.now() + timedelta(seconds=30),
        details=details,
    )  # fmt: skip
    return (await w.ledger.place_hold(order)).id


async def test_a_request_whose_outcome_is_unknown_is_charged_whole_and_marked_estimated() -> None:
    w = world()
    hold = await request_hold(w, dispatched=True)
    w.clock.tick(31)
    await reconcile(w.services, Meter(w.services))
    assert w.books.holds[hold][0].charged == 100
    assert [usage.estimated for usage in w.books.usages.values()] == [True]


async def test_a_request_that_was_never_dispatched_expires_uncharged() -> None:
    w = world()
    hold = await request_hold(w, dispatched=False)
    w.clock.tick(31)
    await reconcile(w.services, Meter(w.services))
    assert w.books.holds[hold][0].state is HoldState.EXPIRED
    assert (w.books.lines[-1].kind, w.books.lines[-1].held) == ("expire", -100)


async def test_a_request_within_its_lease_is_left_alone() -> None:
    w = world()
    hold = await request_hold(w, dispatched=True)
    w.clock.tick(29)
    await reconcile(w.services, Meter(w.services))
    assert w.books.holds[hold][0].state is HoldState.HELD


async def test_reconcile_without_the_hub_goes_by_evidence_alone() -> None:
    w = world()
    await started(w)
    w.hub.down = True
    w.clock.tick(86_400)
    assert (await reconcile(w.services, Meter(w.services))).open_session_holds == 1
    w.hub.down = False
    assert (await reconcile(w.services, Meter(w.services))).released == 1
