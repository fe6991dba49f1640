"""A course on a whole portal whose sessions and runs are containers: a student's notebook lists, fetches and submits, an instructor autogrades."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawners import container_spec as spec
from spawners import grading_spec
from tests.engine.container_portal import ContainerPortal
from tests.engine.engine import Engine
from tests.engine.images import Images
from tests.integration.autograded import (
    autograded,
    charged_of,
    collected,
    graded_through_a_kill,
    grades_of,
    stored,
    submitted_through_a_kill,
)
from tests.integration.students_view import sees_what_students_use
from tests.people import Kernel, Person
from tests.waiting import PATIENCE_S, eventually

WORK = """
import json, os, subprocess
def nbgrader(*words):
    done = subprocess.run(['nbgrader', *words], capture_output=True, text=True, cwd=os.environ['HOME'])
    return done.stdout + done.stderr
listed = nbgrader('list', '--course=example')
fetched = nbgrader('fetch_assignment', 'ps1', '--course=example')
sent = nbgrader('submit', 'ps1', '--course=example')
print(json.dumps([listed, fetched, sent, os.environ['COMMONS_COURSE'], os.environ['JUPYTER_CONFIG_PATH']]))
"""

RUNS = f"{spec.PROFILE}={grading_spec.PROFILE}"
KILLS = 2
pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]  # a portal of its own


@pytest.fixture(scope="module")
def running(inside: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerPortal]:
    one = ContainerPortal(inside, images.base(), model=False, options=["--demo-course"])
    try:
        portal = one.up(tmp_path_factory.mktemp("course") / "data")
        yield one
        assert portal.down() == 0
    finally:
        one.stop()


async def test_a_student_in_a_container_hands_in_and_the_run_that_grades_it_is_a_container_that_the_course_pays(
    running: ContainerPortal,
) -> None:
    portal = running.portal
    assert portal is not None
    async with Person(portal, "instructor") as teacher, Person(portal, "student1") as student:
        _, listed = await student.api("GET", "/projects")
        await student.start(listed["projects"][0]["project_id"], profile="cpu")
        said, fetched, sent, course, view = json.loads(await (await Kernel(student).open()).run(WORK))
        assert ["example", "ps1"] in [line.split()[-2:] for line in said.splitlines()], said
        assert "Fetched as: example ps1" in fetched, fetched
        assert "Submitted as: example ps1" in sent, sent
        assert (course, view) == ("example", "/opt/commons/share/commons/without_teaching")
        await sees_what_students_use(student, "example")
        await student.stop()

        async def teaches() -> bool:
            _, user = await teacher.hub("GET", "/users/instructor")
            return "formgrade-example" in user["groups"]

        await eventually(teaches, within_s=PATIENCE_S, what="the instructor is in the teachers' group")
        paid = await autograded(teacher, "example", "student1")
        filters = {"event": ["start", "die"], "label": f"{spec.HOLD}={paid['hold_id']}"}
        events = running.client.events(since=0, until=int(time.time()) + 1, filters=filters, decode=True)
        at_ms = {event["Action"]: int(event["timeNano"]) // 10**6 for event in events}
        assert abs(paid["charged"] * 50 - (at_ms["die"] - at_ms["start"])) <= running.told_later_ms + 50


@pytest.mark.parametrize("victim", ["formgrader", "hub", "exchange"])
async def test_a_kill_while_a_run_is_a_container_leaves_none_over_and_each_is_paid_once(
    running: ContainerPortal, tmp_path: Path, victim: str
) -> None:
    portal = running.portal
    assert portal is not None
    async with Person(portal, "instructor") as teacher, Person(portal, "student2") as student:
        before = await stored(teacher, "example", "student2")
        receipt = await submitted_through_a_kill(student, "example", tmp_path / "pending", victim)
        await collected(teacher, "example")
        for _ in range(KILLS):
            await graded_through_a_kill(teacher, "example", "student2", victim, lambda: live_runs(running))
        mine = (receipt["upload_id"], receipt["at"], receipt["sha256"])
        assert await stored(teacher, "example", "student2") == [*before, mine]
        assert await grades_of(teacher, "example", "student2") == [(True, 0)]

        async def all_paid() -> bool:
            charged, lived_ms = await charged_of(teacher, "example"), lives(running)
            paid = {hold: milli * 50 for hold, milli in charged.items() if milli}
            late_ms = running.told_later_ms + 50
            return set(paid) == set(lived_ms) and all(abs(ms - lived_ms[hold]) <= late_ms for hold, ms in paid.items())

        await eventually(
            all_paid, within_s=PATIENCE_S, what="every container is paid once, by the engine's start and end"
        )

        async def none_over() -> bool:
            return not running.client.containers.list(all=True, ignore_removed=True, filters={"label": RUNS})

        await eventually(none_over, within_s=PATIENCE_S, what="no run's container is left")


def live_runs(running: ContainerPortal) -> set[str]:
    listed = running.client.containers.list(ignore_removed=True, filters={"label": RUNS})
    return {one.labels[spec.HOLD] for one in listed}


def lives(running: ContainerPortal) -> dict[str, int]:
    """From the engine's start to its end of every run's container since this portal began, in milliseconds."""
    found: dict[str, dict[str, int]] = {}
    filters = {"event": ["start", "die"], "label": RUNS}
    for event in running.client.events(since=running.began_s, until=int(time.time()) + 1, filters=filters, decode=True):
        hold_id = event["Actor"]["Attributes"][spec.HOLD]
        found.setdefault(hold_id, {})[event["Action"]] = int(event["timeNano"]) // 10**6
    return {hold_id: at["die"] - at["start"] for hold_id, at in found.items() if len(at) == 2}
