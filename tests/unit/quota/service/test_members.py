"""Who may change whom."""

import pytest

from quota.domain.errors import Forbidden, Unknown
from quota.domain.ids import ProjectId
from quota.domain.project import ProjectRole
from quota.service.callers import Caller, Power
from quota.service.members import put_member, remove_member
from tests.fake_store import FakeProjects
from tests.fakes import World, world

R = ProjectRole


def team() -> tuple[World, ProjectId, dict[ProjectRole, Caller]]:
    """A project with one person in each role, by role, and a stranger called `new`."""
    w = world()
    people = {role: w.person(role.value) for role in R}
    project = w.project(people[R.PI])
    for role in (R.CO_PI, R.MANAGER, R.MEMBER):
        FakeProjects(w.books).put_member(project, people[role].id, role, w.clock.now())
    w.person("new")
    return w, project, people


@pytest.mark.parametrize("by", [R.PI, R.CO_PI, R.MANAGER])
async def test_leads_add_members(by: ProjectRole) -> None:
    w, project, people = team()
    change = await put_member(w.services, people[by], project, "new", R.MEMBER)
    assert change.added
    assert w.books.audited == ["member_put"]


async def test_a_member_adds_nobody() -> None:
    w, project, people = team()
    with pytest.raises(Forbidden):
        await put_member(w.services, people[R.MEMBER], project, "new", R.MEMBER)


@pytest.mark.parametrize("role", [R.MANAGER, R.CO_PI])
async def test_a_manager_makes_neither_managers_nor_co_pis(role: ProjectRole) -> None:
    w, project, people = team()
    with pytest.raises(Forbidden):
        await put_member(w.services, people[R.MANAGER], project, "new", role)


@pytest.mark.parametrize("by", [R.PI, R.CO_PI])
async def test_pi_and_co_pi_make_managers(by: ProjectRole) -> None:
    w, project, people = team()
    assert (await put_member(w.services, people[by], project, "member", R.MANAGER)).added is False


async def test_a_manager_demotes_no_co_pi() -> None:
    w, project, people = team()
    with pytest.raises(Forbidden):
        await put_member(w.services, people[R.MANAGER], project, "co_pi", R.MEMBER)


@pytest.mark.parametrize("by", [R.CO_PI, R.MANAGER])
async def test_the_pi_is_neither_changed_nor_removed(by: ProjectRole) -> None:
    w, project, people = team()
    with pytest.raises(Forbidden):
        await put_member(w.services, people[by], project, "pi", R.MEMBER)
    with pytest.raises(Forbidden):
        await remove_member(w.services, people[by], project, "pi")


async def test_nobody_makes_a_second_pi() -> None:
    w, project, people = team()
    with pytest.raises(Forbidden):
        await put_member(w.services, people[R.PI], project, "new", R.PI)


@pytest.mark.parametrize("role", [R.CO_PI, R.MANAGER])
async def test_nobody_changes_their_own_role(role: ProjectRole) -> None:
    w, project, people = team()
    with pytest.raises(Forbidden):
        await put_member(w.services, people[role], project, role.value, R.MEMBER)


async def test_a_manager_removes_members_and_no_managers() -> None:
    w, project, people = team()
    FakeProjects(w.books).put_member(project, w.person("second").id, R.MANAGER, w.clock.now())
    assert await remove_member(w.services, people[R.MANAGER], project, "member")
    with pytest.raises(Forbidden):
        await remove_member(w.services, people[R.MANAGER], project, "second")


async def test_a_member_may_leave_and_the_pi_may_not() -> None:
    w, project, people = team()
    assert await remove_member(w.services, people[R.MEMBER], project, "member")
    with pytest.raises(Forbidden):
        await remove_member(w.services, people[R.PI], project, "pi")


async def test_removing_somebody_who_is_not_there_changes_nothing() -> None:
    w, project, people = team()
    assert await remove_member(w.services, people[R.PI], project, "new") is False
    assert w.books.audited == []


async def test_the_same_role_again_is_no_change() -> None:
    w, project, people = team()
    assert (await put_member(w.services, people[R.PI], project, "member", R.MEMBER)).added is False
    assert w.books.audited == []


async def test_a_project_is_unknown_to_those_who_are_not_in_it_even_to_admins() -> None:
    w, project, _ = team()
    with pytest.raises(Unknown, match="project"):
        await put_member(w.services, w.person("root", Power.ADMIN), project, "new", R.MEMBER)


async def test_somebody_who_never_signed_in_is_unknown() -> None:
    w, project, people = team()
    with pytest.raises(Unknown, match="person"):
        await put_member(w.services, people[R.PI], project, "ghost", R.MEMBER)
