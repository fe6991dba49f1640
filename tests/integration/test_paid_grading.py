"""Autograding that the course pays for, in cages of this machine, through nbgrader itself: hostile answers, an empty allocation, kill -9."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
from collections.abc import Iterator

import pytest
from commons_exchange.portal import Portal

from tests.integration.exchange_process import AWARD, ExchangeProcess
from tests.integration.hostile_submissions import HOSTILE, RIGHT, score_only_what_is_right
from tests.integration.paid_course import PaidCourse, local_grading

# By default a whole portal autogrades once (test_hub_courses), hostile code meets the cage (test_caged_grading) and a container (containers/test_grading).
pytestmark = pytest.mark.full
NAMES = tuple(HOSTILE)
KILLS = 20
MARGIN_MS = 90_000


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaidCourse]:
    """A portal with a released assignment; runs may take 30 s. Each test has students of its own, and looks at its own runs."""
    tmp_path = tmp_path_factory.mktemp("paid")
    exchange = ExchangeProcess(tmp_path / "portal", 24)
    exchange.folder.mkdir()
    exchange.start()
    try:
        yield PaidCourse(exchange, tmp_path / "course", local_grading(exchange.folder)).prepare()
    finally:
        exchange.kill()


def runs(room: PaidCourse) -> dict[str, int]:
    """What each run's runner wrote down, in milliseconds."""
    found = {}
    for path in (room.exchange.folder / "sessions").glob("*/record.json"):
        record = json.loads(path.read_text())
        end = record["ended_at_ms"] if record["ended_at_ms"] is not None else record["last_alive_ms"]
        found[path.parent.name] = end - record["started_at_ms"]
    return found


@pytest.mark.timeout(120 + 120 * len(NAMES))
def test_hostile_answers_score_nothing_and_cost_no_more_than_their_limit_while_others_are_graded(
    room: PaidCourse,
) -> None:
    before = {one.id for one in room.holds()}
    score_only_what_is_right(room, NAMES, listens_on="127.0.0.1")
    room.until_closed()
    held = [one for one in room.holds() if one.id not in before]
    assert [one.state for one in held] == ["settled"] * (len(NAMES) + 1)
    took_ms = runs(room)
    assert {one.id: one.charged for one in held} == {one.id: took_ms[one.id] for one in held}
    assert all(0 < one.charged <= one.amount == 30_000 + MARGIN_MS for one in held)
    assert room.verified() == []


def test_a_course_that_can_pay_for_no_run_is_told_so_and_nobody_is_graded(room: PaidCourse) -> None:
    name, before, ran = room.submit(20, RIGHT), room.holds(), runs(room)
    room.collect()
    room.exchange.kill()
    room.exchange.runtime_s = AWARD  # a run for which more would be set aside than the course has
    room.exchange.start()
    try:
        done = room.autograde(name)
    finally:
        room.exchange.kill()
        room.exchange.runtime_s = 30
        room.exchange.start()
    assert not done["success"]
    assert re.search(r"sets 1,000\.0. GPU-h aside, and physics has [01]\.\d\d GPU-h left", done["log"]), done["log"]
    assert "Nothing was executed" in done["log"]
    assert "Ask for more on the project's page" in done["log"]
    assert not (room.course / "autograded" / name / "ps1").exists()
    assert runs(room) == ran
    assert room.holds() == before


@pytest.mark.timeout(120 + 120 * KILLS)
def test_through_kills_of_exchange_and_grader_every_submission_is_graded_once_and_every_run_paid_once(
    room: PaidCourse,
) -> None:
    before = {one.id for one in room.holds()}
    names = [room.submit(number, RIGHT) for number in (21, 22, 23)]
    room.collect()
    dice = random.Random(9)
    for turn in range(KILLS):
        grading = room.autograding(names[turn % len(names)])
        with contextlib.suppress(subprocess.TimeoutExpired):
            grading.wait(dice.uniform(1.0, 5.0))
        if turn % 3 != 1:
            grading.kill()
        if turn % 3 != 0:
            room.exchange.kill()
            room.exchange.start()
        grading.kill()
        grading.wait()
    for name in names:
        done = room.autograde(name)
        assert done["success"], done["log"]
    assert [room.score(name) for name in names] == [9] * len(names)
    room.until_closed()
    mine = [one for one in room.holds() if one.id not in before]
    assert {one.id: one.charged for one in mine if one.state == "settled"} == {
        hold_id: took_ms for hold_id, took_ms in runs(room).items() if hold_id not in before
    }
    assert all(one.charged == 0 for one in mine if one.state != "settled")
    assert room.verified() == []
    teacher = Portal(room.exchange.url, "token-of-pi", room.course / "pending")
    listed = teacher.json("GET", "/courses/physics/submissions")["submissions"]
    assert {one["student"]: one["submission_id"] for one in listed} == {
        name: receipt["upload_id"] for name, receipt in room.receipts.items()
    }
    assert all(one["sha256"] == room.receipts[one["student"]]["sha256"] for one in listed)
