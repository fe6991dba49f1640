"""Units, rates, payers, ids, states."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction

import pytest

from quota.domain import application, hold, session
from quota.domain.errors import InvariantBroken
from quota.domain.hold import body_hash
from quota.domain.ids import AllocationId, ProjectId, is_id, new_id, new_ordered_id
from quota.domain.project import Allocation, AllocationState, payer
from quota.domain.rates import charge_due, hold_amount, longest_runtime_s
from quota.domain.session import SessionTerms
from quota.domain.units import Balance, Unit, gpu_hours_text, gpu_hours_to_ms

NOW = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)


def allocation(
    name: str, *, awarded: int = 100, starts: int = -1, ends: int = 1, unit: Unit = Unit.GPU_MS, frozen: bool = False
) -> Allocation:
    return Allocation(
        AllocationId(name),
        ProjectId("project-1"),
        NOW + starts * DAY,
        NOW + ends * DAY,
        suspended=False,
        frozen=frozen,
        balance=Balance(unit, awarded, 0, 0),
    )


@pytest.mark.parametrize(
    ("text", "ms"), [("2", 7_200_000), ("0.5", 1_800_000), (" 1 ", 3_600_000), ("1e2", 360_000_000), ("-1", -3_600_000)]
)
def test_gpu_hours_are_read_as_typed(text: str, ms: int) -> None:
    assert gpu_hours_to_ms(text) == ms


@pytest.mark.parametrize("text", ["", " ", "１", "1_000", "nan", "inf", "1e99", "two", "0x10", "1,5"])
def test_what_is_no_decimal_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        gpu_hours_to_ms(text)


def test_gpu_hours_are_shown_with_two_decimals_and_separated_thousands() -> None:
    assert gpu_hours_text(3_600_000_000) == "1,000.00"


def test_a_hold_rounds_up_and_a_charge_down() -> None:
    assert hold_amount(Fraction(1, 7), 1, 1, 0) == 143
    assert charge_due(Fraction(1, 7), 1, 1000, 0) == 142


def test_slices_cannot_drift() -> None:
    charged = 0
    for elapsed_ms in range(0, 1001, 7):
        charged += charge_due(Fraction(1, 3), 1, elapsed_ms, charged)
    assert charged == 994 // 3


def test_more_charged_than_used_is_a_broken_promise() -> None:
    with pytest.raises(InvariantBroken):
        charge_due(Fraction(1), 1, 10, 11)


def test_what_fits_really_fits() -> None:
    for available in range(0, 500_000, 777):
        fits = longest_runtime_s(Fraction(2, 3), 2, available, 120)
        if fits is not None:
            assert hold_amount(Fraction(2, 3), 2, fits, 120) <= available
            assert hold_amount(Fraction(2, 3), 2, fits + 1, 120) > available


def test_the_payer_is_the_allocation_that_ends_first_among_those_that_can_carry_it() -> None:
    soon, late = allocation("soon", ends=1), allocation("late", ends=9)
    assert payer([late, soon], Unit.GPU_MS, 100, NOW) is soon


def test_the_payer_of_too_much_is_the_one_with_the_most_left() -> None:
    small, large = allocation("small", awarded=10), allocation("large", awarded=50, ends=9)
    assert payer([small, large], Unit.GPU_MS, 100, NOW) is large


@pytest.mark.parametrize(
    "other",
    [
        allocation("frozen", frozen=True),
        allocation("later", starts=1, ends=2),
        allocation("over", starts=-2, ends=0),
        allocation("tokens", unit=Unit.TOKENS),
    ],
)
def test_what_is_frozen_not_begun_over_or_in_another_unit_never_pays(other: Allocation) -> None:
    assert payer([other], Unit.GPU_MS, 1, NOW) is None


def test_an_allocation_is_half_open() -> None:
    one = allocation("one", starts=0, ends=1)
    assert one.state_at(one.starts_at) is AllocationState.ACTIVE
    assert one.state_at(one.ends_at) is AllocationState.EXPIRED


def test_balances_of_different_units_do_not_add() -> None:
    with pytest.raises(ValueError):
        Balance(Unit.GPU_MS, 1, 0, 0) + Balance(Unit.TOKENS, 1, 0, 0)


@pytest.mark.parametrize(
    "text", ["short", "Has-Upper", "under_score", "-dash-1st", "a" * 65, "spa ce12", "line\n1234", "１２３４５６７８"]
)
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)


def test_fresh_ids_are_ids() -> None:
    assert is_id(new_id())


def test_a_bodys_fingerprint_does_not_depend_on_key_order() -> None:
    assert body_hash({"a": 1, "b": "é"}) == body_hash({"b": "é", "a": 1})
    assert body_hash({"a": 1}) != body_hash({"a": "1"})


def test_a_sessions_terms_survive_their_hold_exactly() -> None:
    terms = SessionTerms("gpu1", "lab", "gpu", 1, Fraction(1, 3), 60, 120, "", "pi")
    assert SessionTerms.from_details(terms.as_details()) == terms


@pytest.mark.parametrize("module", [application, hold, session])
def test_every_state_has_its_line_in_the_transition_table(module: object) -> None:
    table: dict[StrEnum, frozenset[StrEnum]] = module.TRANSITIONS  # type: ignore[attr-defined]
    states = set(type(next(iter(table))))
    assert set(table) == states
    assert all(targets <= states for targets in table.values())


def test_ordered_ids_sort_by_the_time_of_their_making_and_none_comes_twice() -> None:
    made = [new_ordered_id() for _ in range(20_000)]
    assert len(set(made)) == len(made)
    assert all(is_id(one) for one in made)
    milliseconds = [one[:12] for one in made]
    assert milliseconds == sorted(milliseconds)
    assert milliseconds[-1] > milliseconds[0]
