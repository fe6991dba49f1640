"""Rules of the meter: what evidence charges, settles, releases, and what silence does not."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from quota.domain.errors import Invalid, Unavailable, Unknown
from quota.domain.hold import Hold, HoldState, Usage
from quota.domain.ids import HoldId, ProjectId
from quota.domain.session import EndReason, Evidence, Run, SessionState
from quota.service.admit import SessionHoldRequest, place_session_hold
from quota.service.meter import Meter
from quota.service.session_ports import HubServer, HubView
from tests.fakes import START, FakeLedger, World, world

HOUR = 3_600_000
HOLD = HoldId("hold-0001")


async def held(w: World, profile: str = "gpu1", hold_id: HoldId = HOLD, runtime_s: int = 3600) -> ProjectId:
    """A project of 10 GPU-hours with one session held on it at START."""
    pi = w.person("pi")
    project = next(iter(w.books.projects), None) or w.project(pi, gpu_ms=10 * HOUR)
    await place_session_hold(w.services, SessionHoldRequest(hold_id, "pi", project, profile, "lab", runtime_s, ""))
    return project


def running(w: World, alive_s: float, hold_id: HoldId = HOLD) -> None:
    w.evidence.by_hold[hold_id] = Evidence(hold_id, START, START + timedelta(seconds=alive_s), None)


def ended(w: World, after_s: float, reason: EndReason = EndReason.STOPPED) -> None:
    end = START + timedelta(seconds=after_s)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, end, end, reason)


async def test_a_running_session_is_charged_to_its_last_sign_of_life() -> None:
    w = world()
    project = await held(w)
    running(w, 60)
    report = await Meter(w.services).run_pass(None)
    assert (report.open_session_holds, report.settled) == (1, 0)
    assert w.balance(project).charged == 60_000
    assert w.balance(project).held == 3_720_000 - 60_000
    assert w.books.sessions[HOLD].state is SessionState.RUNNING
    assert w.books.sessions[HOLD].ends_at == START + timedelta(hours=1)


async def test_slices_of_any_length_add_up_to_the_whole() -> None:
    w = world()
    project = await held(w, profile="gpu2")
    meter = Meter(w.services)
    for alive_s in (0.001, 0.337, 7.5, 7.501, 61.9):
        running(w, alive_s)
        await meter.run_pass(None)
    ended(w, 77.123)
    await meter.run_pass(None)
    assert w.balance(project).charged == 2 * 77_123
    assert w.balance(project).held == 0


async def test_the_intervals_of_a_session_meet_and_never_overlap() -> None:
    w = world()
    await held(w)
    meter = Meter(w.services)
    for alive_s in (60, 120, 185):
        running(w, alive_s)
        await meter.run_pass(None)
    ended(w, 200)
    await meter.run_pass(None)
    slices = sorted(w.books.usages.values(), key=lambda usage: usage.from_at)
    assert slices[0].from_at == START
    assert [one.to_at for one in slices[:-1]] == [one.from_at for one in slices[1:]]
    assert sum(one.quantity for one in slices) == 200_000


async def test_a_pass_without_news_writes_nothing() -> None:
    w = world()
    await held(w)
    running(w, 60)
    meter = Meter(w.services)
    await meter.run_pass(None)
    lines = len(w.books.lines)
    await meter.run_pass(None)
    assert len(w.books.lines) == lines


async def test_a_meter_that_was_away_bills_the_exact_gap() -> None:
    w = world()
    project = await held(w)
    running(w, 60)
    await Meter(w.services).run_pass(None)
    w.clock.tick(660)
    running(w, 660)
    await Meter(w.services).run_pass(None)  # a new process
    assert w.balance(project).charged == 660_000


async def test_an_end_settles_to_the_true_end_and_returns_the_rest() -> None:
    w = world()
    project = await held(w)
    ended(w, 90)
    report = await Meter(w.services).run_pass(None)
    assert (report.open_session_holds, report.settled) == (0, 1)
    assert w.balance(project).charged == 90_000
    assert w.balance(project).available == 10 * HOUR - 90_000
    session = w.books.sessions[HOLD]
    assert (session.state, session.end_reason) == (SessionState.SETTLED, EndReason.STOPPED)


async def test_a_lost_runner_is_charged_to_its_last_sign_of_life_and_flagged() -> None:
    w = world()
    project = await held(w)
    ended(w, 45, EndReason.LOST)
    await Meter(w.services).run_pass(None)
    assert w.balance(project).charged == 45_000
    assert w.books.sessions[HOLD].end_reason is EndReason.LOST
    assert next(iter(w.books.usages.values())).payload == {"end_reason": "lost"}


async def test_evidence_that_cannot_be_read_settles_nothing_and_extends_the_lease() -> None:
    w = world()
    project = await held(w)
    w.evidence.by_hold[HOLD] = Unavailable("no such host")
    w.clock.tick(590)
    report = await Meter(w.services).run_pass(HubView())
    assert (report.open_session_holds, report.unknown) == (1, 1)
    assert w.balance(project).held == 3_720_000
    assert w.books.holds[HOLD][0].lease_until > w.clock.now() + timedelta(minutes=50)
    assert w.books.sessions[HOLD].state is SessionState.UNKNOWN


async def test_an_unknown_session_that_is_seen_again_is_charged_the_whole_gap() -> None:
    w = world()
    project = await held(w)
    w.evidence.by_hold[HOLD] = Unavailable("no such host")
    meter = Meter(w.services)
    await meter.run_pass(HubView())
    running(w, 300)
    await meter.run_pass(HubView())
    assert w.balance(project).charged == 300_000
    assert w.books.sessions[HOLD].state is SessionState.RUNNING


async def test_positive_evidence_of_no_start_releases_at_once() -> None:
    w = world()
    project = await held(w)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, None, None, None, EndReason.NEVER_STARTED)
    report = await Meter(w.services).run_pass(None)
    assert report.released == 1
    assert w.balance(project).available == 10 * HOUR
    assert w.books.sessions[HOLD].state is SessionState.FAILED


async def test_a_start_that_nobody_sees_keeps_its_hold_until_the_lease_has_passed() -> None:
    w = world()
    project = await held(w)
    meter = Meter(w.services)
    w.clock.tick(599)
    assert (await meter.run_pass(HubView())).released == 0
    w.clock.tick(2)
    assert (await meter.run_pass(HubView())).released == 1
    assert w.balance(project).held == 0


async def test_a_hub_that_does_not_answer_releases_nothing() -> None:
    w = world()
    await held(w)
    w.clock.tick(86_400)
    assert (await Meter(w.services).run_pass(None)).open_session_holds == 1


async def test_a_server_that_the_hub_lists_keeps_its_hold_however_long_it_pends() -> None:
    w = world()
    await held(w)
    listed = [HubServer("pi", "", ready=False, pending="spawn", hold_id=None)]
    meter = Meter(w.services)
    for _ in range(5):
        w.clock.tick(500)
        assert (await meter.run_pass(HubView(listed))).open_session_holds == 1


async def test_after_a_hint_a_session_that_left_no_trace_is_released_when_the_grace_has_passed() -> None:
    w = world()
    await held(w)
    meter = Meter(w.services)
    assert await meter.ended(HOLD, "start failed") is SessionState.STOPPING
    w.clock.tick(29)
    assert (await meter.run_pass(HubView())).released == 0
    w.clock.tick(1)
    assert (await meter.run_pass(HubView())).released == 1


async def test_a_hint_brings_the_next_pass_forward_to_the_end_of_its_grace() -> None:
    w = world()
    await held(w)
    meter = Meter(w.services)
    assert meter.due_in_s() == 60
    await meter.ended(HOLD, "start failed")
    assert meter.due_in_s() == 30


async def test_a_hint_settles_at_once_where_there_is_evidence_of_the_end() -> None:
    w = world()
    project = await held(w)
    ended(w, 90)
    assert await Meter(w.services).ended(HOLD, "stopped") is SessionState.SETTLED
    assert w.balance(project).charged == 90_000


async def test_a_hint_about_a_session_that_lives_ends_nothing() -> None:
    w = world()
    project = await held(w)
    running(w, 60)
    assert await Meter(w.services).ended(HOLD, "stopped") is SessionState.STOPPING
    assert w.books.holds[HOLD][0].state is HoldState.HELD
    assert w.balance(project).charged == 60_000


async def test_hints_are_idempotent_and_late_ones_change_nothing() -> None:
    w = world()
    project = await held(w)
    ended(w, 90)
    meter = Meter(w.services)
    assert [await meter.ended(HOLD, "stopped") for _ in range(3)] == [SessionState.SETTLED] * 3
    assert w.balance(project).charged == 90_000


async def test_a_hint_about_an_unknown_hold_is_unknown() -> None:
    w = world()
    with pytest.raises(Unknown, match="hold"):
        await Meter(w.services).ended(HoldId("hold-9999"), "stopped")


async def test_a_listed_server_belongs_to_the_newest_hold_of_its_name() -> None:
    w = world()
    await held(w)
    w.clock.tick(700)
    await held(w, hold_id=HoldId("hold-0002"))
    listed = [HubServer("pi", "", ready=True, pending=None, hold_id=None)]
    report = await Meter(w.services).run_pass(HubView(listed))
    assert report.released == 1
    assert w.books.holds[HOLD][0].state is HoldState.RELEASED
    assert w.books.holds[HoldId("hold-0002")][0].state is HoldState.HELD


async def test_evidence_that_vanished_settles_as_lost_only_after_the_lease() -> None:
    w = world()
    project = await held(w)
    running(w, 60)
    meter = Meter(w.services)
    await meter.run_pass(HubView())
    del w.evidence.by_hold[HOLD]
    assert (await meter.run_pass(HubView())).open_session_holds == 1
    w.clock.tick(4000)
    assert (await meter.run_pass(HubView())).settled == 1
    assert w.balance(project).charged == 60_000
    assert w.books.sessions[HOLD].end_reason is EndReason.LOST


async def test_an_overrun_is_charged_and_shown_negative() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=180_000)
    await place_session_hold(w.services, SessionHoldRequest(HOLD, "pi", project, "gpu1", "lab", 60, ""))
    ended(w, 200)
    await Meter(w.services).run_pass(None)
    assert w.balance(project).charged == 200_000
    assert w.balance(project).available == -20_000


async def test_a_session_without_gpus_is_recorded_once_and_costs_nothing() -> None:
    w = world()
    project = await held(w, profile="cpu")
    meter = Meter(w.services)
    running(w, 60)
    await meter.run_pass(None)
    ended(w, 90)
    await meter.run_pass(None)
    assert w.balance(project).charged == 0
    assert [usage.quantity for usage in w.books.usages.values()] == [90_000]


async def test_one_holds_trouble_keeps_no_other_from_being_settled() -> None:
    w = world()
    await held(w, hold_id=HoldId("hold-0000"))
    await held(w)
    w.evidence.by_hold[HoldId("hold-0000")] = Unavailable("unreadable")
    ended(w, 90)
    report = await Meter(w.services).run_pass(None)
    assert (report.settled, report.unknown) == (1, 1)


async def test_evidence_that_contradicts_the_ledger_leaves_the_hold_open() -> None:
    w = world()
    project = await held(w)
    running(w, 60)
    meter = Meter(w.services)
    await meter.run_pass(None)
    ended(w, 30)
    assert (await meter.run_pass(None)).unknown == 1
    assert w.balance(project).charged == 60_000


async def test_a_row_that_a_crash_left_behind_its_hold_is_brought_in_line() -> None:
    w = world()
    await held(w)
    ended(w, 90)
    await w.ledger.settle(HOLD, w.clock.now())  # the process dies right after
    await Meter(w.services).run_pass(None)
    assert w.books.sessions[HOLD].state is SessionState.SETTLED
    assert w.books.sessions[HOLD].ended_at == START + timedelta(seconds=90)


class LedgerThatRefuses(FakeLedger):
    """Takes no charge on one hold, for a reason that no pass can mend."""

    async def settle(self, hold_id: HoldId, at: datetime, usage: Usage | None = None, *, hurry: bool = True) -> Hold:
        if hold_id == "hold-0000":
            raise Invalid([("amount", "out_of_range")])
        return await super().settle(hold_id, at, usage, hurry=hurry)


async def test_a_hold_that_the_ledger_will_not_close_keeps_no_other_from_being_settled() -> None:
    w = world()
    await held(w, hold_id=HoldId("hold-0000"))
    await held(w)
    ended(w, 90)
    end = START + timedelta(seconds=90)
    other = HoldId("hold-0000")
    w.evidence.by_hold[other] = Evidence(other, START, end, end, EndReason.STOPPED)
    services = replace(w.services, ledger=LedgerThatRefuses(w.books))
    report = await Meter(services).run_pass(None)
    assert (report.settled, report.unknown, report.open_session_holds) == (1, 1, 1)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


async def test_a_requeued_session_is_billed_for_its_runs_and_not_for_the_wait_between() -> None:
    w = world()
    project = await held(w)
    meter = Meter(w.services)
    running(w, 60)
    await meter.run_pass(None)
    runs = (Run(START, after(100)), Run(after(400), after(460)))
    requeued = Evidence(HOLD, START, after(460), None, runs=runs)
    w.evidence.by_hold[HOLD] = requeued
    await meter.run_pass(None)
    assert w.balance(project).charged == 160_000
    intervals = sorted((one.from_at, one.to_at) for one in w.books.usages.values())
    assert intervals == [(START, after(60)), (after(60), after(100)), (after(400), after(460))]
    w.evidence.by_hold[HOLD] = replace(
        requeued, runs=(runs[0], Run(after(400), after(500))), ended_at=after(500),
        reason=EndReason.EXITED,
    )  # fmt: skip
    assert (await meter.run_pass(None)).settled == 1
    assert w.balance(project).charged == 200_000


async def test_suspended_time_is_not_billed_where_the_backend_says_only_how_much_ran() -> None:
    w = world()
    project = await held(w, profile="gpu2")
    meter = Meter(w.services)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, after(300), None, runs=(Run(START, after(300), busy_ms=120_000),))
    await meter.run_pass(None)
    assert w.balance(project).charged == 2 * 120_000
    assert [one.quantity for one in w.books.usages.values()] == [120_000]
    w.evidence.by_hold[HOLD] = Evidence(
        HOLD, START, after(330), after(330), EndReason.EXITED, runs=(Run(START, after(330), busy_ms=140_001),)
    )
    await meter.run_pass(None)
    assert w.balance(project).charged == 2 * 140_001
    assert sum(one.quantity for one in w.books.usages.values()) == 140_001


async def test_a_pass_reads_all_evidence_in_one_look() -> None:
    w = world()
    for number in range(5):
        await held(w, hold_id=HoldId(f"hold-{number:04}"))
        running(w, 60, HoldId(f"hold-{number:04}"))
    await Meter(w.services).run_pass(None)
    assert w.evidence.looks == [5]


async def test_only_a_closed_hold_s_evidence_may_be_removed() -> None:
    w = world()
    await held(w)
    running(w, 60)
    meter = Meter(w.services)
    await meter.run_pass(None)
    assert w.evidence.told == []
    ended(w, 90)
    await meter.run_pass(None)
    assert w.evidence.told == [HOLD]
