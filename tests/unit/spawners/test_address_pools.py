"""Hundreds of sessions fit the address pools that the documentation tells a host to have; Docker's own end at 31."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from spawners.address_pools import DOCKERS_OWN, sessions_that_fit
from tests.engine.engine import POOLS
from tests.portal import ROOT


def documented() -> list[dict[str, Any]]:
    """The pools of the daemon.json in docs/howto/containers.md."""
    found = re.search(r"```json\n(.*?)```", (ROOT / "docs/howto/containers.md").read_text(), re.DOTALL)
    assert found is not None
    pools: list[dict[str, Any]] = json.loads(found[1])["default-address-pools"]
    return pools


def test_the_documented_pools_are_those_of_the_tests_engine_and_hold_4096_sessions() -> None:
    assert documented() == POOLS
    assert sessions_that_fit([{"Base": one["base"], "Size": one["size"]} for one in POOLS]) == 4096


@pytest.mark.parametrize(
    ("pools", "fit"),
    [
        (None, DOCKERS_OWN),
        ([], DOCKERS_OWN),
        ([{"Base": "10.0.0.0/8", "Size": 24}], 65_536),
        ([{"Base": "10.0.0.0/24", "Size": 30}, {"Base": "10.0.1.0/24", "Size": 28}], 64 + 16),
        ([{"Base": "10.0.0.0/24", "Size": 31}], 0),
        ([{"Base": "10.0.0.0/24", "Size": 16}], 0),
        ([{"Base": "fd00::/48", "Size": 64}], 0),
    ],
)
def test_bridges_are_counted_by_their_prefix(pools: list[dict[str, Any]] | None, fit: int) -> None:
    assert sessions_that_fit(pools) == fit


def test_what_is_no_pool_is_an_error() -> None:
    with pytest.raises(ValueError):
        sessions_that_fit([{"Base": "nowhere", "Size": 28}])
