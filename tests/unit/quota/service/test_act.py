"""What reconciliation does: stops what has to stop, tries again with a growing pause, asks and cancels in queues, takes over the forgotten."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

from quota.domain.errors import QuotaError, Unavailable
from quota.domain.hold import Charged, HoldState, Usage
from quota.domain.ids import HoldId, ProjectId
from quota.domain.notice import NoticeKind
from quota.domain.session import EndReason, Evidence, Run, SessionState, Target
from quota.service.admit import SessionHoldRequest, place_session_hold
from quota.service.meter import Meter
from quota.service.reconcile import reconcile
from quota.service.session_ports import HubServer, HubView
from tests.fake_store import FakeTransaction
from tests.fakes import START, FakeEvidence, FakeLedger, World, world

HOUR = 3_600_000
HOLD = HoldId("hold-0001")


async def held(w: World) -> ProjectId:
    project = w.project(w.person("pi"), gpu_ms=10 * HOUR)
    await place_session_hold(w.services, SessionHoldRequest(HOLD, "pi", project, "gpu1", "lab", 3600, ""))
    w.hub.runs("pi", "", HOLD)
    return project


def runs(w: World, seconds: float) -> None:
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, START + timedelta(seconds=seconds), None)


def want_stopped(w: World, after_s: float, reason: str = "suspended") -> None:
    w.books.sessions[HOLD] = replace(
        w.books.sessions[HOLD], target=Target.STOPPED, stop_at=w.clock.now() + timedelta(seconds=after_s),
        stop_reason=reason,
    )  # fmt: skip


async def test_a_session_that_has_to_end_is_stopped_at_its_instant_with_its_reason_and_not_before() -> None:
    w = world()
    await held(w)
    runs(w, 60)
    meter = Meter(w.services)
    await reconcile(w.services, meter)
    want_stopped(w, 600)
    w.clock.tick(599)
    await reconcile(w.services, meter)
    assert w.hub.stopped == []
    w.clock.tick(1)
    await reconcile(w.services, meter)
    assert [(one.hold_id, one.reason, one.grace_s) for one in w.hub.stopped] == [(HOLD, "suspended", 60)]
    assert w.books.sessions[HOLD].state is SessionState.STOPPING


async def test_a_stop_that_fails_is_tried_again_with_a_growing_pause() -> None:
    w = world()
    await held(w)
    runs(w, 60)
    meter = Meter(w.services)
    await meter.run_pass(HubView())
    want_stopped(w, 0)
    tries = 0
    w.hub.down = True
    for _ in range(60):
        await meter.actions.run(HubView())
        tries = w.books.sessions[HOLD].tries
        w.clock.tick(5)
    assert 4 <= tries <= 8  # of 60 looks in five minutes: after 5, 10, 20, … seconds, at most the grace of 60
    w.hub.down = False
    w.clock.tick(300)
    await Meter(w.services).actions.run(HubView())  # a new process
    assert len(w.hub.stopped) == 1


async def test_a_stop_that_had_no_effect_is_asked_for_again_within_its_grace_however_often_it_was_asked() -> None:
    w = world()
    await held(w)
    runs(w, 60)
    meter = Meter(w.services)
    await meter.run_pass(HubView())
    want_stopped(w, 0)
    asked_at = []
    for _ in range(1800):
        before = len(w.hub.stopped)
        await meter.actions.run(HubView())
        asked_at += [w.clock.now()] if len(w.hub.stopped) > before else []
        w.clock.tick(1)
    pauses = [(after - before).total_seconds() for before, after in pairwise(asked_at)]
    assert len(pauses) > 25
    assert max(pauses) == 60


async def test_a_session_that_its_own_hub_forgot_is_taken_over() -> None:
    """As after a stop that failed while this service could not be told of it: JupyterHub forgets the server."""
    w = world()
    await held(w)
    runs(w, 60)
    w.hub.view = HubView(epoch=FakeTransaction(w.books).fences.take("hub", "its own", START - timedelta(hours=1)))
    meter = Meter(w.services)
    await reconcile(w.services, meter)
    assert w.hub.adopted == []
    w.hub.servers.clear()
    await reconcile(w.services, meter)
    assert (w.hub.adopted, w.hub.stopped) == ([HOLD], [])


async def test_a_stop_is_not_done_before_evidence_shows_the_end() -> None:
    w = world()
    project = await held(w)
    runs(w, 60)
    meter = Meter(w.services)
    await reconcile(w.services, meter)
    want_stopped(w, 0)
    await reconcile(w.services, meter)
    runs(w, 90)
    await reconcile(w.services, meter)
    assert w.books.sessions[HOLD].state is SessionState.STOPPING
    assert w.balance(project).charged == 90_000
    end = START + timedelta(seconds=95)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, end, end, EndReason.STOPPED)
    await reconcile(w.services, meter)
    assert (w.books.sessions[HOLD].state, w.books.sessions[HOLD].stop_reason) == (SessionState.SETTLED, "suspended")


async def test_a_session_in_a_queue_costs_nothing_is_asked_about_once_and_cancelled_after_two_days() -> None:
    w = world()
    project = await held(w)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, None, None, None, waiting_since=START, note="Priority")
    meter = Meter(w.services)
    await reconcile(w.services, meter)
    assert (w.books.sessions[HOLD].state, w.books.sessions[HOLD].note) == (SessionState.PENDING, "Priority")
    for _ in range(2):
        w.clock.tick(86_400 - 1)
        await reconcile(w.services, meter)
    assert w.hub.stopped == []
    kinds = [one.kind for one in w.books.told.notices]
    assert kinds == [NoticeKind.PENDING]
    assert w.books.told.notices[0].params["waited_s"] == 2 * 86_399
    w.clock.tick(2)
    await reconcile(w.services, meter)
    assert [one.reason for one in w.hub.stopped] == ["pending_too_long"]
    w.evidence.by_hold[HOLD] = Evidence(HOLD, None, None, None, EndReason.CANCELLED)
    await reconcile(w.services, meter)
    assert w.books.holds[HOLD][0].state is HoldState.RELEASED
    assert (w.balance(project).charged, w.balance(project).held) == (0, 0)
    assert w.books.sessions[HOLD].end_reason is EndReason.CANCELLED


async def test_who_waited_in_a_queue_is_told_and_mailed_once_and_only_when_the_notebook_answers() -> None:
    w = world()
    await held(w)
    (starting,) = w.hub.servers = [replace(w.hub.servers[0], ready=False, pending="spawn")]
    w.services = replace(w.services, sends_mail=True)
    meter = Meter(w.services)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, None, None, None, waiting_since=START)
    await reconcile(w.services, meter)
    began = w.clock.tick(600)
    for view in ("spawn", "silent", "spawn"):  # Slurm runs the job, and its notebook comes up
        w.hub.down = view == "silent"
        w.evidence.by_hold[HOLD] = Evidence(HOLD, began, w.clock.tick(30), None)
        await reconcile(w.services, meter)
        assert (w.books.told.notices, w.books.sessions[HOLD].state) == ([], SessionState.RUNNING)
    w.hub.servers = [replace(starting, ready=True, pending=None)]
    for _ in range(2):
        w.evidence.by_hold[HOLD] = Evidence(HOLD, began, w.clock.tick(30), None)
        await reconcile(w.services, Meter(w.services))  # in whatever process
    assert w.books.sessions[HOLD].waiting_since is None
    assert [one.kind for one in w.books.told.notices] == [NoticeKind.READY]
    assert len(w.books.told.mails) == 1
    assert w.books.told.notices[0].params["ends_at"] == "2026-03-02T10:10:00+00:00"


async def test_a_session_that_left_the_queue_is_neither_asked_about_nor_cancelled() -> None:
    w = world()
    await held(w)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, None, None, None, waiting_since=START)
    meter = Meter(w.services)
    await reconcile(w.services, meter)
    w.clock.tick(47 * 3600)
    start = w.clock.now()
    w.evidence.by_hold[HOLD] = Evidence(HOLD, start, start + timedelta(seconds=1), None)
    w.clock.tick(3600)
    await reconcile(w.services, meter)
    assert w.books.sessions[HOLD].state is SessionState.RUNNING
    assert w.hub.stopped == []


async def test_a_session_that_a_new_hub_does_not_know_is_taken_over_and_nothing_is_stopped() -> None:
    w = world()
    await held(w)
    runs(w, 60)
    w.hub.servers.clear()
    w.clock.tick(60)
    epoch = FakeTransaction(w.books).fences.take("hub", "new", w.clock.now())
    w.hub.view = HubView(epoch=epoch)
    await reconcile(w.services, Meter(w.services))
    assert (w.hub.adopted, w.hub.stopped) == ([HOLD], [])


async def test_the_list_of_a_hub_that_was_replaced_does_not_count() -> None:
    w = world()
    await held(w)
    fences = FakeTransaction(w.books).fences
    old = fences.take("hub", "old", w.clock.now())
    w.clock.tick(1)
    fences.take("hub", "new", w.clock.now())
    w.hub.view = HubView(epoch=old)
    w.hub.servers.clear()
    w.clock.tick(86_400)
    assert (await reconcile(w.services, Meter(w.services))).open_session_holds == 1


async def test_a_hold_whose_hub_died_before_the_start_is_released_once_a_new_hub_is_up() -> None:
    w = world()
    project = await held(w)
    w.hub.servers.clear()
    w.clock.tick(5)
    w.hub.view = HubView(epoch=FakeTransaction(w.books).fences.take("hub", "new", w.clock.now()))
    meter = Meter(w.services)
    w.clock.tick(29)
    assert (await reconcile(w.services, meter)).released == 0
    w.clock.tick(1)
    assert (await reconcile(w.services, meter)).released == 1
    assert w.balance(project).available == 10 * HOUR


async def test_a_hold_placed_while_the_clock_ran_ahead_is_released_like_any_other_that_nobody_started() -> None:
    w = world()
    w.clock.tick(3600)
    project = await held(w)
    w.hub.servers.clear()
    w.clock.tick(-3600)
    w.hub.view = HubView(epoch=FakeTransaction(w.books).fences.take("hub", "new", w.clock.now()))
    w.clock.tick(30)
    assert (await reconcile(w.services, Meter(w.services))).released == 1
    assert w.balance(project).available == 10 * HOUR


async def test_a_late_hold_takes_no_newer_starts_listing() -> None:
    w = world()
    project = await held(w)
    runs(w, 60)
    w.clock.tick(1)
    late = HoldId("hold-0002")
    await place_session_hold(w.services, SessionHoldRequest(late, "pi", project, "gpu1", "lab", 3600, ""))
    w.hub.servers = [HubServer("pi", "", ready=True, pending=None, hold_id=HOLD)]
    w.clock.tick(601)
    report = await reconcile(w.services, Meter(w.services))
    assert report.released == 1
    assert w.books.holds[late][0].state is HoldState.RELEASED
    assert w.books.holds[HOLD][0].state is HoldState.HELD


async def test_devices_that_are_missing_are_a_refusal_without_a_charge() -> None:
    w = world()
    project = await held(w)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, None, None, None, EndReason.DEVICE_MISSING, note="GPU-1 is gone")
    assert (await reconcile(w.services, Meter(w.services))).released == 1
    row = w.books.sessions[HOLD]
    assert (row.state, row.end_reason, row.note) == (SessionState.REFUSED, EndReason.DEVICE_MISSING, "GPU-1 is gone")
    assert w.balance(project).available == 10 * HOUR


async def test_a_session_suspended_by_its_backend_is_not_billed_and_its_end_follows_the_backends() -> None:
    w = world()
    project = await held(w)
    ends_at = START + timedelta(hours=2)
    w.evidence.by_hold[HOLD] = Evidence(
        HOLD, START, START + timedelta(seconds=600), None, runs=(Run(START, START + timedelta(seconds=60)),),
        suspended=True, ends_at=ends_at,
    )  # fmt: skip
    w.clock.tick(600)
    await reconcile(w.services, Meter(w.services))
    row = w.books.sessions[HOLD]
    assert w.balance(project).charged == 60_000
    assert (row.state, row.suspended, row.ends_at) == (SessionState.RUNNING, True, ends_at)
    assert w.books.holds[HOLD][0].lease_until > w.clock.now()


class Interrupted(FakeEvidence):
    """While the end of one session is made known, the hub hints at another one's."""

    meter: Meter
    hinted: HoldId | None = None

    async def settled(self, hold_ids: Sequence[HoldId]) -> None:
        await super().settled(hold_ids)
        if self.hinted is not None:
            hinted, self.hinted = self.hinted, None
            await self.meter.ended(hinted, "stopped")


