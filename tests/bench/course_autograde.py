"""Autograding's throughput: `nbgrader autograde` for a whole class in one command, plain, in cages and in containers, each run paid for.

Invariant: the same submissions, the same command; its whole time counts, from its process's start to its end, and every grade and hold is
looked at afterwards. The ways alternate within a round, and the ratio of each round counts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.course_grading import Figures, ratios
from tests.bench.course_site import GradingSite
from tests.integration.exchange_process import ExchangeProcess, student
from tests.integration.hostile_submissions import RIGHT
from tests.integration.paid_course import PaidCourse, local_grading

STUDENTS, ROUNDS = 8, 5
POINTS = 9


def measure(folder: Path, site: GradingSite | None, rounds: int = ROUNDS) -> Figures:
    """`plain_s` of a submission, `caged` and, with a site, `contained` as multiples of it: medians of the rounds."""
    exchange = ExchangeProcess(folder / "portal", STUDENTS)
    exchange.folder.mkdir(parents=True)
    exchange.start()
    try:
        caged = _course(exchange, PaidCourse(exchange, folder / "caged", local_grading(exchange.folder)))
        courses = {"caged": caged}
        if site is not None:
            courses["contained"] = _course(site.exchange, PaidCourse(site.exchange, folder / "contained", site.grading))
        plain = _plain(caged, folder / "plain")
        ways: dict[str, Callable[[], subprocess.Popen[bytes]]] = {"plain": lambda: _start_plain(plain.course)}
        ways |= {name: course.autograding for name, course in courses.items()}
        for way in ways.values():
            _each_s(way)  # whatever is loaded once
        found = [{name: _each_s(way) for name, way in ways.items()} for _ in range(rounds)]
        for course in (plain, *courses.values()):
            assert [course.score(student(number)) for number in range(STUDENTS)] == [POINTS] * STUDENTS
        for course in courses.values():
            course.until_closed()
            settled = [one for one in course.holds() if one.state == "settled" and one.charged > 0]
            assert len(settled) >= STUDENTS * (rounds + 1), course.holds()
    finally:
        exchange.kill()
    return ratios(found)


def _course(exchange: ExchangeProcess, course: PaidCourse) -> PaidCourse:
    course.cell_s = 30
    course.prepare()
    for number in range(STUDENTS):
        course.submit(number, RIGHT)
    course.collect()
    return course


def _plain(like: PaidCourse, folder: Path) -> PaidCourse:
    """The same course for an nbgrader that knows nothing of the portal."""
    shutil.copytree(like.course, folder)
    config = folder / "nbgrader_config.py"
    config.write_text(config.read_text().replace(str(like.course), str(folder)))
    return PaidCourse(like.exchange, folder, {})


def _start_plain(course: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "nbgrader", "autograde", "ps1", "--force", "--create"]
    environment = {**os.environ, "JUPYTER_DATA_DIR": str(course / "jupyter")}
    with (course / "autograde.log").open("wb") as log:
        return subprocess.Popen(argv, cwd=course, env=environment, stdout=log, stderr=log)


def _each_s(start: Callable[[], subprocess.Popen[bytes]]) -> float:
    """Seconds a submission."""
    began = time.monotonic()
    process = start()
    assert process.wait(600) == 0, process.args
    return (time.monotonic() - began) / STUDENTS
