"""Slurm's accounts follow the projects: who left is taken off, nobody else, and the backstop follows the award."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from quota.domain.errors import Unavailable
from quota.domain.ids import ProjectId
from quota.domain.project import ProjectRole
from quota.service.memberships import MembershipPass
from tests.fake_store import FakeTransaction
from tests.fakes import World, world


class FakeBooks:
    def __init__(self) -> None:
        self.associations: list[tuple[str, str]] = []
        self.limits: list[tuple[str, int]] = []
        self.down = False

    def account(self, project_id: ProjectId) -> str:
        return f"cc-{project_id}"

    async def members(self) -> Sequence[tuple[str, str]]:
        if self.down:
            raise Unavailable("the steward is away")
        return list(self.associations)

    async def remove(self, account: str, login: str) -> None:
        self.associations.remove((account, login))

    async def limit(self, account: str, gpu_minutes: int) -> None:
        self.limits.append((account, gpu_minutes))


def site() -> tuple[World, FakeBooks, ProjectId, str, str]:
    """A project with a PI and a member, both associated."""
    made, books = world(), FakeBooks()
    pi, member = made.person("pi"), made.person("ann")
    project = made.project(pi, gpu_ms=3_600_000)
    FakeTransaction(made.books).projects.put_member(project, member.id, ProjectRole.MEMBER, made.clock.now())
    logins = [caller.person.login for caller in (pi, member)]
    books.associations = [(books.account(project), login) for login in logins]
    return made, books, project, logins[0], logins[1]


async def test_who_left_loses_the_association_and_members_keep_theirs() -> None:
    made, books, project, pi, ann = site()
    passes = MembershipPass(made.services, books, ["gpu"])
    assert await passes.run() == 0
    person = next(one for one in made.books.people.values() if one.login == ann)
    FakeTransaction(made.books).projects.remove_member(project, person.id)
    assert await passes.run() == 1
    assert books.associations == [(books.account(project), pi)]


async def test_who_joins_and_starts_while_a_pass_looks_is_not_taken_off() -> None:
    made, books, project, *_ = site()
    newcomer = made.person("eve")

    class Slow(FakeBooks):
        """Its list of associations is long in coming, and somebody's first job is quicker."""

        async def members(self) -> Sequence[tuple[str, str]]:
            FakeTransaction(made.books).projects.put_member(project, newcomer.id, ProjectRole.MEMBER, made.clock.now())
            self.associations.append((self.account(project), newcomer.person.login))
            return await super().members()

    slow = Slow()
    slow.associations = list(books.associations)
    assert await MembershipPass(made.services, slow, ["gpu"]).run() == 0
    assert len(slow.associations) == 3


async def test_an_account_of_no_project_is_left_alone() -> None:
    made, books, *_ = site()
    books.associations.append(("cc-strange", "cc-30001"))
    assert await MembershipPass(made.services, books, ["gpu"]).run() == 0
    assert ("cc-strange", "cc-30001") in books.associations


async def test_the_backstop_is_the_award_with_a_little_slack_and_set_once() -> None:
    made, books, project, *_ = site()
    passes = MembershipPass(made.services, books, ["gpu"])
    await passes.run()
    await passes.run()
    assert books.limits == [(books.account(project), 63 + 60)]


async def test_a_steward_that_is_away_removes_nobody() -> None:
    made, books, *_ = site()
    books.down = True
    with pytest.raises(Unavailable):
        await MembershipPass(made.services, books, ["gpu"]).run()
    assert len(books.associations) == 2