async def test_a_hint_in_the_middle_of_a_pass_hides_no_session_from_it() -> None:
    w = world()
    project = await held(w)
    for number in (2, 3):
        hold_id = HoldId(f"hold-000{number}")
        await place_session_hold(w.services, SessionHoldRequest(hold_id, "pi", project, "gpu1", "lab", 3600, hold_id))
        w.hub.runs("pi", hold_id, hold_id)
    evidence = Interrupted()
    evidence.by_hold = {HoldId(f"hold-000{n}"): Evidence(HoldId(f"hold-000{n}"), START, START, None) for n in (1, 2)}
    evidence.by_hold[HoldId("hold-0003")] = Evidence(HoldId("hold-0003"), START, START, START, EndReason.EXITED)
    w.services = replace(w.services, evidence=evidence)
    meter = evidence.meter = Meter(w.services)
    want_stopped(w, 0)
    evidence.hinted = HoldId("hold-0002")
    await reconcile(w.services, meter)
    assert evidence.hinted is None
    assert {one.hold_id for one in w.hub.stopped} == {HOLD}


class Unwilling(FakeLedger):
    """Takes no charge."""

    async def charge_many(self, usages: Sequence[Usage]) -> Sequence[Charged | QuotaError]:
        return [Unavailable("its disk is full") for _ in usages]


async def test_a_session_whose_charge_the_ledger_does_not_take_is_stopped_all_the_same() -> None:
    w = world()
    project = await held(w)
    runs(w, 60)
    w.services = replace(w.services, ledger=Unwilling(w.books))
    want_stopped(w, 0)
    await reconcile(w.services, Meter(w.services))
    assert [one.hold_id for one in w.hub.stopped] == [HOLD]
    end = START + timedelta(seconds=61)
    w.evidence.by_hold[HOLD] = Evidence(HOLD, START, end, end, EndReason.STOPPED)
    w.services = replace(w.services, ledger=w.ledger)
    await reconcile(w.services, Meter(w.services))
    assert (w.balance(project).charged, w.balance(project).held) == (61_000, 0)
