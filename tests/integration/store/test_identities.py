"""People and what they sign in with, on both engines."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from quota.domain.errors import Forbidden, Invalid
from quota.domain.ids import ProjectId
from quota.domain.names import candidates
from quota.domain.project import Person, Project, ProjectRole, ProjectState
from quota.service import identities
from quota.service.callers import Caller, caller_of
from quota.service.identities import Vouched
from quota.service.services import Services
from quota.store.database import Database
from quota.store.unit_of_work import SqlStore
from tests import fakes

CAMPUS, ORCID = "https://campus.example", "https://orcid.example"


@pytest.fixture
def services(database: Database) -> Services:
    return replace(fakes.world().services, store=SqlStore(database))


async def come(services: Services, issuer: str, subject: str, preferred: str = "ada", name: str = "Ada") -> Person:
    return await identities.recognise(services, Vouched(issuer, subject, preferred, name, "ada@example.org", "en"))


async def project_of(services: Services, person: Person, name: str) -> ProjectId:
    project = Project(ProjectId(f"project-{name}"), name, name.title(), ProjectState.ACTIVE, services.clock.now())
    await services.store.write(lambda tx: tx.projects.add(project, person.id))
    return project.id


async def role_in(services: Services, project: ProjectId, person: Person) -> ProjectRole | None:
    return await services.store.read(lambda tx: tx.projects.role(project, person.id))


async def test_one_mail_address_at_two_issuers_is_two_people(services: Services) -> None:
    one, other = await come(services, CAMPUS, "1"), await come(services, ORCID, "1")
    assert one.id != other.id
    assert one.hub_name != other.hub_name
    assert one.email == other.email


async def test_a_name_is_given_once_and_survives_a_change_at_the_issuer(services: Services) -> None:
    first = await come(services, CAMPUS, "1")
    later = await come(services, CAMPUS, "1", preferred="grace", name="Grace")
    assert (later.id, later.hub_name, later.display_name) == (first.id, first.hub_name, "Grace")


async def test_a_name_that_is_taken_gets_a_longer_tail(services: Services) -> None:
    taken, longer, *_ = candidates("ada", CAMPUS, "1")
    await services.store.write(
        lambda tx: tx.people.register(
            issuer="urn:commons:demo",
            subject=taken,
            hub_name=taken,
            display_name="x",
            email=None,
            language="en",
            at=services.clock.now(),
        )
    )
    assert (await come(services, CAMPUS, "1")).hub_name == longer


async def test_a_saved_profile_outlives_the_providers_words(services: Services) -> None:
    person = await come(services, CAMPUS, "1")
    assert not person.greeted
    await identities.save_profile(services, Caller(person), "Countess Lovelace", "zh")
    later = await come(services, CAMPUS, "1", name="A. Lovelace")
    assert (later.display_name, later.language, later.greeted) == ("Countess Lovelace", "zh", True)


@pytest.mark.parametrize("name", ["", "  ", "a" * 201, "Ada\x00", "Ada\r\nBcc: x", "\u202eada"])
async def test_a_name_that_would_break_a_page_or_a_mail_is_refused(services: Services, name: str) -> None:
    person = await come(services, CAMPUS, "1")
    with pytest.raises(Invalid):
        await identities.save_profile(services, Caller(person), name, "en")


async def test_two_sign_ins_become_one_by_a_code_and_projects_come_along(services: Services) -> None:
    main, other = await come(services, CAMPUS, "1"), await come(services, ORCID, "2")
    own, both = await project_of(services, other, "own"), await project_of(services, other, "both")
    await services.store.write(
        lambda tx: tx.projects.put_member(both, main.id, ProjectRole.MEMBER, services.clock.now())
    )
    code = await identities.make_link_code(services, Caller(other))
    await identities.link(services, Caller(main), f" {code.upper()} ")
    assert (await come(services, ORCID, "2")).id == main.id
    assert await role_in(services, own, main) is ProjectRole.PI
    assert await role_in(services, both, main) is ProjectRole.PI
    assert await role_in(services, own, other) is None


async def test_a_code_is_good_once_for_another_person_and_for_ten_minutes(services: Services) -> None:
    main, other = await come(services, CAMPUS, "1"), await come(services, ORCID, "2")
    first = await identities.make_link_code(services, Caller(other))
    second = await identities.make_link_code(services, Caller(other))
    for code, caller in ((first, main), ("", main), ("x" * 1000, main)):
        with pytest.raises(Invalid):
            await identities.link(services, Caller(caller), code)
    with pytest.raises(Invalid):
        await identities.link(services, Caller(other), second)  # of the caller's own
    clock = services.clock
    assert isinstance(clock, fakes.FakeClock)
    third = await identities.make_link_code(services, Caller(other))
    clock.tick(timedelta(minutes=10).total_seconds())
    with pytest.raises(Invalid):
        await identities.link(services, Caller(main), third)


async def test_who_is_gone_at_the_issuer_may_nothing_until_they_come_again(services: Services) -> None:
    person = await come(services, CAMPUS, "1")
    for _ in range(2):
        await identities.gone(services, person.hub_name)
    with pytest.raises(Forbidden):
        await caller_of(services, person.hub_name, frozenset())
    await come(services, CAMPUS, "1")
    assert (await caller_of(services, person.hub_name, frozenset())).id == person.id
