"""Courses in the store, on both engines."""

from __future__ import annotations

from datetime import timedelta

import pytest

from quota.domain.course import Course, CourseRole, CourseTerms
from quota.domain.errors import IdConflict
from quota.domain.ids import PersonId, ProjectId
from quota.domain.project import Project, ProjectRole, ProjectState
from quota.service import courses
from quota.service.course_ports import Invitation
from quota.service.ports import Transaction
from quota.store.database import Database
from quota.store.unit_of_work import SqlStore
from tests import ledgers
from tests.ledgers import NOW

A, B = ProjectId("project-aaaa"), ProjectId("project-bbbb")


def _course(project: ProjectId, slug: str) -> Course:
    return Course(project, slug, slug.title(), NOW, NOW + timedelta(days=90), "Europe/Berlin", 3_600_000, None, NOW)


def _two_courses(tx: Transaction) -> tuple[PersonId, PersonId]:
    """Ann teaches A and is a student in B, which Bob teaches."""
    ann, bob = ledgers.register(tx, "ann").id, ledgers.register(tx, "bob").id
    for project, slug, pi in ((A, "alpha", ann), (B, "beta", bob)):
        tx.projects.add(Project(project, slug, slug, ProjectState.ACTIVE, NOW), pi)
        tx.courses.add(_course(project, slug))
    tx.projects.put_member(B, ann, ProjectRole.MEMBER, NOW)
    tx.courses.put_person(B, ann, CourseRole.STUDENT, NOW)
    return ann, bob


async def test_one_person_is_an_instructor_in_one_course_and_a_student_in_another(database: Database) -> None:
    store = SqlStore(database)
    ann, bob = await store.write(_two_courses)

    def roles(tx: Transaction) -> list[object]:
        own = [(course.slug, role) for course, role in tx.courses.of_person(ann)]
        return [own, tx.courses.role(A, bob), [(p.hub_name, p.role) for p in tx.courses.people(B)]]

    assert await store.read(roles) == [
        [("alpha", CourseRole.INSTRUCTOR), ("beta", CourseRole.STUDENT)],
        None,
        [("bob", CourseRole.INSTRUCTOR), ("ann", CourseRole.STUDENT)],
    ]


async def test_who_leaves_a_project_is_nothing_in_its_course_and_comes_back_as_nothing(database: Database) -> None:
    store = SqlStore(database)
    ann, _ = await store.write(_two_courses)
    await store.write(lambda tx: tx.projects.remove_member(B, ann))
    assert await store.read(lambda tx: tx.courses.role(B, ann)) is None
    await store.write(lambda tx: tx.projects.put_member(B, ann, ProjectRole.MEMBER, NOW))
    assert await store.read(lambda tx: tx.courses.role(B, ann)) is None


async def test_a_plain_member_of_a_project_is_nothing_in_its_course(database: Database) -> None:
    store = SqlStore(database)
    _, bob = await store.write(_two_courses)
    await store.write(lambda tx: tx.projects.put_member(A, bob, ProjectRole.MEMBER, NOW))
    assert await store.read(lambda tx: [p.hub_name for p in tx.courses.people(A)]) == ["ann"]


async def test_course_roles_follow_a_person_whose_sign_ins_become_one(database: Database) -> None:
    store = SqlStore(database)
    ann, _ = await store.write(_two_courses)
    eve = (await store.write(lambda tx: ledgers.register(tx, "eve"))).id
    await store.write(lambda tx: tx.projects.move_memberships(ann, eve))
    found = await store.read(lambda tx: [(course.slug, role.value) for course, role in tx.courses.of_person(eve)])
    assert found == [("alpha", "instructor"), ("beta", "student")]
    assert await store.read(lambda tx: tx.courses.of_person(ann)) == []


async def test_a_course_is_kept_whole_changed_and_retired_once(database: Database) -> None:
    store = SqlStore(database)
    await store.write(_two_courses)
    assert await store.read(lambda tx: courses.named(tx, "alpha")) == _course(A, "alpha")
    terms = CourseTerms("New title", NOW, NOW + timedelta(days=1), "Asia/Shanghai", None, 5)
    await store.write(lambda tx: tx.courses.change(A, terms))
    await store.write(lambda tx: tx.courses.retire(A, NOW))
    await store.write(lambda tx: tx.courses.retire(A, NOW + timedelta(hours=1)))
    changed = await store.read(lambda tx: courses.named(tx, "alpha"))
    assert (changed.title, changed.zone, changed.gpu_ms_each, changed.tokens_each) == (
        "New title",
        "Asia/Shanghai",
        None,
        5,
    )
    assert changed.retired_at == NOW
    assert [one.slug for one in await store.read(lambda tx: tx.courses.all())] == ["alpha", "beta"]


async def test_a_name_belongs_to_one_course_and_a_project_is_one_course(database: Database) -> None:
    store = SqlStore(database)
    await store.write(_two_courses)
    with pytest.raises(IdConflict):
        await store.write(lambda tx: tx.courses.add(_course(A, "gamma")))
    carol = await store.write(lambda tx: ledgers.register(tx, "carol"))
    project = Project(ProjectId("project-cccc"), "gamma", "Gamma", ProjectState.ACTIVE, NOW)
    await store.write(lambda tx: tx.projects.add(project, carol.id))
    with pytest.raises(IdConflict):
        await store.write(lambda tx: tx.courses.add(_course(project.id, "alpha")))


async def test_a_new_invitation_replaces_the_one_of_its_role(database: Database) -> None:
    store = SqlStore(database)
    ann, _ = await store.write(_two_courses)
    later = NOW + timedelta(days=7)
    for code, role in (("one", CourseRole.STUDENT), ("two", CourseRole.GRADER), ("three", CourseRole.STUDENT)):
        invitation = Invitation(code, A, role, ann, NOW, later)
        await store.write(lambda tx: tx.courses.invite(invitation))  # noqa: B023
    await store.write(lambda tx: tx.courses.count_use("three"))
    found = await store.read(lambda tx: [(one.code_hash, one.used) for one in tx.courses.invitations(A)])
    assert found == [("two", 0), ("three", 1)]
    assert await store.read(lambda tx: tx.courses.invitation("one")) is None
    assert await store.write(lambda tx: tx.courses.withdraw(A, CourseRole.STUDENT))
    assert not await store.write(lambda tx: tx.courses.withdraw(A, CourseRole.STUDENT))
