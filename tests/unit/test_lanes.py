"""Every test belongs to exactly one suite, a failure is seen, and lanes side by side leave nothing out and start one engine at a time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests import lanes

TESTS = Path(__file__).resolve().parent.parent
QUIET = ["-p", "no:cacheprovider"]


def suites_of(path: Path) -> list[str]:
    def under(patterns: tuple[str, ...]) -> bool:
        return any(path.is_relative_to(TESTS.parent / place) for place in lanes.found(TESTS.parent, patterns))

    return [one.name for one in lanes.SUITES if under(one.paths) and not under(one.ignored)]


def test_every_file_of_tests_is_in_exactly_one_suite() -> None:
    found = {path: suites_of(path) for path in TESTS.rglob("test_*.py")}
    assert found
    assert not {str(path): names for path, names in found.items() if len(names) != 1}


def test_every_part_has_a_suite_and_every_pattern_names_something() -> None:
    assert {one.part for one in lanes.SUITES} == set(lanes.PARTS)
    for suite in lanes.SUITES:
        assert all(lanes.found(TESTS.parent, [one]) for one in (*suite.paths, *suite.ignored)), suite.name


def test_what_imports_the_engines_fixtures_is_in_a_suite_that_takes_the_engine() -> None:
    users = {path for path in TESTS.rglob("conftest.py") if "tests.engine.fixtures" in path.read_text()}
    assert users
    taking = {TESTS.parent / place for one in lanes.SUITES if one.engine for place in one.paths}
    assert {path.parent for path in users} == taking


def test_suites_run_side_by_side_and_a_failing_one_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_well.py").write_text("def test_it(): pass\n")
    (tmp_path / "test_ill.py").write_text("def test_it(): assert False\n")
    two = [lanes.Suite("good", "unit", ("test_w*.py",)), lanes.Suite("bad", "browser", ("test_ill.py",))]
    results = lanes.Run(tmp_path, QUIET, os.environ, two).parts(["unit", "browser"])
    assert {one.suite.name: one.well for one in results} == {"good": True, "bad": False}
    printed = capfd.readouterr().out
    assert "good | 1 passed" in printed
    assert "bad | FAILED" in printed
    assert [one.failures for one in results if not one.well] == [("FAILED test_ill.py::test_it - assert False",)]


def test_suites_with_the_engine_run_one_after_the_other(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / f"test_{name}.py").write_text(
            "import os\ndef test_it():\n    os.mkdir('engine')\n    os.rmdir('engine')\n"
        )
    two = [lanes.Suite(name, "unit", (f"test_{name}.py",), engine=True) for name in ("one", "other")]
    began_s = time.monotonic()
    results = lanes.Run(tmp_path, QUIET, os.environ, two).parts(["unit"])
    assert [one.well for one in results] == [True, True]
    assert sum(one.took_s for one in results) <= time.monotonic() - began_s
