"""Which GPUs a session gets, case by case."""

from __future__ import annotations

import pytest

from spawners.devices import Busy, Device, Grant, Wish, choose, conflicts

FOUR = [Device(f"GPU-{number}", "a100") for number in range(4)]


def grant(*ids: str, sharing: int = 1, ends_at_ms: int | None = None) -> Grant:
    return Grant(frozenset(ids), sharing, ends_at_ms)


def test_free_devices_are_taken_in_the_inventorys_order() -> None:
    assert choose(FOUR, [grant("GPU-1")], Wish("a100", 2)) == (FOUR[0], FOUR[2])


def test_the_fifth_is_told_how_many_are_free_and_when_one_will_be() -> None:
    held = [grant(f"GPU-{number}", ends_at_ms=1000 + number) for number in range(4)]
    assert choose(FOUR, held, Wish("a100", 1)) == Busy(1, 4, 0, 1000)


def test_more_than_the_host_has_is_never_free() -> None:
    assert choose(FOUR, [], Wish("a100", 5)) == Busy(5, 4, 4, None)


def test_a_profile_that_shares_fills_shared_devices_first() -> None:
    held = [grant("GPU-2", sharing=2)]
    assert choose(FOUR, held, Wish("a100", 1, sharing=2)) == (FOUR[2],)


def test_a_session_that_does_not_share_keeps_its_device_from_one_that_would() -> None:
    assert choose(FOUR[:1], [grant("GPU-0")], Wish("a100", 1, sharing=4)) == Busy(1, 1, 0, None)


def test_an_unknown_device_is_a_conflict() -> None:
    assert conflicts(frozenset({"GPU-9", "GPU-0"}), FOUR, [], 1) == {"GPU-9"}


def test_devices_that_left_the_inventory_hinder_nobody() -> None:
    assert choose(FOUR[:1], [grant("GPU-gone")], Wish("a100", 1)) == (FOUR[0],)


def test_nonsense_raises() -> None:
    with pytest.raises(ValueError):
        choose(FOUR, [], Wish("a100", -1))
    with pytest.raises(ValueError):
        choose(FOUR, [], Wish("a100", 1, sharing=0))
