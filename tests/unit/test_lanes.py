"""Every test belongs to exactly one suite, a failure is seen, and two lanes leave nothing out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import lanes

TESTS = Path(__file__).resolve().parent.parent


def suites_of(path: Path) -> list[str]:
    def under(places: tuple[str, ...]) -> bool:
        return any(path.is_relative_to(TESTS.parent / place) for place in places)

    return [one.name for lane in lanes.LANES for one in lane if under(one.paths) and not under(one.ignored)]


def test_every_file_of_tests_is_in_exactly_one_suite() -> None:
    found = {path: suites_of(path) for path in TESTS.rglob("test_*.py")}
    assert found
    assert not {str(path): names for path, names in found.items() if len(names) != 1}


def test_every_part_has_a_suite() -> None:
    assert {one.part for lane in lanes.LANES for one in lane} == set(lanes.PARTS)


def test_two_lanes_run_side_by_side_and_a_failing_suite_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    well, ill = tmp_path / "test_well.py", tmp_path / "test_ill.py"
    well.write_text("def test_it(): pass\n")
    ill.write_text("def test_it(): assert False\n")
    two = ((lanes.Suite("good", "unit", (str(well),)),), (lanes.Suite("bad", "browser", (str(ill),)),))
    results = lanes.Run(tmp_path, ["-p", "no:cacheprovider"], os.environ, two).parts(["unit", "browser"])
    assert {one.suite.name: one.well for one in results} == {"good": True, "bad": False}
    printed = capfd.readouterr().out
    assert "good | 1 passed" in printed
    assert "bad | FAILED" in printed
