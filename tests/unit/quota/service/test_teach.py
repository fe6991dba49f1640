"""Courses made, filled, joined, ended; and what may start on them when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from quota.domain.course import CoursePhase, CourseRole, CourseTerms
from quota.domain.errors import Forbidden, IdConflict, Invalid, RefusalCode, Refused, Unknown, WrongState
from quota.domain.ids import HoldId, ProjectId
from quota.domain.limits import member_limit
from quota.domain.messages import render
from quota.domain.project import ProjectRole
from quota.domain.units import Unit
from quota.service import courses, limiting, report, teach
from quota.service.admit_request import RequestHoldOrder, RequestHolds
from quota.service.callers import Caller
from quota.service.quote import QuoteRequest, quote_session
from tests.fake_store import FakeProjects
from tests.fakes import World, world

HOUR = 3_600_000
R = CourseRole


def terms(w: World, **changes: object) -> CourseTerms:
    now = w.clock.now()
    made = CourseTerms("Machine learning", now, now + timedelta(days=90), "Europe/Berlin", 2 * HOUR, 1_000)
    return replace(made, **changes)  # type: ignore[arg-type]


async def class_room(**changes: object) -> tuple[World, Caller, ProjectId]:
    """A course `ml` with its instructor; ann and ben have signed in and are nothing in it."""
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=100 * HOUR, tokens=1_000_000)
    await teach.create(w.services, pi, project, "ml", terms(w, **changes))
    w.person("ann")
    w.person("ben")
    return w, pi, project


async def starts(w: World, who: Caller, project: ProjectId, profile: str = "gpu1") -> Refused | None:
    return (await quote_session(w.services, QuoteRequest(who.id, project, profile, 600))).refusal


def known(w: World, name: str) -> Caller:
    return Caller(next(one for one in w.books.people.values() if one.hub_name == name))


def cap(w: World, project: ProjectId, who: Caller, unit: Unit) -> int | None:
    return w.books.caps.get(member_limit(project, who.id, unit).id)


async def test_making_the_same_course_again_is_the_first_answer_and_another_a_conflict() -> None:
    w, pi, project = await class_room()
    again = await teach.create(w.services, pi, project, "ml", terms(w))
    assert again == await courses.course_of(w.services, "ml")
    with pytest.raises(IdConflict):
        await teach.create(w.services, pi, project, "other", terms(w))


async def test_only_pi_and_co_pi_make_a_course_and_nobody_of_a_project_that_is_not_theirs() -> None:
    w = world()
    pi, manager, stranger = w.person("pi"), w.person("manager"), w.person("stranger")
    project = w.project(pi)
    FakeProjects(w.books).put_member(project, manager.id, ProjectRole.MANAGER, w.clock.now())
    with pytest.raises(Forbidden):
        await teach.create(w.services, manager, project, "ml", terms(w))
    with pytest.raises(Unknown):
        await teach.create(w.services, stranger, project, "ml", terms(w))


async def test_a_name_that_is_taken_is_said_at_its_field() -> None:
    w, pi, _ = await class_room()
    other = w.project(pi)
    with pytest.raises(Invalid) as refused:
        await teach.create(w.services, pi, other, "ml", terms(w))
    assert refused.value.fields == [("slug", "slug_taken")]


async def test_a_list_is_taken_line_by_line_and_what_is_wrong_loses_nothing_else() -> None:
    w, pi, project = await class_room()
    text = "\ufeffuser name,role\nann\n\nnobody\nBen;grader\n# a remark\nann,grader\npi,student\nann2,dean\n"
    w.person("ann2")
    taken = await teach.take_list(w.services, pi, "ml", text)
    assert (taken.added, taken.changed, taken.unchanged) == (["ann", "ben"], [], [])
    assert [(one.number, one.text, one.reason) for one in taken.wrong] == [
        (4, "nobody", "nobody"),
        (7, "ann,grader", "listed_twice"),
        (8, "pi,student", "is_instructor"),
        (9, "ann2,dean", "no_course_role"),
    ]
    again = await teach.take_list(w.services, pi, "ml", "ann\nben\n")
    assert (again.added, again.changed, again.unchanged) == ([], ["ben"], ["ann"])
    assert [(p.hub_name, p.role) for p in (await courses.view(w.services, pi, "ml")).people] == [
        ("pi", R.INSTRUCTOR), ("ann", R.STUDENT), ("ben", R.STUDENT)
    ]  # fmt: skip
    assert project in w.books.projects


async def test_a_student_gets_the_share_in_both_units_and_a_grader_none() -> None:
    w, pi, project = await class_room()
    await teach.take_list(w.services, pi, "ml", "ann\nben,grader")
    ann, ben = known(w, "ann"), known(w, "ben")
    assert [cap(w, project, ann, unit) for unit in Unit] == [2 * HOUR, 1_000]
    assert [cap(w, project, ben, unit) for unit in Unit] == [None, None]


async def test_a_new_share_moves_those_who_had_the_old_one_and_nobody_else() -> None:
    w, pi, project = await class_room()
    await teach.take_list(w.services, pi, "ml", "ann\nben")
    await limiting.set_member_limit(w.services, pi, project, "ben", Unit.GPU_MS, 9 * HOUR)
    await teach.change(w.services, pi, "ml", terms(w, gpu_ms_each=3 * HOUR))
    assert cap(w, project, known(w, "ann"), Unit.GPU_MS) == 3 * HOUR
    assert cap(w, project, known(w, "ben"), Unit.GPU_MS) == 9 * HOUR


async def test_a_link_makes_a_student_once_and_nobody_less() -> None:
    w, pi, _ = await class_room()
    ann = known(w, "ann")
    code = await teach.invite(w.services, pi, "ml", R.STUDENT)
    assert (await teach.offer(w.services, ann, code)).own is None
    assert (await courses.courses_of(w.services, ann.id)) == []
    assert (await teach.join(w.services, ann, code)).role is R.STUDENT
    assert (await teach.join(w.services, ann, code)).own is R.STUDENT
    assert (await teach.join(w.services, pi, code)).role is R.INSTRUCTOR
    assert [one.used for one in w.books.teaching.invitations.values()] == [1]
    assert code not in str(w.books.teaching.invitations)


async def test_a_link_that_was_replaced_taken_back_or_is_too_old_is_worth_nothing() -> None:
    w, pi, _ = await class_room()
    ann = known(w, "ann")
    first = await teach.invite(w.services, pi, "ml", R.STUDENT)
    second = await teach.invite(w.services, pi, "ml", R.STUDENT)
    with pytest.raises(Unknown):
        await teach.join(w.services, ann, first)
    assert await teach.withdraw(w.services, pi, "ml", R.STUDENT)
    with pytest.raises(Unknown):
        await teach.join(w.services, ann, second)
    third = await teach.invite(w.services, pi, "ml", R.STUDENT)
    w.clock.tick(30 * 86_400)
    with pytest.raises(Unknown):
        await teach.join(w.services, ann, third)


async def test_a_link_ends_with_its_course() -> None:
    w, pi, _ = await class_room(ends_at=world().clock.now() + timedelta(days=2))
    code = await teach.invite(w.services, pi, "ml", R.STUDENT)
    w.clock.tick(2 * 86_400)
    with pytest.raises(Unknown):
        await teach.offer(w.services, known(w, "ann"), code)


async def test_students_and_strangers_change_nothing_and_strangers_learn_nothing() -> None:
    w, pi, _ = await class_room()
    await teach.take_list(w.services, pi, "ml", "ann")
    ann, ben = known(w, "ann"), known(w, "ben")
    for who, error in ((ann, Forbidden), (ben, Unknown)):
        for act in (
            teach.invite(w.services, who, "ml", R.STUDENT),
            teach.withdraw(w.services, who, "ml", R.STUDENT),
            teach.take_list(w.services, who, "ml", "ben"),
            teach.change(w.services, who, "ml", terms(w)),
            teach.retire(w.services, who, "ml"),
        ):
            with pytest.raises(error):
                await act
    assert (await courses.view(w.services, ann, "ml")).people == ()
    with pytest.raises(Unknown):
        await courses.view(w.services, ben, "ml")


async def test_before_its_start_students_start_nothing_and_teachers_may() -> None:
    start = world().clock.now() + timedelta(days=1)
    w, pi, project = await class_room(starts_at=start)
    await teach.take_list(w.services, pi, "ml", "ann\nben,grader")
    ann = known(w, "ann")
    refused = await starts(w, ann, project)
    assert refused is not None
    assert refused.code is RefusalCode.COURSE_NOT_STARTED
    assert "(Europe/Berlin)" in render(refused.code.value, refused.params, str).message
    assert await starts(w, pi, project) is None
    assert await starts(w, known(w, "ben"), project) is None
    w.clock.tick(86_400)
    assert await starts(w, ann, project) is None


async def test_at_its_end_nothing_starts_on_it_for_anybody_in_either_unit() -> None:
    w, pi, project = await class_room()
    await teach.take_list(w.services, pi, "ml", "ann")
    ann = known(w, "ann")
    assert await starts(w, ann, project) is None
    w.clock.tick(90 * 86_400)
    for who in (ann, pi):
        refused = await starts(w, who, project)
        assert refused is not None
        assert refused.code is RefusalCode.COURSE_OVER
    order = RequestHoldOrder(HoldId("request-0001"), "ann", project, "m", 10, 60)
    answer = await RequestHolds(w.services).place(order)
    assert isinstance(answer, Refused)
    assert answer.code is RefusalCode.COURSE_OVER
    assert [view.refusal is None for view in await report.payers(w.services, "ann")] == [False]


async def test_a_course_that_is_ended_early_is_over_at_once_and_stays_readable() -> None:
    w, pi, project = await class_room()
    await teach.take_list(w.services, pi, "ml", "ann")
    ended = await teach.retire(w.services, pi, "ml")
    w.clock.tick(60)
    assert await teach.retire(w.services, pi, "ml") == ended
    assert ended.phase_at(w.clock.now()) is CoursePhase.OVER
    assert await starts(w, known(w, "ann"), project) is not None
    assert (await courses.view(w.services, known(w, "ann"), "ml")).role is R.STUDENT
    for act in (teach.invite(w.services, pi, "ml", R.STUDENT), teach.take_list(w.services, pi, "ml", "ben")):
        with pytest.raises(WrongState):
            await act


async def test_what_one_is_in_one_course_says_nothing_about_another() -> None:
    w, pi, _ = await class_room()
    ann = known(w, "ann")
    await teach.take_list(w.services, pi, "ml", "ann")
    own = w.project(ann)
    await teach.create(w.services, ann, own, "art", terms(w))
    assert {course.slug: role for course, role in await courses.courses_of(w.services, ann.id)} == {
        "ml": R.STUDENT, "art": R.INSTRUCTOR
    }  # fmt: skip
