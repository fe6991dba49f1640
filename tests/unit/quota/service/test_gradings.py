"""What a course pays for the runs of its submissions: set aside before, charged by evidence, given back; once, whatever dies."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction

import pytest

from quota.domain.course import CourseRole, CourseTerms
from quota.domain.errors import Forbidden, IdConflict, RefusalCode, Refused, Unavailable, Unknown
from quota.domain.grading import GradingPlace, GradingTerms
from quota.domain.hold import Hold, HoldState
from quota.domain.ids import HoldId, ProjectId
from quota.domain.messages import render
from quota.domain.project import ProjectRole
from quota.domain.rates import ChargeRate
from quota.domain.session import EndReason, Evidence
from quota.domain.units import Unit
from quota.service import gradings, teach
from quota.service.callers import Caller
from quota.service.gradings import GradingOrder
from quota.service.reconcile import expire_requests
from tests.fakes import World, world

HOUR = 3_600_000
ORDER = GradingOrder(HoldId("grading-0001"), "ml", "ps1", "ann")
HELD = 270 * 1000 // 50  # 180 s and the margin at 1/50


async def course(gpu_ms: int = HOUR) -> tuple[World, Caller, ProjectId]:
    w = world()
    w.services = replace(w.services, grading=GradingPlace("container", "grading-cpu", 1, 180))
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=gpu_ms)
    now = w.clock.now()
    terms = CourseTerms("Machine learning", now, now + timedelta(days=90), "Europe/Berlin", None, None)
    await teach.create(w.services, pi, project, "ml", terms)
    await w.services.store.write(lambda tx: tx.rates.put(ChargeRate("grading-cpu", Fraction(1, 50), now)))
    return w, pi, project


async def placed(w: World, pi: Caller, order: GradingOrder = ORDER) -> Hold:
    hold = await gradings.place(w.services, pi, order)
    assert isinstance(hold, Hold)
    return hold


def ran(w: World, *, seconds: float, started: datetime | None = None) -> None:
    at = started or w.clock.now()
    end = at + timedelta(seconds=seconds)
    w.evidence.by_hold[ORDER.id] = Evidence(ORDER.id, at, end, end, EndReason.EXITED)


async def test_a_run_is_set_aside_whole_and_charged_what_its_backend_saw() -> None:
    w, pi, project = await course()
    hold = await placed(w, pi)
    assert (hold.amount, w.balance(project, Unit.GPU_MS).held) == (HELD, HELD)
    ran(w, seconds=12.5)
    w.clock.tick(20)
    done = await gradings.ended(w.services, pi, "ml", ORDER.id)
    assert (done.state, done.charged) == (HoldState.SETTLED, 250)
    assert (w.balance(project, Unit.GPU_MS).charged, w.balance(project, Unit.GPU_MS).held) == (250, 0)
    assert w.evidence.told == []  # the grader waits for the charge, not for the removal
    await gradings.clear(w.services, done)
    assert w.evidence.told == [ORDER.id]


async def test_asking_again_is_the_first_answer_and_another_run_under_its_id_a_conflict() -> None:
    w, pi, project = await course()
    await placed(w, pi)
    again = await placed(w, pi)
    assert again.replayed
    assert w.balance(project, Unit.GPU_MS).held == HELD
    with pytest.raises(IdConflict):
        await gradings.place(w.services, pi, replace(ORDER, student="ben"))
    ran(w, seconds=1)
    for _ in range(3):
        await gradings.ended(w.services, pi, "ml", ORDER.id)
        await gradings.close_gradings(w.services)
    assert w.balance(project, Unit.GPU_MS).charged == 20


async def test_a_grader_that_died_is_not_waited_for() -> None:
    w, pi, project = await course()
    await placed(w, pi)
    ran(w, seconds=5)
    assert await gradings.close_gradings(w.services) == 1
    assert w.balance(project, Unit.GPU_MS).charged == 100


async def test_what_never_started_is_given_back_after_its_lease_and_at_once_where_its_grader_says_so() -> None:
    w, pi, project = await course()
    await placed(w, pi)
    assert await gradings.close_gradings(w.services) == 0
    w.clock.tick(w.services.policy.start_lease_s + 1)
    assert await expire_requests(w.services) == 0  # no model's request: nothing is charged for an unknown outcome
    assert await gradings.close_gradings(w.services) == 1
    other = replace(ORDER, id=HoldId("grading-0002"))
    await placed(w, pi, other)
    assert (await gradings.ended(w.services, pi, "ml", other.id)).state is HoldState.RELEASED
    assert (w.balance(project, Unit.GPU_MS).charged, w.balance(project, Unit.GPU_MS).held) == (0, 0)


async def test_a_backend_that_cannot_be_asked_settles_and_releases_nothing() -> None:
    w, pi, project = await course()
    await placed(w, pi)
    w.evidence.by_hold[ORDER.id] = Unavailable("the engine is away")
    for _ in range(3):
        w.clock.tick(w.services.policy.start_lease_s + 1)
        assert await gradings.close_gradings(w.services) == 0
        assert (await gradings.ended(w.services, pi, "ml", ORDER.id)).state is HoldState.HELD
    assert w.balance(project, Unit.GPU_MS).held == HELD


async def test_a_run_that_goes_on_is_neither_charged_nor_released() -> None:
    w, pi, _project = await course()
    await placed(w, pi)
    at = w.clock.now()
    w.evidence.by_hold[ORDER.id] = Evidence(ORDER.id, at, at, None)
    w.clock.tick(3600)
    assert await gradings.close_gradings(w.services) == 0
    assert (await gradings.ended(w.services, pi, "ml", ORDER.id)).state is HoldState.HELD


async def test_a_course_without_enough_left_is_told_what_is_missing_and_what_to_do() -> None:
    w, pi, project = await course(gpu_ms=HELD - 1)
    refused = await gradings.place(w.services, pi, ORDER)
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.GRADING_UNPAID
    assert (refused.params["requested"], refused.params["available"]) == (HELD, HELD - 1)
    said = render(refused.code.value, refused.params, lambda text: text)
    assert "Nothing was executed" in said.message
    assert "project's page" in said.next
    assert w.balance(project, Unit.GPU_MS).held == 0


async def test_without_a_published_rate_a_run_costs_nothing_and_is_booked_all_the_same() -> None:
    w, pi, _project = await course()
    w.services = replace(w.services, grading=GradingPlace("local", "cpu", 4, 180))
    assert (await placed(w, pi)).amount == 0
    ran(w, seconds=5)
    done = await gradings.ended(w.services, pi, "ml", ORDER.id)
    assert (done.state, done.charged) == (HoldState.SETTLED, 0)


async def test_students_and_strangers_have_nothing_executed_and_close_nobody_elses() -> None:
    w, pi, project = await course()
    ann = w.person("ann")

    def enrol(tx: object) -> None:
        tx.projects.put_member(project, ann.id, ProjectRole.MEMBER, w.clock.now())  # type: ignore[attr-defined]
        tx.courses.put_person(project, ann.id, CourseRole.STUDENT, w.clock.now())  # type: ignore[attr-defined]

    with pytest.raises(Unknown):
        await gradings.place(w.services, ann, ORDER)
    await w.services.store.write(enrol)
    with pytest.raises(Forbidden):
        await gradings.place(w.services, ann, ORDER)
    await placed(w, pi)
    with pytest.raises(Forbidden):
        await gradings.ended(w.services, ann, "ml", ORDER.id)


async def test_a_course_that_is_over_pays_for_no_run() -> None:
    w, pi, _ = await course()
    w.clock.tick(91 * 86_400)
    refused = await gradings.place(w.services, pi, ORDER)
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.COURSE_OVER


def test_a_holds_details_read_back_as_they_were_written() -> None:
    terms = GradingTerms("ml", "ps1", "ann", "container", "grading-cpu", 2, Fraction(1, 50), 180)
    assert GradingTerms.from_details(terms.as_details()) == terms
