"""Rules of the one function that decides."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from quota.domain.errors import RefusalCode, Unavailable, Unknown
from quota.domain.ids import AllocationId, ProjectId
from quota.domain.project import ProjectState
from quota.domain.rates import ChargeRate
from quota.service.quote import QuoteRequest, quote_session
from tests.fakes import world

HOUR = 3_600_000


async def test_a_quote_holds_runtime_plus_margin_and_says_what_it_leaves() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=10 * HOUR)
    quoted = await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", 7200))
    assert quoted.refusal is None
    assert quoted.quote.amount == 7_320_000
    assert quoted.quote.leaves == 28_680_000
    assert w.balance(project).held == 0


async def test_a_refusal_carries_what_was_asked_what_there_is_and_what_would_fit() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=4_320_000)
    quoted = await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", 7200))
    assert quoted.refusal is not None
    assert quoted.refusal.code is RefusalCode.INSUFFICIENT_BALANCE
    assert quoted.refusal.params == {
        "requested": 7_320_000,
        "available": 4_320_000,
        "fits_runtime_s": 4200,
        "unit": "gpu_ms",
    }


async def test_what_fits_is_accepted_and_a_second_more_is_not() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=4_320_000)
    fits = (await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", 7200))).quote.fits_runtime_s
    assert fits is not None
    assert (await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", fits))).refusal is None
    assert (await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", fits + 1))).refusal is not None


async def test_what_fits_never_exceeds_the_profiles_longest_runtime() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=1000 * HOUR)
    quoted = await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", 60))
    assert quoted.quote.fits_runtime_s == 12 * 3600


async def test_somebody_who_is_not_a_member_is_refused() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=HOUR)
    quoted = await quote_session(w.services, QuoteRequest(w.person("other").id, project, "gpu1", 60))
    assert quoted.refusal is not None
    assert quoted.refusal.code is RefusalCode.NOT_A_MEMBER


async def test_a_suspended_project_is_refused() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=HOUR)
    w.books.projects[project] = replace(w.books.projects[project], state=ProjectState.SUSPENDED)
    quoted = await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", 60))
    assert quoted.refusal is not None
    assert quoted.refusal.code is RefusalCode.PROJECT_SUSPENDED


async def test_a_runtime_beyond_the_profiles_longest_is_refused_even_where_it_is_paid_for() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=1000 * HOUR)
    quoted = await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", 12 * 3600 + 1))
    assert quoted.refusal is not None
    assert quoted.refusal.code is RefusalCode.RUNTIME_TOO_LONG


async def test_a_project_whose_allocations_are_over_has_no_payer() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=HOUR, days=1)
    w.clock.tick(2 * 86_400)
    quoted = await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", 60))
    assert quoted.refusal is not None
    assert quoted.refusal.code is RefusalCode.NO_ALLOCATION
    assert quoted.quote.allocation_id is None


async def test_an_allocation_that_has_not_begun_is_named_with_its_day() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=HOUR)
    w.clock.tick(-3 * 86_400)
    quoted = await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", 60))
    assert quoted.refusal is not None
    assert quoted.refusal.params["starts_on"] == "2026-03-01"


async def test_a_frozen_allocation_pays_for_nothing_and_says_so() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=HOUR)
    gpu = AllocationId(f"{project}-gpu")
    w.books.allocations[gpu] = replace(w.books.allocations[gpu], frozen=True)
    quoted = await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", 60))
    assert quoted.refusal is not None
    assert quoted.refusal.code is RefusalCode.FROZEN


async def test_a_profile_without_gpus_costs_nothing_and_starts_at_zero_balance() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=0)
    quoted = await quote_session(w.services, QuoteRequest(pi.id, project, "cpu", 3600))
    assert quoted.refusal is None
    assert quoted.quote.amount == 0


async def test_two_gpus_at_half_the_rate_cost_what_one_costs_at_the_whole() -> None:
    w = world()
    w.books.rates.append(ChargeRate("gpu", Fraction(1, 2), datetime(2026, 2, 1, tzinfo=UTC)))
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=10 * HOUR)
    quoted = await quote_session(w.services, QuoteRequest(pi.id, project, "gpu2", 7200))
    assert quoted.quote.amount == 7_320_000


async def test_the_rate_is_the_one_valid_at_the_moment_of_the_quote() -> None:
    w = world()
    w.books.rates.append(ChargeRate("gpu", Fraction(3), w.clock.now() + timedelta(seconds=1)))
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=10 * HOUR)
    request = QuoteRequest(pi.id, project, "gpu1", 60)
    assert (await quote_session(w.services, request)).quote.price.rate == 1
    w.clock.tick(1)
    assert (await quote_session(w.services, request)).quote.price.rate == 3


async def test_hardware_without_a_rate_is_an_outage_and_not_free() -> None:
    w = world()
    w.books.rates.clear()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=HOUR)
    with pytest.raises(Unavailable):
        await quote_session(w.services, QuoteRequest(pi.id, project, "gpu1", 60))


async def test_unknown_profiles_and_projects_are_named() -> None:
    w = world()
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=HOUR)
    with pytest.raises(Unknown, match="profile"):
        await quote_session(w.services, QuoteRequest(pi.id, project, "quantum", 60))
    with pytest.raises(Unknown, match="project"):
        await quote_session(w.services, QuoteRequest(pi.id, ProjectId("nowhere-0001"), "gpu1", 60))
