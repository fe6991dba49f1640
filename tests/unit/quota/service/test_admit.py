"""Rules of placing a session's hold."""

from dataclasses import replace

import pytest

from quota.domain.errors import IdConflict, RefusalCode, Refused, Unknown
from quota.domain.hold import HoldState
from quota.domain.ids import HoldId, ProjectId
from quota.domain.session import SessionState
from quota.service.admit import SessionHold, SessionHoldRequest, place_session_hold
from quota.service.keys import verify_session_key
from tests.fakes import World, world

HOUR = 3_600_000
HOLD = HoldId("hold-0001")


def order(project: ProjectId, runtime_s: int = 3600, hold_id: HoldId = HOLD) -> SessionHoldRequest:
    return SessionHoldRequest(hold_id, "pi", project, "gpu1", "lab", runtime_s, "")


async def placed(w: World, request: SessionHoldRequest) -> SessionHold:
    answer = await place_session_hold(w.services, request)
    assert isinstance(answer, SessionHold)
    return answer


async def test_a_hold_sets_the_whole_runtime_and_margin_aside() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=10 * HOUR)
    answer = await placed(w, order(project))
    assert answer.hold.amount == 3_720_000
    assert answer.ends_within_ms == 3_600_000
    assert w.balance(project).held == 3_720_000
    assert w.books.sessions[HOLD].state is SessionState.HELD


async def test_a_replay_gives_the_same_answer_and_the_same_key_and_holds_once() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=10 * HOUR)
    first = await placed(w, order(project))
    w.books.rates.clear()  # today's prices no longer matter
    again = await placed(w, order(project))
    assert not first.replayed
    assert again.replayed
    assert (again.hold.amount, again.gateway_key) == (first.hold.amount, first.gateway_key)
    assert w.balance(project).held == 3_720_000


async def test_the_gateway_key_belongs_to_the_hold() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=10 * HOUR)
    answer = await placed(w, order(project))
    assert verify_session_key(w.services.session_key_secret, answer.gateway_key) == HOLD


async def test_the_same_id_with_another_body_is_a_conflict() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=10 * HOUR)
    await placed(w, order(project))
    with pytest.raises(IdConflict):
        await place_session_hold(w.services, order(project, runtime_s=60))


async def test_a_refusal_is_remembered_under_its_id_even_once_there_is_enough() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=HOUR // 2)
    first = await place_session_hold(w.services, order(project))
    allocation = next(iter(w.books.allocations.values()))
    richer = replace(allocation.balance, awarded=100 * HOUR)
    w.books.allocations[allocation.id] = replace(allocation, balance=richer)
    again = await place_session_hold(w.services, order(project))
    assert isinstance(first, Refused)
    assert first.code is RefusalCode.INSUFFICIENT_BALANCE
    assert first.params["fits_runtime_s"] == 1680
    assert again == first


async def test_two_sessions_cannot_both_take_the_last_gpu_hour() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=HOUR + 120_000)
    assert isinstance(await place_session_hold(w.services, order(project)), SessionHold)
    second = await place_session_hold(w.services, order(project, hold_id=HoldId("hold-0002")))
    assert isinstance(second, Refused)
    assert w.balance(project).available == 0


async def test_a_stranger_is_refused_and_nothing_is_held() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=10 * HOUR)
    w.person("mallory")
    answer = await place_session_hold(w.services, replace(order(project), actor="mallory"))
    assert isinstance(answer, Refused)
    assert answer.code is RefusalCode.NOT_A_MEMBER
    assert w.books.holds == {}


async def test_an_application_that_the_profile_does_not_offer_is_unknown() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=10 * HOUR)
    with pytest.raises(Unknown, match="profile"):
        await place_session_hold(w.services, replace(order(project), application="shell"))


async def test_somebody_whom_the_hub_has_not_registered_is_unknown() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=10 * HOUR)
    with pytest.raises(Unknown, match="person"):
        await place_session_hold(w.services, replace(order(project), actor="nobody"))


async def test_a_session_row_that_a_crash_left_out_is_made_by_the_replay() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=10 * HOUR)
    await placed(w, order(project))
    w.books.sessions.clear()
    await placed(w, order(project))
    assert w.books.sessions[HOLD].terms.runtime_s == 3600


async def test_a_replay_after_the_end_answers_with_the_closed_hold() -> None:
    w = world()
    project = w.project(w.person("pi"), gpu_ms=10 * HOUR)
    await placed(w, order(project))
    await w.ledger.release(HOLD, w.clock.now(), "test")
    assert (await placed(w, order(project))).hold.state is HoldState.RELEASED
