"""The rows of POLICY that act on running sessions, each applied mid-run."""

from datetime import timedelta
from fractions import Fraction

import pytest

from quota.domain.errors import Forbidden, RefusalCode, Refused, Unavailable, WrongState
from quota.domain.hold import HoldState
from quota.domain.ids import AdjustmentId, AllocationId, HoldId, ProjectId
from quota.domain.project import AllocationState, ProjectRole, ProjectState
from quota.domain.rates import ChargeRate
from quota.domain.session import EndReason, Evidence, Session, SessionState, Target
from quota.service import endings, identities, members
from quota.service.admit import SessionHold, SessionHoldRequest, place_session_hold
from quota.service.callers import Power
from quota.service.extend import Extended, extend
from quota.service.meter import Meter
from quota.service.reconcile import reconcile
from quota.service.session_ports import HubView, PricedProfile
from tests.fake_store import FakeTransaction
from tests.fakes import START, FakeCatalogue, World, world

HOUR = 3_600_000
HOLD = HoldId("hold-0001")


async def start(
    w: World, who: str, hold_id: str, profile: str = "gpu1", runtime_s: int = 3600
) -> SessionHold | Refused:
    project = next(iter(w.books.projects))
    return await place_session_hold(
        w.services, SessionHoldRequest(HoldId(hold_id), who, project, profile, "lab", runtime_s, "")
    )


async def running(w: World, who: str = "member", gpu_ms: int = 10 * HOUR) -> ProjectId:
    """A project of `pi` with a member, one of whom runs a session for a minute now."""
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=gpu_ms)
    await members.put_member(w.services, pi, project, w.person("member").person.hub_name, ProjectRole.MEMBER)
    assert isinstance(await start(w, who, HOLD), SessionHold)
    w.hub.runs(who, "", HOLD)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, START + timedelta(seconds=60), None)
    await Meter(w.services).run_pass(HubView())
    return project


def row(w: World) -> Session:
    return w.books.sessions[HOLD]


async def ends_after_notice(w: World, reason: str) -> None:
    """The session runs for ten minutes more and is stopped then, with its reason."""
    meter = Meter(w.services)
    assert row(w).stop_at == w.clock.now() + timedelta(minutes=10)
    assert row(w).ends_at == row(w).stop_at
    w.clock.tick(599)
    await reconcile(w.services, meter)
    assert w.hub.stopped == []
    w.clock.tick(1)
    await reconcile(w.services, meter)
    assert [(one.hold_id, one.reason) for one in w.hub.stopped] == [(HOLD, reason)]


def with_rescue(w: World) -> None:
    catalogue = w.services.catalogue
    assert isinstance(catalogue, FakeCatalogue)
    catalogue.profiles["rescue"] = PricedProfile("rescue", "R", "cpu", "here", ("lab",), 0, 7200, rescue=True)


async def refused(w: World, who: str = "pi") -> RefusalCode:
    answer = await start(w, who, "hold-0009")
    assert isinstance(answer, Refused)
    return answer.code


async def test_a_suspended_project_starts_nothing_and_its_sessions_end_with_ten_minutes_notice() -> None:
    w = world()
    project = await running(w)
    assert await endings.suspend_project(w.services, w.person("pi"), project, finish=False, reason="audit") == 1
    assert await refused(w) is RefusalCode.PROJECT_SUSPENDED
    await ends_after_notice(w, "suspended")


async def test_a_suspension_may_let_sessions_finish() -> None:
    w = world()
    project = await running(w)
    admin = w.person("root", Power.ADMIN)
    assert await endings.suspend_project(w.services, admin, project, finish=True, reason="audit") == 0
    assert (row(w).target, row(w).ends_at) == (Target.RUNNING, START + timedelta(hours=1))
    await endings.resume_project(w.services, admin, project, reason="done")
    assert isinstance(await start(w, "pi", "hold-0009"), SessionHold)
    with pytest.raises(Forbidden):
        await endings.suspend_project(w.services, w.person("member"), project, finish=True, reason="mine")


async def test_a_revoked_allocation_ends_its_sessions_with_notice_and_they_are_settled_in_full() -> None:
    w = world()
    project = await running(w)
    allocation = AllocationId(f"{project}-gpu")
    assert await endings.revoke(w.services, w.person("root", Power.ADMIN), allocation, reason="misuse") == 1
    assert w.books.allocations[allocation].state_at(w.clock.now()) is AllocationState.REVOKED
    assert await refused(w) is RefusalCode.NO_ALLOCATION
    await ends_after_notice(w, "revoked")
    end = START + timedelta(seconds=665)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, end, end, EndReason.STOPPED)
    await reconcile(w.services, Meter(w.services))
    assert w.books.holds[HOLD][0].state is HoldState.SETTLED
    assert w.balance(project).charged == 665_000


