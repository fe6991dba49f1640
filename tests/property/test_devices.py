"""Devices against a small model: whatever starts and ends in whatever order, nothing is ever out twice."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from spawners.devices import Busy, Device, Grant, Wish, choose, conflicts

WHOLE = [Device(f"GPU-{number}", "a100") for number in range(4)]
SLICES = [Device(f"MIG-{number}", "a100-slice", parent="GPU-3") for number in range(3)]
OTHERS = [Device(f"vendor.example/gpu=GPU-{number}", "l4") for number in range(2)]
INVENTORY = [*WHOLE, *SLICES, *OTHERS]

wishes = st.builds(
    Wish, st.sampled_from(["a100", "a100-slice", "l4"]), st.integers(0, 5), st.sampled_from([1, 1, 1, 2, 3])
)
# A step is a start with a wish, or the end of the session at this place in the list of those that run.
steps = st.lists(st.one_of(wishes, st.integers(0, 10)), max_size=40)


def run(story: list[Wish | int]) -> list[Grant]:
    held: list[Grant] = []
    for step in story:
        if isinstance(step, int):
            if held:
                held.pop(step % len(held))
            continue
        chosen = choose(INVENTORY, held, step)
        if not isinstance(chosen, Busy):
            held.append(Grant(frozenset(one.id for one in chosen), step.sharing))
    return held


@given(steps)
def test_a_device_is_never_given_to_more_sessions_than_each_of_them_tolerates(story: list[Wish | int]) -> None:
    held = run(story)
    load = Counter(id_ for grant in held for id_ in grant.ids)
    for grant in held:
        assert all(load[id_] <= grant.sharing for id_ in grant.ids)


@given(steps)
def test_a_whole_gpu_and_its_slices_are_never_out_together(story: list[Wish | int]) -> None:
    out = {id_ for grant in run(story) for id_ in grant.ids}
    assert not ("GPU-3" in out and any(one.id in out for one in SLICES))


@given(steps, wishes)
def test_a_choice_is_exactly_what_was_wished_and_nobody_elses(story: list[Wish | int], wish: Wish) -> None:
    held = run(story)
    chosen = choose(INVENTORY, held, wish)
    if isinstance(chosen, Busy):
        assert chosen.free < chosen.wanted == wish.count
        return
    ids = frozenset(one.id for one in chosen)
    assert len(ids) == wish.count
    assert all(one.hardware == wish.hardware for one in chosen)
    assert conflicts(ids, INVENTORY, held, wish.sharing) == frozenset()
    assert choose(INVENTORY, held, wish) == chosen


@given(st.lists(st.integers(1, 100), min_size=4, max_size=4), st.integers(1, 4))
def test_the_expected_time_is_the_first_at_which_enough_are_free(ends: list[int], count: int) -> None:
    held = [Grant(frozenset({one.id}), 1, end) for one, end in zip(WHOLE, ends, strict=True)]
    busy = choose(WHOLE, held, Wish("a100", count))
    assert isinstance(busy, Busy)
    assert busy.expected_at_ms == sorted(ends)[count - 1]
