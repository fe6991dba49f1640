"""What a benchmark prints."""

from __future__ import annotations

import json

from tests.bench.result import BenchResult, Better, Goal


def test_a_goal_is_met_at_its_very_value_in_either_direction() -> None:
    assert Goal("warm_s", 20.0, 20.0, Better.LOWER).met
    assert not Goal("warm_s", 20.1, 20.0, Better.LOWER).met
    assert Goal("rate_per_s", 20.0, 20.0, Better.HIGHER).met
    assert not Goal("rate_per_s", 19.9, 20.0, Better.HIGHER).met


def test_the_line_is_one_json_object_with_the_goals_and_figures() -> None:
    result = BenchResult("startup", [Goal("warm_s", 5.5, 20.0, Better.LOWER)], {"stop_s": 2.0})
    assert "\n" not in result.line()
    assert json.loads(result.line()) == {
        "bench": "startup",
        "goals": [{"name": "warm_s", "value": 5.5, "goal": 20.0, "better": "lower", "met": True}],
        "figures": {"stop_s": 2.0},
    }


def test_one_missed_goal_is_a_missed_benchmark() -> None:
    goals = [Goal("a_s", 1, 2, Better.LOWER), Goal("b_s", 3, 2, Better.LOWER)]
    result = BenchResult("x", goals)
    assert not result.met
    assert "MISSED" in result.table()