async def test_a_removed_members_sessions_end_with_notice_and_nothing_new_starts() -> None:
    w = world()
    project = await running(w)
    assert await members.remove_member(w.services, w.person("pi"), project, "member")
    assert await refused(w, "member") is RefusalCode.NOT_A_MEMBER
    await ends_after_notice(w, "removed")


async def test_what_somebody_runs_whom_their_provider_does_not_vouch_for_ends_with_notice() -> None:
    w = world()
    await running(w)
    for _ in range(2):  # said twice, it is one end
        await identities.gone(w.services, "member")
    with pytest.raises(Forbidden):
        await start(w, "member", "hold-0009")
    await ends_after_notice(w, "signed_out")


async def test_the_remover_may_let_a_members_sessions_finish() -> None:
    w = world()
    project = await running(w)
    await members.remove_member(w.services, w.person("pi"), project, "member", finish=True)
    assert row(w).target is Target.RUNNING


async def test_a_lowered_role_ends_the_persons_sessions_with_notice_and_a_raised_one_does_not() -> None:
    w = world()
    project = await running(w)
    pi = w.person("pi")
    await members.put_member(w.services, pi, project, "member", ProjectRole.MANAGER)
    assert row(w).target is Target.RUNNING
    await members.put_member(w.services, pi, project, "member", ProjectRole.MEMBER)
    await ends_after_notice(w, "role_lowered")


async def test_nobody_elses_session_ends_with_a_members() -> None:
    w = world()
    project = await running(w, who="pi")
    await members.remove_member(w.services, w.person("pi"), project, "member")
    assert row(w).target is Target.RUNNING


async def test_an_award_lowered_below_use_keeps_its_target_and_is_reclaimed_as_holds_release() -> None:
    w = world()
    project = await running(w)
    allocation = AllocationId(f"{project}-gpu")
    in_use = 3_720_000
    lowered = await endings.lower_award(
        w.services, w.person("root", Power.ADMIN), AdjustmentId("lower-0001"), allocation, 1_000_000, "less money"
    )
    assert (lowered.balance.awarded, lowered.target) == (in_use, 1_000_000)
    assert await refused(w) is RefusalCode.INSUFFICIENT_BALANCE
    assert row(w).target is Target.RUNNING
    end = START + timedelta(seconds=90)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, end, end, EndReason.EXITED)
    meter = Meter(w.services)
    await meter.run_pass(HubView())
    small = SessionHoldRequest(HoldId("hold-0008"), "pi", project, "gpu1", "lab", 1200, "")
    assert isinstance(await place_session_hold(w.services, small), Refused)  # what is free now is not theirs any more
    await reconcile(w.services, meter)
    after = w.books.allocations[allocation]
    assert (after.balance.awarded, after.target) == (1_000_000, None)


async def test_an_exhausted_project_starts_nothing_that_costs_and_what_runs_runs_to_its_end() -> None:
    w = world()
    with_rescue(w)
    await running(w, gpu_ms=3_720_000)
    assert await refused(w) is RefusalCode.INSUFFICIENT_BALANCE
    assert row(w).target is Target.RUNNING
    assert isinstance(await start(w, "pi", "hold-0002", "rescue", 3600), SessionHold)


async def test_rescue_sessions_have_two_hours_a_day_and_say_what_is_left() -> None:
    w = world()
    with_rescue(w)
    await running(w)
    assert isinstance(await start(w, "pi", "hold-0002", "rescue", 5400), SessionHold)
    more = await start(w, "pi", "hold-0003", "rescue", 3600)
    assert more == Refused(RefusalCode.RESCUE_USED_UP, {"used_s": 5400, "fits_runtime_s": 1800})
    assert isinstance(await start(w, "member", "hold-0004", "rescue", 7200), SessionHold)
    w.clock.tick(86_400)
    w.books.sessions.clear()
    assert isinstance(await start(w, "pi", "hold-0005", "rescue", 7200), SessionHold)


