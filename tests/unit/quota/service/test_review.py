"""Applications: what may be asked, who decides, what an award makes."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from quota.domain.application import ApplicationState, Ask, Decision
from quota.domain.errors import Forbidden, IdConflict, Invalid, Unknown, WrongState
from quota.domain.ids import ApplicationId
from quota.domain.project import ProjectRole
from quota.domain.units import Unit
from quota.service import review
from quota.service.award import slug_of
from quota.service.callers import Power
from quota.service.review import DecideRequest
from tests.fakes import World, world

HOUR = 3_600_000
APPLICATION = ApplicationId("application-1")
ASK = Ask("Protein folding", "We fold proteins.", 500 * HOUR, 10**6, date(2026, 3, 2), date(2027, 3, 2))


def approval(gpu_ms: int = 100 * HOUR, tokens: int = 1000) -> DecideRequest:
    return DecideRequest(APPLICATION, Decision.APPROVE, gpu_ms, tokens, "Welcome")


async def submitted(w: World) -> None:
    await review.submit(w.services, w.person("pi"), APPLICATION, ASK)


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"title": "ab"}, "title", "length_3_200"),
        ({"title": "  a  b  "[:4]}, "title", "length_3_200"),
        ({"title": "x" * 201}, "title", "length_3_200"),
        ({"purpose": "too short"}, "purpose", "length_10_5000"),
        ({"purpose": "x" * 5001}, "purpose", "length_10_5000"),
        ({"gpu_ms": -1}, "gpu_hours", "out_of_range"),
        ({"gpu_ms": 10_000_001 * HOUR}, "gpu_hours", "out_of_range"),
        ({"tokens": -1}, "tokens", "out_of_range"),
        ({"tokens": 10**15 + 1}, "tokens", "out_of_range"),
        ({"gpu_ms": 0, "tokens": 0}, "gpu_hours", "nothing_asked"),
        ({"ends_on": date(2026, 3, 2)}, "ends_on", "ends_before_start"),
        ({"ends_on": date(2029, 3, 3)}, "ends_on", "too_long"),
        ({"starts_on": date(2026, 2, 28)}, "starts_on", "in_the_past"),
        ({"starts_on": date(2026, 3, 1), "ends_on": date(2026, 3, 2)}, "ends_on", "in_the_past"),
    ],
)
async def test_what_may_not_be_asked_names_its_field(changes: dict[str, object], field: str, reason: str) -> None:
    w = world()
    with pytest.raises(Invalid) as caught:
        await review.submit(w.services, w.person("pi"), APPLICATION, replace(ASK, **changes))  # type: ignore[arg-type]
    assert (field, reason) in caught.value.fields
    assert w.books.applications == {}


async def test_yesterday_in_utc_may_be_today_elsewhere() -> None:
    w = world()
    await review.submit(w.services, w.person("pi"), APPLICATION, replace(ASK, starts_on=date(2026, 3, 1)))


async def test_a_replay_is_the_same_application_even_after_its_dates_have_passed() -> None:
    w = world()
    pi = w.person("pi")
    first = await review.submit(w.services, pi, APPLICATION, ASK)
    w.clock.tick(400 * 86_400)
    again = await review.submit(w.services, pi, APPLICATION, ASK)
    assert (first.replayed, again.replayed) == (False, True)


async def test_another_body_or_another_applicant_under_the_same_id_is_a_conflict() -> None:
    w = world()
    await submitted(w)
    with pytest.raises(IdConflict):
        await review.submit(w.services, w.person("pi"), APPLICATION, replace(ASK, tokens=5))
    with pytest.raises(IdConflict):
        await review.submit(w.services, w.person("other"), APPLICATION, ASK)


async def test_an_approval_makes_project_pi_allocations_and_deposits() -> None:
    w = world()
    await submitted(w)
    decided = await review.decide(w.services, w.person("chair", Power.DECIDE), approval())
    assert decided.state is ApplicationState.AWARDED
    assert (decided.ask.gpu_ms, decided.awarded_gpu_ms) == (500 * HOUR, 100 * HOUR)
    project = decided.project_id
    assert project is not None
    assert w.books.projects[project].slug == "protein-folding"
    assert w.books.roles[(project, decided.applicant)][0] is ProjectRole.PI
    assert w.balance(project, Unit.GPU_MS).awarded == 100 * HOUR
    assert w.balance(project, Unit.TOKENS).awarded == 1000
    allocation = next(iter(w.books.allocations.values()))
    assert allocation.starts_at == datetime(2026, 3, 2, tzinfo=UTC)
    assert allocation.ends_at == datetime(2027, 3, 2, tzinfo=UTC)


async def test_an_award_of_one_unit_shows_a_true_zero_for_the_other() -> None:
    w = world()
    await submitted(w)
    decided = await review.decide(w.services, w.person("chair", Power.DECIDE), approval(gpu_ms=0))
    assert decided.project_id is not None
    assert w.balance(decided.project_id, Unit.GPU_MS).awarded == 0
    assert len(w.books.deposits) == 1


async def test_two_projects_of_one_title_get_two_slugs() -> None:
    w = world()
    chair = w.person("chair", Power.DECIDE)
    slugs = []
    for number in range(3):
        application = ApplicationId(f"application-{number}")
        await review.submit(w.services, w.person("pi"), application, ASK)
        decided = await review.decide(w.services, chair, replace(approval(), application_id=application))
        assert decided.project_id is not None
        slugs.append(w.books.projects[decided.project_id].slug)
    assert slugs == ["protein-folding", "protein-folding-2", "protein-folding-3"]


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Protein folding!", "protein-folding"),
        ("蛋白质", "project"),
        ("Å-ngström  2", "a-ngstrom-2"),
        ("x" * 99, "x" * 40),
    ],
)
def test_slugs_are_short_ascii(title: str, slug: str) -> None:
    assert slug_of(title) == slug


async def test_a_rejection_keeps_its_message_and_makes_nothing() -> None:
    w = world()
    await submitted(w)
    request = DecideRequest(APPLICATION, Decision.REJECT, 0, 0, "Out of scope")
    decided = await review.decide(w.services, w.person("chair", Power.DECIDE), request)
    assert (decided.state, decided.message) == (ApplicationState.REJECTED, "Out of scope")
    assert w.books.projects == {}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (DecideRequest(APPLICATION, Decision.REJECT, 0, 0, "  "), "message"),
        (DecideRequest(APPLICATION, Decision.APPROVE, 0, 0, "ok"), "gpu_hours"),
        (DecideRequest(APPLICATION, Decision.APPROVE, -1, 5, "ok"), "gpu_hours"),
        (DecideRequest(APPLICATION, Decision.APPROVE, 1, -5, "ok"), "tokens"),
        (DecideRequest(APPLICATION, Decision.APPROVE, 1, 1, "x" * 2001), "message"),
    ],
)
async def test_a_decision_that_makes_no_sense_names_its_field(request_: DecideRequest, field: str) -> None:
    w = world()
    await submitted(w)
    with pytest.raises(Invalid) as caught:
        await review.decide(w.services, w.person("chair", Power.DECIDE), request_)
    assert field in dict(caught.value.fields)


async def test_nobody_decides_on_their_own_application() -> None:
    w = world()
    await submitted(w)
    with pytest.raises(Forbidden) as caught:
        await review.decide(w.services, w.person("pi", Power.DECIDE), approval())
    assert caught.value.code == "own_application"


async def test_deciding_needs_the_power_and_admins_do_not_have_it() -> None:
    w = world()
    await submitted(w)
    with pytest.raises(Forbidden):
        await review.decide(w.services, w.person("root", Power.ADMIN, Power.READ), approval())


async def test_an_application_is_decided_once() -> None:
    w = world()
    await submitted(w)
    chair = w.person("chair", Power.DECIDE)
    await review.decide(w.services, chair, approval())
    with pytest.raises(WrongState):
        await review.decide(w.services, chair, approval())
    assert len(w.books.projects) == 1


async def test_an_application_is_seen_by_its_applicant_and_those_who_decide() -> None:
    w = world()
    await submitted(w)
    assert (await review.application(w.services, w.person("pi"), APPLICATION)).ask == ASK
    assert (await review.application(w.services, w.person("chair", Power.DECIDE), APPLICATION)).ask == ASK
    with pytest.raises(Unknown):
        await review.application(w.services, w.person("other"), APPLICATION)


async def test_the_queue_holds_what_waits_and_is_for_those_who_decide() -> None:
    w = world()
    await submitted(w)
    chair = w.person("chair", Power.DECIDE)
    assert len(await review.review_queue(w.services, chair)) == 1
    await review.decide(w.services, chair, approval())
    assert await review.review_queue(w.services, chair) == []
    with pytest.raises(Forbidden):
        await review.review_queue(w.services, w.person("pi"))
