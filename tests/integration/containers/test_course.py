"""A course on a whole portal whose sessions and runs are containers: a student's notebook lists, fetches and submits, an instructor autogrades."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from spawners import container_spec as spec
from tests.engine.container_portal import ContainerPortal
from tests.engine.engine import Engine
from tests.engine.images import Images
from tests.integration.autograded import autograded
from tests.people import Kernel, Person
from tests.waiting import eventually

WORK = """
import json, os, subprocess
def nbgrader(*words):
    done = subprocess.run(['nbgrader', *words], capture_output=True, text=True, cwd=os.environ['HOME'])
    return done.stdout + done.stderr
listed = nbgrader('list', '--course=example')
fetched = nbgrader('fetch_assignment', 'ps1', '--course=example')
sent = nbgrader('submit', 'ps1', '--course=example')
print(json.dumps([listed, fetched, sent, os.environ['COMMONS_COURSE'], 'JUPYTER_CONFIG_PATH' in os.environ]))
"""

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
        said, fetched, sent, course, quiet = json.loads(await (await Kernel(student).open()).run(WORK))
        assert ["example", "ps1"] in [line.split()[-2:] for line in said.splitlines()], said
        assert "Fetched as: example ps1" in fetched, fetched
        assert "Submitted as: example ps1" in sent, sent
        assert (course, quiet) == ("example", False)
        await student.stop()

        async def teaches() -> bool:
            _, user = await teacher.hub("GET", "/users/instructor")
            return "formgrade-example" in user["groups"]

        await eventually(teaches, within_s=60, what="the instructor is in the teachers' group")
        paid = await autograded(teacher, "example", "student1")
        filters = {"event": ["start", "die"], "label": f"{spec.HOLD}={paid['hold_id']}"}
        events = running.client.events(since=0, until=int(time.time()) + 1, filters=filters, decode=True)
        at_ms = {event["Action"]: int(event["timeNano"]) // 10**6 for event in events}
        assert abs(paid["charged"] * 50 - (at_ms["die"] - at_ms["start"])) <= running.told_later_ms + 50