async def test_an_allocation_that_ends_mid_run_lets_the_session_run_and_then_only_rescue_starts_for_two_weeks() -> None:
    w = world()
    with_rescue(w)
    project = await running(w)
    w.clock.at = START + timedelta(days=365, seconds=30)  # the allocation ended in between
    late = w.clock.now()
    w.evidence.by_hold[HOLD] = Evidence(HOLD, late - timedelta(seconds=90), late, late, EndReason.EXITED)
    w.books.holds[HOLD] = (w.books.holds[HOLD][0], w.books.holds[HOLD][1])
    assert await refused(w) is RefusalCode.NO_ALLOCATION
    assert row(w).target is Target.RUNNING
    assert isinstance(await start(w, "pi", "hold-0002", "rescue", 3600), SessionHold)
    assert isinstance(await start(w, "pi", "hold-0003", "cpu", 3600), Refused)
    w.clock.tick(14 * 86_400)
    gone = await start(w, "pi", "hold-0004", "rescue", 3600)
    assert isinstance(gone, Refused)
    assert gone.code is RefusalCode.NO_ALLOCATION
    assert w.balance(project).held > 0


async def test_when_the_pi_leaves_the_co_pi_of_longest_standing_takes_over_and_nothing_stops() -> None:
    w = world()
    project = await running(w)
    await members.put_member(w.services, w.person("pi"), project, w.person("deputy").person.hub_name, ProjectRole.CO_PI)
    assert await endings.pi_leaves(w.services, w.person("pi"), project) == w.person("deputy").id
    assert FakeTransaction(w.books).projects.role(project, w.person("deputy").id) is ProjectRole.PI
    assert row(w).target is Target.RUNNING


async def test_without_a_co_pi_new_holds_stop_after_thirty_days_until_the_programme_names_a_pi() -> None:
    w = world()
    project = await running(w)
    assert await endings.pi_leaves(w.services, w.person("pi"), project) is None
    assert isinstance(await start(w, "member", "hold-0002"), SessionHold)
    w.clock.tick(30 * 86_400)
    assert await refused(w, "member") is RefusalCode.NO_PI
    assert row(w).target is Target.RUNNING
    await endings.name_pi(w.services, w.person("root", Power.ADMIN), project, "member")
    assert isinstance(await start(w, "member", "hold-0003"), SessionHold)
    with pytest.raises(WrongState):
        await endings.name_pi(w.services, w.person("root", Power.ADMIN), project, "pi")


async def test_a_host_lost_for_good_is_charged_to_its_last_proof_of_life_and_flagged() -> None:
    w = world()
    project = await running(w)
    end = START + timedelta(seconds=75)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, end, end, EndReason.LOST)
    await reconcile(w.services, Meter(w.services))
    assert (w.balance(project).charged, row(w).end_reason) == (75_000, EndReason.LOST)


async def test_an_unreachable_backend_stops_and_settles_nothing_however_long() -> None:
    w = world()
    project = await running(w)
    w.evidence.by_hold[HOLD] = Unavailable("dark")
    meter = Meter(w.services)
    for _ in range(10):
        w.clock.tick(1800)
        await reconcile(w.services, meter)
    assert (row(w).state, row(w).alive_at) == (SessionState.UNKNOWN, START + timedelta(seconds=60))
    assert w.hub.stopped == []
    assert w.books.holds[HOLD][0].lease_until > w.clock.now()
    assert w.balance(project).charged == 60_000
    assert FakeTransaction(w.books).projects.get(project).state is ProjectState.ACTIVE  # type: ignore[union-attr]


async def test_a_rate_that_changes_mid_run_counts_for_new_holds_only() -> None:
    w = world()
    project = await running(w)
    w.books.rates.append(ChargeRate("gpu", Fraction(2), START + timedelta(seconds=30)))
    w.clock.tick(120)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, START + timedelta(seconds=120), None)
    await reconcile(w.services, Meter(w.services))
    assert w.balance(project).charged == 120_000  # a minute of it after the change
    further = await extend(w.services, w.person("member"), HOLD, "extension-1", 600)
    assert isinstance(further, Extended)
    assert further.extension.amount == 600_000  # one hold, one rate
    dearer = await start(w, "pi", "hold-0002")
    assert isinstance(dearer, SessionHold)
    assert (dearer.terms.rate, dearer.hold.amount) == (Fraction(2), 2 * 3_720_000)
    end = START + timedelta(seconds=150)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, end, end, EndReason.EXITED)
    await reconcile(w.services, Meter(w.services))
    assert w.balance(project).charged == 150_000
